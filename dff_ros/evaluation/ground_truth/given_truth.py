"""The ground truth that a command line names, and a word where it was of no use."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dff_ros.core.bundle import Card
from dff_ros.evaluation.ground_truth.box_table import read_box_table
from dff_ros.evaluation.ground_truth.coco_truth import read_coco
from dff_ros.evaluation.ground_truth.drive_truth import drive_truth
from dff_ros.evaluation.ground_truth.image_truth import LabelImages, MaskBoxes
from dff_ros.evaluation.ground_truth.row_boxes import RowBoxes, of_the_model
from dff_ros.evaluation.ground_truth.topic_truth import TopicDetections, TopicLabels
from dff_ros.evaluation.ground_truth.truth import BoxSource, LabelSource, Truth
from dff_ros.evaluation.score_report import Report
from dff_ros.recording.bags import open_reader


def open_truth(options: argparse.Namespace, card: Card) -> Truth:
    """The ground truth for the classes of a bundle."""
    if options.labels is not None and not card.segmentation_classes:
        raise ValueError(f"--labels: the bundle {card.name!r} has no segmentation")
    ignored = (*card.ignored_labels, *options.ignore)
    if options.drive is not None:
        return Truth(*drive_truth(card.segmentation_classes, card.detection_classes, ignored), card.detection_classes)
    labels: LabelSource | None = None if options.labels is None else LabelImages(options.labels, card.segmentation_classes, ignored)
    topics = open_topics(options, card, ignored)
    labels = topics.labels or labels
    boxes: list[BoxSource] = [*topics.boxes]
    boxes += [MaskBoxes(path, name) for path, name in options.box_masks]
    boxes += [table for path, name in options.boxes if name is not None for table in read_box_table(path, name)]
    several: list[tuple[Path, Sequence[RowBoxes]]] = [(path, read_box_table(path)) for path, name in options.boxes if name is None]
    several += [] if options.coco is None else [(options.coco, read_coco(options.coco))]
    notes = []
    for path, sources in several:
        known, note = of_the_model(sources, card.detection_classes, path)
        boxes += known
        notes += [note] if note else []
    return Truth(labels, boxes, card.detection_classes, notes, topics.told)


@dataclass(frozen=True)
class TopicTruth:
    """Truth from the bag itself."""

    labels: TopicLabels | None
    detections: TopicDetections | None

    @property
    def boxes(self) -> Sequence[BoxSource]:
        """One source for each class."""
        return [] if self.detections is None else self.detections.sources

    def told(self) -> list[str]:
        """What turned up while it was read."""
        return [note for source in (self.labels, self.detections) if source is not None for note in source.notes]


def open_topics(options: argparse.Namespace, card: Card, ignored: Sequence[int]) -> TopicTruth:
    """The truth of one camera that ``--label-topic`` and ``--detection-topic`` name; raises TruthError for what does not fit."""
    if not options.label_topic and not options.detection_topic:
        return TopicTruth(None, None)
    bag = open_reader(options.bag)
    labels = detections = None
    for topic in options.label_topic:
        if not card.segmentation_classes:
            raise ValueError(f"--label-topic: the bundle {card.name!r} has no segmentation")
        labels = TopicLabels(bag, topic, card.segmentation_classes, ignored)
    for topic, classes in options.detection_topic:
        detections = TopicDetections(bag, topic, card.detection_classes, classes)
    return TopicTruth(labels, detections)


def warn_unscored(report: Report, options: argparse.Namespace, truth: Truth) -> None:
    """Say so where truth was given and gave no score: most likely a wrong folder or range, or ids that tell no object apart."""
    boxes = [path for path, _ in (*options.boxes, *options.box_masks)]
    boxes += [] if options.coco is None else [options.coco]
    for note in truth.told():
        print(f"dff_replay: {note}", file=sys.stderr)
    topics = [*options.label_topic, *(topic for topic, _ in options.detection_topic)]
    if topics and report["segmentation"]["miou"] is None and report["detection"]["map50"] is None:
        _warn_unscored(", ".join(topics), "nothing there belongs to a frame by its stamp", "the task")
    if options.labels is not None and report["segmentation"]["miou"] is None:
        _warn_unscored(options.labels, "no pixel of a frame is labelled there", "segmentation")
    if boxes and report["detection"]["map50"] is None:
        _warn_unscored(", ".join(map(str, boxes)), "no object of a frame is in there", "detection")
    for reason in truth.unusable_ids if options.every_offset else ():
        print(f"dff_replay: detection delay leaves out {reason}", file=sys.stderr)


def _warn_unscored(files: object, reason: str, task: str) -> None:
    print(f"dff_replay: nothing was scored with {files}: {reason}, or {task} is off", file=sys.stderr)
