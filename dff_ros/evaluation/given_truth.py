"""The ground truth that a command line names, and a word where it was of no use."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dff_ros.core.bundle import Card
from dff_ros.evaluation.box_table import read_box_table
from dff_ros.evaluation.coco_truth import read_coco
from dff_ros.evaluation.drive_truth import drive_truth
from dff_ros.evaluation.image_truth import LabelImages, MaskBoxes
from dff_ros.evaluation.row_boxes import RowBoxes, of_the_model
from dff_ros.evaluation.score_report import Report
from dff_ros.evaluation.truth import BoxSource, Truth


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
