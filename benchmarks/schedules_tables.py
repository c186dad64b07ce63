"""What schedules are tried on: for every frame of some recordings, and every age of its key, what is answered and what a schedule sees.

Tables are kept in runs/schedules under a name that stands for all they depend on: the recording, the bundle's networks and weights, what is
left out, and the code that measures. So none can be stale.
"""

from __future__ import annotations

import ast
import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dff_ros.core.bundle import WEIGHTS_FILE, read_card
from dff_ros.core.results import Detections, Task
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.ground_truth.box_table import read_box_table
from dff_ros.evaluation.ground_truth.image_truth import LabelImages, MaskBoxes
from dff_ros.evaluation.ground_truth.truth import BoxSource, ClassBoxes, Truth
from dff_ros.evaluation.measures.average_precision import ScoredFrame, average_precision, scorable
from dff_ros.evaluation.measures.every_age import EveryAge
from dff_ros.evaluation.schedule_study.agreement import AgreementTable, TableRows, confusion, load_table
from dff_ros.recording.frames import Recording, select
from dff_ros.recording.opening import open_recording

ROOT = Path(__file__).resolve().parent.parent

OLDEST = {"warp": 50, "branch": 16}
"""Age up to which tables reach: without the branch, which takes longer, so far that a fiftieth of the frames may be keys."""

MEASURING = (
    *("dff_ros/core/*.py", "dff_ros/engine/loading.py", "dff_ros/engine/preprocess.py", "dff_ros/engine/track.py"),
    *("dff_ros/evaluation/ground_truth/*.py", "dff_ros/evaluation/schedule_study/agreement.py"),
    *("dff_ros/evaluation/measures/average_precision.py", "dff_ros/evaluation/measures/every_age.py"),
    "benchmarks/schedules_tables.py",
)
"""The code that tables come from, as patterns."""

LEARNING = ("dff_ros/core/*.py", "dff_ros/engine/preprocess.py", "dff_ros/recording/frames.py", "dff_train/*.py")
"""The code that estimators come from."""


@dataclass(frozen=True)
class Source:
    """A recording as ``open_recording`` takes it, by its place in the folder of the data; ``frames`` first and last of a range.

    ``labels`` is a folder of class ids; ``boxes`` the class of a table, or of a folder of masks, at the place after it.
    """

    kind: str
    path: str
    rate: float | None = None
    frames: tuple[int, int] | None = None
    labels: str = ""
    boxes: tuple[str, str] | None = None

    def open(self, data: Path) -> Recording:
        """The recording, cut to its range."""
        recording = open_recording(**{self.kind: data / self.path}, rate=self.rate)  # type: ignore[arg-type]
        return select(recording, *self.frames) if self.frames else recording

    def option(self, data: Path) -> list[str]:
        """As ``dff_train schedule`` takes it."""
        ranged = "" if self.frames is None else f"@{self.frames[0]}:{self.frames[1]}"
        return [f"--{self.kind}", f"{data / self.path}{ranged}"]

    def truth(self, data: Path, model: LoadedModel) -> Truth:
        """What is known of it."""
        card = model.card
        labels = LabelImages(data / self.labels, card.segmentation_classes, card.ignored_labels) if self.labels else None
        boxes: list[BoxSource] = []
        if self.boxes is not None and Task.DETECTION in model.networks.tasks:
            name, path = self.boxes
            boxes += read_box_table(data / path, name) if path.endswith(".csv") else [MaskBoxes(data / path, name)]
        return Truth(labels, boxes, card.detection_classes)


MEASURED = {
    "camvid": Source("frames", "camvid/dense_tune/images", 15, labels="camvid/dense_tune/labels"),
    "pets": Source("video", "pets09/video.mp4", frames=(470, 579), boxes=("person", "pets09/boxes.csv")),
    "highway": Source("frames", "highway/images", 30, (630, 779), boxes=("car", "highway/labels")),
    "kitti_drive": Source("frames", "unlabelled/kitti_drive", 10),
    **{f"davis {name}": Source("frames", f"davis/{name}/images", 24) for name in ("blackswan", "bmx-trees", "camel", "car-roundabout")},
}

LEARNED_FROM = (
    Source("video", "pets09/video.mp4", frames=(0, 449)),
    Source("frames", "highway/images", 30, (0, 599)),
    Source("frames", "unlabelled/traffic", 25),
    Source("frames", "unlabelled/imagenet_vid_00007010", 25),
)


@dataclass(frozen=True)
class AgedBoxes:
    """What was found in every frame at every age of its key, beside the truth; classes that have truth alone."""

    found: NDArray[np.float32]
    """(rows, 8): frame, age, label, score and box, x1 y1 x2 y2."""
    true: NDArray[np.float32]
    """(rows, 7): frame, label, whether it is ignored, and box."""

    def map50(self, keys: Sequence[int], frames: int) -> float | None:
        """AP at IoU .5 over all ``frames``, with key frames at ``keys``."""
        ages = np.arange(frames) - np.asarray(keys)[np.searchsorted(keys, np.arange(frames), side="right") - 1]
        chosen = self.found[self.found[:, 1] == ages[self.found[:, 0].astype(int)]]
        return average_precision([self._frame(chosen[chosen[:, 0] == frame], frame) for frame in range(frames)]).map50

    def _frame(self, found: NDArray[np.float32], frame: int) -> ScoredFrame:
        true = self.true[self.true[:, 0] == frame]
        labels = np.unique(self.true[:, 1]).astype(int).tolist()
        truth = {label: ClassBoxes(rows[:, 3:].astype(float), rows[:, 2] > 0) for label in labels for rows in [true[true[:, 1] == label]]}
        return ScoredFrame(Detections(found[:, 4:], found[:, 3], found[:, 2].astype(np.int64)), truth)


@dataclass(frozen=True)
class Measured:
    """One recording's table, and its boxes where there is truth."""

    agreement: AgreementTable
    boxes: AgedBoxes | None


def code_digest(patterns: Iterable[str], root: Path = ROOT) -> str:
    """A hash of what the files that match say to the machine: comments and docstrings do not count.

    Raises ValueError for a pattern that nothing matches: what has moved would not be noticed any more.
    """
    total = hashlib.sha256()
    found = {pattern: list(root.glob(pattern)) for pattern in patterns}
    if lost := [pattern for pattern, paths in found.items() if not paths]:
        raise ValueError(f"patterns should match files of the project, got none for {', '.join(lost)}")
    for path in sorted({path for paths in found.values() for path in paths}):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                node.body = [each for each in node.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
        total.update(f"{path.relative_to(root)} {ast.dump(tree)}".encode())
    return total.hexdigest()


def digest(bundle: Path, *settings: object) -> str:
    """A short hash of the bundle's networks and weights and of whatever else counts."""
    card = read_card(bundle)
    content = f"{card.architecture} {card.input_pixels} {settings}".encode() + (bundle / WEIGHTS_FILE).read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


def measured(name: str, source: Source, data: Path, bundle: Path, model: LoadedModel, folder: Path, *, oldest: int) -> Measured:
    """A recording's table, from the folder where it is there."""
    key = digest(bundle, sorted(model.without), source, oldest, code_digest(MEASURING))
    file, boxes = (folder / f"{name.replace(' ', '_')}-{key}{ending}.npz" for ending in ("", "-boxes"))
    if not file.is_file():
        started = time.perf_counter()
        table, found = measure(source, data, model, oldest=oldest)
        if found is not None:
            folder.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(boxes, found=found.found, true=found.true)
        table.save(file)
        print(f"  {name}: {time.perf_counter() - started:.0f} s", flush=True)
    if not boxes.is_file():
        return Measured(load_table(file), None)
    with np.load(boxes) as content:
        return Measured(load_table(file), AgedBoxes(content["found"], content["true"]))


@torch.inference_mode()
def measure(source: Source, data: Path, model: LoadedModel, *, oldest: int) -> tuple[AgreementTable, AgedBoxes | None]:
    """Run the model, its branch included where it is loaded, from every frame to the ``oldest`` frames after it."""
    every_age, rows = EveryAge(model, EngineSettings(), oldest=oldest), TableRows(oldest)
    head, truth = model.networks.head(Task.SEGMENTATION), source.truth(data, model)
    classes = len(model.card.segmentation_classes)
    found: list[NDArray[np.float32]] = []
    true: list[NDArray[np.float32]] = []
    for index, item in enumerate(source.open(data)):
        known = truth.of(item)
        told, answers = [], []
        for age, aged in enumerate(every_age.step(item)):
            told.append(aged.told)
            answers.append(head.decode(head(aged.feature), aged.geometry).labels)
            if known.boxes:
                detector = model.networks.head(Task.DETECTION)
                boxes = scorable(detector.decode(detector(aged.feature), aged.geometry), known.boxes)
                found.append(_rows(index, age, boxes.labels, boxes.scores, boxes.boxes))
        losses = [float((answer != answers[0]).mean()) for answer in answers]
        confusions = [] if known.labels is None else [confusion(known.labels, answer, classes) for answer in answers]
        rows.add(item.stamp, told, losses, confusions)
        true += [_rows(index, label, boxes.ignored, boxes.boxes) for label, boxes in known.boxes.items()]
    return rows.table(), AgedBoxes(np.concatenate(found), np.concatenate(true)) if found else None


def _rows(*columns: object) -> NDArray[np.float32]:
    """Numbers, vectors and boxes (N, 4) side by side, the last of them the boxes."""
    boxes = np.asarray(columns[-1], np.float32).reshape(-1, 4)
    before = [np.broadcast_to(np.asarray(column, np.float32), len(boxes)) for column in columns[:-1]]
    return np.column_stack([*before, boxes])
