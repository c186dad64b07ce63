"""What the demo saw: numbers in lines, pictures in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dff_ros.core.bundle import Card
from dff_ros.core.results import UNLABELLED
from dff_ros.message_fields import caption
from dff_ros.node.listen import Heard, describe
from dff_ros.overlay import draw_overlay
from dff_ros.recording.drive import CLASS_NAMES, GeneratedDrive
from dff_ros.recording.frames import Frame, Recording
from dff_ros.recording.pictures import VideoFile, write_picture

TOO_MANY_DROPPED = 0.2
"""Share of the frames received above which the summary says what to do about it."""


def taken(heard: Heard) -> int:
    """Frames that the node took on: those received, but for the ones dropped because a newer one was there already."""
    return heard.count("received") - heard.count("dropped")


def answered_share(heard: Heard) -> float:
    """Share of the frames taken for which detections, mask and frame info have arrived."""
    return len(heard.answered) / taken(heard) if taken(heard) else 0.0


def summarise(heard: Heard, recording: Recording) -> list[str]:
    """The summary, line by line; dropped are frames that a newer one replaced before the node was free."""
    received, dropped, answered = heard.count("received"), heard.count("dropped"), len(heard.answered)
    engine = heard.diagnostics.get("engine", {})
    facts = ", ".join(f"{name} {engine.get(name, '?')}" for name in ("model", "device", "schedule", "memory_mib"))
    return [
        "",
        f"input: {recording.description}",
        f"frames in: played {len(recording)}, received {received}, dropped {dropped}, taken {taken(heard)}",
        f"frames out: answered {answered}, {answered_share(heard):.1%} of those taken",
        *describe(heard),
        f"node: {facts}",
        *_advice(received, dropped),
    ]


def _advice(received: int, dropped: int) -> list[str]:
    """What helps where the node could not keep up."""
    if dropped <= TOO_MANY_DROPPED * received:
        return []
    return [
        f"{dropped} of {received} frames were dropped: camera, node and listener together are too slow here for this rate",
        "what helps: make demo ARGS='--model street_light', several times faster; dff_tune finds what keeps up with a recording of yours",
    ]


def draw(recording: Recording, heard: Heard, card: Card, folder: Path) -> None:
    """Write demo.mp4, every answered frame with what was published for it, and demo.png, the one that shows most."""
    best: tuple[int, Frame] | None = None
    answered = heard.answered
    with VideoFile(folder / "demo.mp4", rate=recording.rate) as video:
        for item in tqdm(recording, total=len(recording), unit="frame", desc="drawing", leave=False, mininterval=1.0):
            if item.stamp not in answered:
                continue
            picture = overlay(item.frame, item.stamp, heard, card)
            video.add(picture)
            boxes = len(heard.detections[item.stamp].classes) if item.stamp in heard.detections else 0
            # Of as many boxes a propagated frame is shown rather than a key frame: there is more to prove.
            shown = 2 * boxes + (heard.frame_info[item.stamp]["kind"] == "propagated")
            if best is None or shown > best[0]:
                best = shown, picture
    if best is not None:
        write_picture(folder / "demo.png", best[1])


def overlay(frame: Frame, stamp: int, heard: Heard, card: Card) -> Frame:
    """One frame with the boxes and the mask that were published for it."""
    info, names = heard.frame_info[stamp], card.detection_classes
    found = heard.detections.get(stamp)
    return draw_overlay(
        frame,
        boxes=None if found is None else found.boxes.astype(np.float32),
        scores=None if found is None else np.array(found.scores, np.float32),
        labels=None if found is None else np.array([names.index(name) for name in found.classes], np.int64),
        class_names=names,
        label_map=heard.masks.get(stamp),
        palette=card.palette,
        caption=caption(info["kind"], int(info["key_age_frames"]), float(info["key_age_ms"])),
    )


def mean_iou_against_drive(drive: GeneratedDrive, heard: Heard) -> str:
    """mIoU of the published masks against the drive's truth, as a line; over the classes that occur in the truth."""
    classes = len(CLASS_NAMES)
    ids = np.full(256, classes, np.uint8)
    for index, name in heard.class_names.items():
        if name in CLASS_NAMES and index != UNLABELLED:
            ids[index] = CLASS_NAMES.index(name)
    counts = np.zeros((classes, classes + 1), np.int64)
    for frame in drive:
        if frame.stamp in heard.masks:
            counts += confusion(frame.labels, ids[heard.masks[frame.stamp]], classes)
    hits, occurring = np.diagonal(counts), counts.sum(axis=1) > 0
    if not occurring.any():
        return "mIoU against the drive's truth: no mask came"
    union = counts.sum(axis=1) + counts.sum(axis=0)[:classes] - hits
    scores = {CLASS_NAMES[k]: hits[k] / union[k] for k in np.flatnonzero(occurring)}
    listed = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
    return f"mIoU against the drive's truth {np.mean(list(scores.values())):.3f} ({listed})"


def confusion(truth: NDArray[np.uint8], answer: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes + 1) of true against answered classes; the last column is for answers of no class."""
    known = truth < classes
    pairs = truth[known].astype(np.int64) * (classes + 1) + np.minimum(answer[known], classes)
    counts: NDArray[np.int64] = np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)
    return counts
