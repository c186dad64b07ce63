"""``dff_replay``: the engine over a recording, without ROS; figures as JSON, and a video to look at on demand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from dff_ros.core.bundle import Card
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.schedule import FixedSchedule, parse_schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.box_table import read_box_table
from dff_ros.evaluation.coco_truth import read_coco
from dff_ros.evaluation.drive_truth import drive_truth
from dff_ros.evaluation.fingerprint import InputHash, digest, provenance
from dff_ros.evaluation.html_report import HtmlReport
from dff_ros.evaluation.image_truth import LabelImages, MaskBoxes
from dff_ros.evaluation.latencies import read_latencies
from dff_ros.evaluation.modes import check_mode, clock_notes, evaluation_settings, is_repeatable, run_mode
from dff_ros.evaluation.observer import Observer
from dff_ros.evaluation.options import PROPAGATION, engine_settings, parse_arguments
from dff_ros.evaluation.recorded_keys import SCHEDULE, RecordedKeys
from dff_ros.evaluation.report import build_report, input_figures, summary, write_report
from dff_ros.evaluation.row_boxes import RowBoxes, of_the_model
from dff_ros.evaluation.score_report import Report
from dff_ros.evaluation.trace import TraceFile
from dff_ros.evaluation.truth import BoxSource, Truth
from dff_ros.evaluation.video import OverlayVideo
from dff_ros.recording.frame_info import read_frame_info
from dff_ros.recording.frames import Recording, select
from dff_ros.recording.opening import notes_of, open_recording


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
    settings = engine_settings(options)
    check_mode(options, settings)
    latencies = None if options.latencies is None else read_latencies(options.latencies)
    recording = open_input(options)
    infos = None if options.keys_from is None else read_frame_info(options.keys_from, options.keys_topic)
    recorded = None if infos is None else RecordedKeys(infos)
    model = load_model(settings, without=options.without - {PROPAGATION})
    truth = open_truth(options, model.card)
    for note in (*model.notes, *truth.notes, *clock_notes(options, settings)):
        print(f"dff_replay: {note}", file=sys.stderr)
    prepare_outputs(options)
    with ExitStack() as outputs:
        observers = open_outputs(options, recording.rate, model.card, settings, outputs)
        page = open_page(options, model.card, settings)
        observers += [page] if page else []
        frames = outputs.enter_context(tqdm(recording, total=len(recording) or None, unit="frame"))
        hashed = InputHash()
        result = run_mode(
            options, hashed.over(frames), model, settings, truth, latencies=latencies, recorded=recorded, observers=observers
        )
    if recorded is not None:
        print(f"dff_replay: {recorded.outcome()}", file=sys.stderr)
    report = build_report(result, schedule=settings.schedule if recorded is None else SCHEDULE, device=device_name(model))
    asked = evaluation_settings(options, result, None if infos is None else digest([asdict(info) for info in infos]))
    repeatable = is_repeatable(options, settings)
    report["provenance"] = provenance(hashed, model, settings, asked, latencies=latencies, repeatable=repeatable)
    report["input"] = input_figures(recording)
    warn_unscored(report, options, truth)
    for note in notes_of(recording):
        print(f"dff_replay: {note}", file=sys.stderr)
    write_report(options.json, report)
    if page is not None:
        page.write(report, recording, arguments=options.arguments)
    print(summary(report))


def prepare_outputs(options: argparse.Namespace) -> None:
    """Make the folders of the outputs before the work is done, so that it is not done in vain."""
    for output in filter(None, (options.json, options.video_out, options.trace, options.html)):
        if output.is_dir():
            raise ValueError(f"{output} is a folder")
        output.parent.mkdir(parents=True, exist_ok=True)


def open_input(options: argparse.Namespace) -> Recording:
    """The input, cut to ``--range``."""
    named = {"video": options.video, "frames": options.frames, "bag": options.bag}
    recording = open_recording(**named, drive=options.drive or 0, topic=options.topic, rate=options.rate, seed=options.seed or 0)
    return recording if options.range is None else select(recording, *options.range)


def open_truth(options: argparse.Namespace, card: Card) -> Truth:
    """The ground truth for the classes of a bundle."""
    if options.labels is not None and not card.segmentation_classes:
        raise ValueError(f"--labels: the bundle {card.name!r} has no segmentation")
    ignored = (*card.ignored_labels, *options.ignore)
    if options.drive is not None:
        return Truth(*drive_truth(card.segmentation_classes, card.detection_classes, ignored), card.detection_classes)
    labels = None if options.labels is None else LabelImages(options.labels, card.segmentation_classes, ignored)
    boxes: list[BoxSource] = [MaskBoxes(path, name) for path, name in options.box_masks]
    boxes += [table for path, name in options.boxes if name is not None for table in read_box_table(path, name)]
    several: list[tuple[Path, Sequence[RowBoxes]]] = [(path, read_box_table(path)) for path, name in options.boxes if name is None]
    several += [] if options.coco is None else [(options.coco, read_coco(options.coco))]
    notes = []
    for path, sources in several:
        known, note = of_the_model(sources, card.detection_classes, path)
        boxes += known
        notes += [note] if note else []
    return Truth(labels, boxes, card.detection_classes, notes)


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


def warn_unscored(report: Report, options: argparse.Namespace, truth: Truth) -> None:
    """Say so where truth was given and gave no score: most likely a wrong folder or range, or ids that tell no object apart."""
    boxes = [path for path, _ in (*options.boxes, *options.box_masks)]
    boxes += [] if options.coco is None else [options.coco]
    if options.labels is not None and report["segmentation"]["miou"] is None:
        _warn_unscored(options.labels, "no pixel of a frame is labelled there", "segmentation")
    if boxes and report["detection"]["map50"] is None:
        _warn_unscored(", ".join(map(str, boxes)), "no object of a frame is in there", "detection")
    for reason in truth.unusable_ids if options.every_offset else ():
        print(f"dff_replay: detection delay leaves out {reason}", file=sys.stderr)


def _warn_unscored(files: object, reason: str, task: str) -> None:
    print(f"dff_replay: nothing was scored with {files}: {reason}, or {task} is off", file=sys.stderr)


def device_name(model: LoadedModel) -> str:
    """``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device)


if __name__ == "__main__":
    sys.exit(main())
