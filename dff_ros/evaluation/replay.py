"""``dff_replay``: the engine over a recording, without ROS; figures as JSON, and a video to look at on demand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from tqdm import tqdm

from dff_ros.core.bundle import Card
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.schedule import FixedSchedule, Schedule, parse_schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.bag_output import BagOutput
from dff_ros.evaluation.cameras import Camera, open_cameras, topic_table
from dff_ros.evaluation.given_truth import open_truth, warn_unscored
from dff_ros.evaluation.html_report import HtmlReport
from dff_ros.evaluation.observer import Observer
from dff_ros.evaluation.options import PROPAGATION, engine_settings, parse_arguments
from dff_ros.evaluation.recorded_keys import SCHEDULE, RecordedKeys
from dff_ros.evaluation.report import build_report, input_figures, summary, write_report
from dff_ros.evaluation.run import KEY_DELAY, every_offset, lock_step
from dff_ros.evaluation.score_report import Report
from dff_ros.evaluation.trace import TraceFile
from dff_ros.evaluation.truth import Truth
from dff_ros.evaluation.video import OverlayVideo
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
    schedule = parse_schedule(settings.schedule, settings)
    interval = offset_interval(schedule, settings.schedule) if options.every_offset else None
    aside = settings.key_frames == "aside" or options.keys_from is not None
    if PROPAGATION in options.without and aside and interval is None:
        raise ValueError("--without propagation needs key_frames: blocking: a frame whose key is made aside has no answer of the key's own")
    cameras = open_cameras(options)
    model = load_model(settings, without=options.without - {PROPAGATION})
    for note in model.notes:
        print(f"dff_replay: {note}", file=sys.stderr)
    truths = [open_truth(camera.options, model.card) for camera in cameras]
    for camera in cameras:
        prepare_outputs(camera.options)
    reports: dict[str, Report] = {}
    with ExitStack() as outputs:
        bag = open_bag_output(options, cameras[0].recording, outputs)
        pages = [open_page(camera.options, model.card, settings, schedule) for camera in cameras]
        for camera, truth, page in zip(cameras, truths, pages, strict=True):
            watching: list[Observer] = [] if page is None else [page]
            watching += [] if bag is None else [bag.camera(camera.name, model.card, settings.score_threshold)]
            reports[camera.topic] = replay_camera(camera, model, settings, truth, watching, interval=interval)
            print("\n".join([*([camera.topic] if len(cameras) > 1 else []), summary(reports[camera.topic])]))
    write_report(options.json, {"cameras": reports} if len(cameras) > 1 else reports[cameras[0].topic])
    for camera, page in zip(cameras, pages, strict=True):
        if page is not None:
            page.write(reports[camera.topic], camera.recording, arguments=options.arguments)


def replay_camera(
    camera: Camera, model: LoadedModel, settings: EngineSettings, truth: Truth, watching: Sequence[Observer], *, interval: int | None
) -> Report:
    """Replay one stream; ``interval`` is l of ``fixed:l`` where every offset is wanted."""
    options, recording = camera.options, camera.recording
    recorded = None if options.keys_from is None else RecordedKeys(read_frame_info(options.keys_from, options.keys_topic))
    for note in truth.notes:
        print(f"dff_replay: {note}", file=sys.stderr)
    with ExitStack() as outputs:
        observers = [*watching, *open_outputs(options, recording.rate, model.card, settings, outputs)]
        frames = outputs.enter_context(tqdm(recording, total=len(recording) or None, unit="frame"))
        copy = PROPAGATION in options.without
        if interval is None:
            how = {"baseline": options.baseline, "copy_outputs": copy, "key_delay": options.key_delay or KEY_DELAY, "recorded": recorded}
            result = lock_step(frames, model, settings, truth, **how, observers=observers)
        else:
            result = every_offset(frames, model, settings, truth, interval=interval, copy_outputs=copy)
    if recorded is not None:
        print(f"dff_replay: {recorded.outcome()}", file=sys.stderr)
    report = build_report(result, schedule=settings.schedule if recorded is None else SCHEDULE, device=device_name(model))
    report["input"] = input_figures(recording)
    warn_unscored(report, options, truth)
    for note in notes_of(recording):
        print(f"dff_replay: {note}", file=sys.stderr)
    return report


def prepare_outputs(options: argparse.Namespace) -> None:
    """Make the folders of the outputs before the work is done, so that it is not done in vain."""
    for output in filter(None, (options.json, options.video_out, options.trace, options.html)):
        if output.is_dir():
            raise ValueError(f"{output} is a folder")
        output.parent.mkdir(parents=True, exist_ok=True)


def offset_interval(schedule: Schedule, name: str) -> int:
    """l of ``fixed:l``; raises ValueError for another schedule, which has no ages to go through."""
    if not isinstance(schedule, FixedSchedule):
        raise ValueError(f"--every-offset needs --schedule fixed:N, got {name!r}")
    return schedule.key_frame_interval


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


def open_page(options: argparse.Namespace, card: Card, settings: EngineSettings, schedule: Schedule) -> HtmlReport | None:
    """The HTML report, where it is asked for; raises ValueError where its libraries are missing."""
    if options.html is None:
        return None
    interval = schedule.key_frame_interval if isinstance(schedule, FixedSchedule) else None
    return HtmlReport(options.html, card=card, settings=settings, interval=interval)


def device_name(model: LoadedModel) -> str:
    """``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device)


if __name__ == "__main__":
    sys.exit(main())
