"""``dff_replay``: the engine over a recording, without ROS; figures as JSON, and a video to look at on demand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict

import torch
from tqdm import tqdm

from dff_ros.core.bundle import Card
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.schedule import FixedSchedule, parse_schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.cameras import Camera, open_cameras, topic_table
from dff_ros.evaluation.fingerprint import InputHash, digest, provenance
from dff_ros.evaluation.ground_truth.given_truth import open_truth, warn_unscored
from dff_ros.evaluation.ground_truth.truth import Truth
from dff_ros.evaluation.latencies import Latencies, read_latencies
from dff_ros.evaluation.modes import check_mode, clock_notes, evaluation_settings, is_repeatable, run_mode
from dff_ros.evaluation.observer import Observer
from dff_ros.evaluation.options import PROPAGATION, engine_settings, parse_arguments
from dff_ros.evaluation.outputs.bag_output import BagOutput
from dff_ros.evaluation.outputs.html_report import HtmlReport
from dff_ros.evaluation.outputs.trace import TraceFile
from dff_ros.evaluation.outputs.video import OverlayVideo
from dff_ros.evaluation.recorded_keys import SCHEDULE, RecordedKeys
from dff_ros.evaluation.report import build_report, input_figures, summary, write_report
from dff_ros.evaluation.score_report import Report
from dff_ros.recording.frame_info import read_frame_info
from dff_ros.recording.frames import Recording
from dff_ros.recording.opening import bag_of, notes_of


def main(arguments: list[str] | None = None) -> int:
    """Run ``dff_replay``; returns the exit code: 2 for bad input, which is named in one line on stderr."""
    options = parse_arguments(arguments)
    try:
        replay(options)
    except (ValueError, OSError) as error:
        print(f"dff_replay: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def replay(options: argparse.Namespace) -> None:
    """Do what the command line asks; raises ValueError or OSError in one line."""
    if options.list_topics:
        print(topic_table(options.bag))
        return
    settings = engine_settings(options)
    check_mode(options, settings)
    latencies = None if options.latencies is None else read_latencies(options.latencies)
    cameras = open_cameras(options)
    model = load_model(settings, without=options.without - {PROPAGATION})
    _say(*model.notes, *clock_notes(options, settings))
    truths = [open_truth(camera.options, model.card) for camera in cameras]
    for camera in cameras:
        prepare_outputs(camera.options)
    reports: dict[str, Report] = {}
    with ExitStack() as outputs:
        bag = open_bag_output(options, cameras[0].recording, outputs)
        pages = [open_page(camera.options, model.card, settings) for camera in cameras]
        for camera, truth, page in zip(cameras, truths, pages, strict=True):
            watching: list[Observer] = [] if page is None else [page]
            watching += [] if bag is None else [bag.camera(camera.name, model.card, settings.score_threshold)]
            reports[camera.topic] = replay_camera(camera, model, settings, truth, latencies, watching)
            print("\n".join([*([camera.topic] if len(cameras) > 1 else []), summary(reports[camera.topic])]))
    write_report(options.json, {"cameras": reports} if len(cameras) > 1 else reports[cameras[0].topic])
    for camera, page in zip(cameras, pages, strict=True):
        if page is not None:
            page.write(reports[camera.topic], camera.recording, arguments=options.arguments)


def replay_camera(
    camera: Camera,
    model: LoadedModel,
    settings: EngineSettings,
    truth: Truth,
    latencies: Latencies | None,
    watching: Sequence[Observer],
) -> Report:
    """Replay one stream in the mode that the options name; ``watching`` are told of its frames beside the outputs of its own."""
    options, recording = camera.options, camera.recording
    infos = None if options.keys_from is None else read_frame_info(options.keys_from, options.keys_topic)
    recorded = None if infos is None else RecordedKeys(infos)
    _say(*truth.notes)
    with ExitStack() as outputs:
        observers = [*watching, *open_outputs(options, recording.rate, model.card, settings, outputs)]
        frames = outputs.enter_context(tqdm(recording, total=len(recording) or None, unit="frame"))
        hashed = InputHash()
        result = run_mode(
            options, hashed.over(frames), model, settings, truth, latencies=latencies, recorded=recorded, observers=observers
        )
    if recorded is not None:
        _say(recorded.outcome())
    report = build_report(result, schedule=settings.schedule if recorded is None else SCHEDULE, device=device_name(model))
    asked = evaluation_settings(options, result, None if infos is None else digest([asdict(info) for info in infos]))
    repeatable = is_repeatable(options, settings)
    report["provenance"] = provenance(hashed, model, settings, asked, latencies=latencies, repeatable=repeatable)
    report["input"] = input_figures(recording)
    warn_unscored(report, options, truth)
    _say(*notes_of(recording))
    return report


def _say(*notes: str) -> None:
    for note in notes:
        print(f"dff_replay: {note}", file=sys.stderr)


def prepare_outputs(options: argparse.Namespace) -> None:
    """Make the folders of the outputs before the work is done, so that it is not done in vain."""
    for output in filter(None, (options.json, options.video_out, options.trace, options.html)):
        if output.is_dir():
            raise ValueError(f"{output} is a folder")
        output.parent.mkdir(parents=True, exist_ok=True)


def open_bag_output(options: argparse.Namespace, recording: Recording, outputs: ExitStack) -> BagOutput | None:
    """The bag of ``--bag-out``, stored as the one that is read, or as MCAP; ``outputs`` closes it."""
    if options.bag_out is None:
        return None
    source = bag_of(recording)
    return outputs.enter_context(BagOutput(options.bag_out, storage="mcap" if source is None else source.bag.storage))


def open_outputs(
    options: argparse.Namespace, rate: float | None, card: Card, settings: EngineSettings, outputs: ExitStack
) -> list[Observer]:
    """What is written while the replay runs; ``outputs`` closes it."""
    observers: list[Observer] = []
    if options.video_out is not None:
        video = OverlayVideo(options.video_out, rate=rate, card=card, score_threshold=settings.score_threshold)
        observers.append(outputs.enter_context(video))
    if options.trace is not None:
        observers.append(outputs.enter_context(TraceFile(options.trace)))
    return observers


def open_page(options: argparse.Namespace, card: Card, settings: EngineSettings) -> HtmlReport | None:
    """The HTML report, where it is asked for; raises ValueError where its libraries are missing."""
    if options.html is None:
        return None
    schedule = parse_schedule(settings.schedule, settings)
    interval = schedule.key_frame_interval if isinstance(schedule, FixedSchedule) else None
    return HtmlReport(options.html, card=card, settings=settings, interval=interval)


def device_name(model: LoadedModel) -> str:
    """``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device)


if __name__ == "__main__":
    sys.exit(main())
