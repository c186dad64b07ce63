"""Tiny data folders, laid out as docs/data.md says, for the tests of the training data."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dff_ros.recording.drive import GeneratedDrive

SIZE = (90, 120)
"""Height and width of every frame in these folders."""


def street_labels() -> NDArray[np.uint8]:
    """Sky above road, one car, one pedestrian, a crumb of pedestrian and a corner of void."""
    labels = np.full(SIZE, 3, np.uint8)
    labels[:40] = 0
    labels[45:70, 20:60] = 8
    labels[30:66, 80:92] = 9
    labels[30:36, 104:110] = 9
    labels[80:, 100:] = 11
    return labels


def textured(seed: int) -> NDArray[np.uint8]:
    """A smooth random RGB image of SIZE."""
    noise = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3.0)).astype(np.uint8)


def write_camvid(data: Path, stills: int = 3) -> None:
    """camvid/train under ``data``: textures with the labels of :func:`street_labels`."""
    for part in ("images", "labels"):
        (data / "camvid" / "train" / part).mkdir(parents=True)
    for number in range(stills):
        cv2.imwrite(str(data / f"camvid/train/images/still_{number}.png"), textured(number)[..., ::-1])
        cv2.imwrite(str(data / f"camvid/train/labels/still_{number}.png"), street_labels())


def write_pets(data: Path, frames: int) -> None:
    """pets09 under ``data``: frame n is grey of level 5 n; a person walks two pixels a frame, and nobody is in frame 0."""
    folder = data / "pets09"
    folder.mkdir(parents=True)
    video = cv2.VideoWriter(str(folder / "video.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 7.0, SIZE[::-1])
    assert video.isOpened()
    for number in range(frames):
        video.write(np.full((*SIZE, 3), 5 * number, np.uint8))
    video.release()
    rows = [f"{number},7,{10 + 2 * number},20,12.5,30" for number in range(1, frames)]
    (folder / "boxes.csv").write_text("\n".join(["frame,id,left,top,width,height", *rows]) + "\n")


def highway_labels() -> NDArray[np.uint8]:
    """A moving car with its rim, a crumb of a car, and an unknown region on its own."""
    labels = np.zeros(SIZE, np.uint8)
    labels[8:42, 18:62] = 170
    labels[10:40, 20:60] = 255
    labels[60:66, 10:16] = 255
    labels[70:90, 90:120] = 85
    return labels


def write_highway(data: Path, numbers: range) -> None:
    """highway under ``data`` with the labels of :func:`highway_labels`."""
    for part in ("images", "labels"):
        (data / "highway" / part).mkdir(parents=True)
    for number in numbers:
        cv2.imwrite(str(data / f"highway/images/in{number:06d}.jpg"), textured(number)[..., ::-1])
        cv2.imwrite(str(data / f"highway/labels/gt{number:06d}.png"), highway_labels())


def write_drive(folder: Path, *, seed: int, frames: int) -> Path:
    """A generated drive as a folder of images, 160x120."""
    for item in GeneratedDrive(seed, frames, width=160, height=120, rate=10.0):
        cv2.imwrite(str(folder / f"{item.index:03d}.png"), np.ascontiguousarray(item.frame[..., ::-1]))
    return folder
