"""``dff_train distill``: make a video network of a per-frame network, on recordings without any label.

The per-frame path (feature network and heads) is frozen and teaches: flow, scale and the branch on the current frame learn to
give, 1 to 1.5 intervals after a key frame, the feature and the answers that it gives there.
"""

from __future__ import annotations

import hashlib
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from dff_ros.core.bundle import WEIGHTS_FILE, Card, find_bundle, load_bundle, save_bundle, with_flow_network, with_refine_network
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.engine.preprocess import fit
from dff_ros.recording.opening import open_recording
from dff_train.augment import Augmentation
from dff_train.clips import Clip
from dff_train.datasets import MixedDataset
from dff_train.disagreement import disagreement
from dff_train.objective import DEFAULT_WEIGHTS
from dff_train.recipe import Recipe, Stage
from dff_train.recordings import HELD_OUT, MOST_FRAMES, RUN_LENGTH, decode, split
from dff_train.samples import Batch, collate
from dff_train.train import train_on, training_step
from dff_train.training import Training

LOSS_WEIGHTS = {**dict.fromkeys(DEFAULT_WEIGHTS, 0.0), "feature": 10.0, "distil_segmentation": 1.0, "distil_detection": 0.3}
"""With a weight of 0.3 the feature itself came no nearer (0.19 -> 0.19 in 240 steps, here 0.14) while the heads' answers did as here, and
three times as much was changed where nothing moves."""

CROP_SHARE = 2 / 3
"""Sides of the training crops, as a share of the smallest frame's, as the network sees it."""

RUN_INTERVALS = 3
"""Of a long recording runs of at least so many intervals are kept, so that most of their frames have one 1.5 intervals before them."""

LEAST_KEPT = 4 * HELD_OUT
"""So many intervals may be kept of a recording: half as many are, at least, and of what is then held out one run holds an interval."""

SCALES = (0.8, 1.25)
"""Change of scale in training: a user's camera stays as it is."""

BATCH = 8
NEW_BRANCH_LEARNING_RATE = 4e-3
BRANCH_LEARNING_RATE = 7e-4
"""Of a branch that the bundle came with, as where a recipe trains it on: it has seen more than these recordings show."""
FLOW_LEARNING_RATE = 2e-4
"""As where a recipe trains a flow network on for the task: these weights know flow already."""

LEAST_STEPS = 50

NOTES = "distill.yaml"
"""In the run's folder: what is distilled from what, the number of steps, and what was measured before."""


@dataclass(frozen=True)
class Given:
    """A recording as the command line names it: ``kind`` is video, frames or bag."""

    kind: str
    path: Path
    rate: float | None = None
    topic: str | None = None

    def reading(self) -> list[str]:
        """The options that say how it is read."""
        rate = [] if self.rate is None else ["--rate", str(self.rate)]
        return rate if self.topic is None else [*rate, "--topic", self.topic]


@dataclass(frozen=True)
class Settings:
    """What is distilled, and how."""

    model: str
    recordings: tuple[Given, ...]
    interval: int = 10
    """Frames between key frames that the network is made for."""
    refine: str = "light"
    """Kind of the branch to add where the bundle has none; "none" adds none."""
    minutes: float = 10.0
    """About so long; decides the number of steps when a run begins."""
    steps: int = 0
    """Instead of the minutes, where above 0."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.recordings:
            raise ValueError("at least one recording should be given: --video, --frames or --bag")
        if self.interval < 2:
            raise ValueError(f"interval should be at least 2 frames, got {self.interval}")
        if self.steps < 0 or not self.minutes > 0:
            raise ValueError(f"minutes should be above 0 and steps at least 0, got {self.minutes:g} and {self.steps}")

    def identity(self) -> dict[str, Any]:
        """What a run that was interrupted must share with the one that goes on."""
        weights = (find_bundle(self.model) / WEIGHTS_FILE).read_bytes()
        return {
            "model": self.model,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "recordings": [" ".join([item.kind, str(item.path.resolve()), *item.reading()]) for item in self.recordings],
            "interval": self.interval,
            "refine": self.refine,
            "seed": self.seed,
        }

    def command(self, steps: int) -> str:
        """The command line that repeats it, in ``steps`` steps, without the folders of this machine."""
        given = [option for item in self.recordings for option in (f"--{item.kind}", item.path.name)]
        reading = self.recordings[0].reading()  # one for all: the command line knows no other
        how = ["--interval", str(self.interval), "--refine", self.refine, "--steps", str(steps)]
        return shlex.join(["dff_train", "distill", "--model", Path(self.model).name, *given, *reading, *how])


def distill(settings: Settings, *, run: Path, to: Path, device: torch.device, workers: int = 1) -> None:
    """Distil on the recordings, with checkpoint and log in ``run``, and write the bundle ``to``; an interrupted run is taken up again.

    Raises ValueError or OSError in one line where that is not possible, KeyboardInterrupt with the checkpoint written.
    """
    if find_bundle(settings.model).resolve() == to.resolve():
        raise ValueError(f"the new bundle should not take the place of the one it is made from, got {to} for both")
    notes = read_notes(run, settings)
    goes_on = bool(notes)
    card, model, new_branch = with_branch(settings)
    trains = propagation_parts(card, model)
    learned, held = decoded(settings, card.input_pixels)
    dataset = crops(learned, card, model.stride, settings, between=model.chains_flow)
    if not notes:
        before = _measured(model.to(device), held, card, settings, device)
        copying = with_flow_network(model, card, "still").with_parts(refine_network=None)
        copied = _measured(copying, held, card, settings, device)
        print(f"dff_train: copied: {_said(copied, settings.interval)}, were key frames' answers given again", flush=True)
        print(f"dff_train: before: {_said(before, settings.interval)}", flush=True)
        steps = settings.steps or _steps_in_time(
            _training(card, model, stages(trains, LEAST_STEPS, new_branch=new_branch), settings, run, device), dataset, settings.minutes
        )
        notes = {**settings.identity(), "steps": steps, "copied": copied, "before": before}
        run.mkdir(parents=True, exist_ok=True)
        (run / NOTES).write_text(yaml.safe_dump(notes, sort_keys=False), encoding="utf-8")
    training = _training(card, model, stages(trains, notes["steps"], new_branch=new_branch), settings, run, device)
    training.resume()
    if goes_on:
        print(f"dff_train: the run has {notes['steps']} steps since it began, whatever --steps and --minutes say; {done(training)} done")
    train_on(training, lambda: dataset, workers=workers)
    after = _measured(training.averaged, held, card, settings, device)
    print(f"dff_train: before: {_said(notes['before'], settings.interval)}")
    print(f"dff_train: after:  {_said(after, settings.interval)}")
    worse = grown(notes["before"], after)
    if worse:
        print(f"dff_train: more of the {' and '.join(worse)} differ than before: more recordings may help, or keep {settings.model}")
    save_bundle(to, distilled_card(card, to.name, learned, settings, notes, after), training.averaged)
    print(f"dff_train: wrote {to}")


def read_notes(run: Path, settings: Settings) -> Mapping[str, Any]:
    """The notes of the run that is to go on; empty where it begins. Raises ValueError where ``run`` holds another one."""
    file = run / NOTES
    if not file.is_file():
        if run.exists() and any(run.iterdir()):
            raise ValueError(f"--run should be a folder of its own, got {run}, which holds other files")
        return {}
    notes: Mapping[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    other = [name for name, value in settings.identity().items() if notes.get(name) != value]
    if other:
        raise ValueError(f"{run} holds a run with another {other[0]}: {notes.get(other[0])}; remove it or give another --run")
    return notes


def with_branch(settings: Settings) -> tuple[Card, DeepFeatureFlow, bool]:
    """The bundle to start from, with an untrained branch where it has none and one is wanted; and whether that is so."""
    card, model = load_bundle(settings.model)
    if model.refine_network is None and settings.refine != "none":
        torch.manual_seed(settings.seed)
        return *with_refine_network(model, card, {"kind": settings.refine}), True
    return card, model, False


def propagation_parts(card: Card, model: DeepFeatureFlow) -> tuple[str, ...]:
    """The parts of propagation that have weights; raises ValueError where none has."""
    parts = {"flow_network": model.flow_network, "refine_network": model.refine_network}
    trains = tuple(name for name, part in parts.items() if part is not None and any(True for _ in part.parameters()))
    if not trains:
        raise ValueError(f"bundle {card.name!r} has nothing to train: no weights in its flow network, and no branch")
    return trains


def decoded(settings: Settings, pixels: int) -> tuple[list[Clip], list[Clip]]:
    """Of every recording the part to learn from and the part held out; raises ValueError where one is too short."""
    most = max(MOST_FRAMES // len(settings.recordings), LEAST_KEPT * settings.interval)
    run_length = max(RUN_LENGTH, RUN_INTERVALS * settings.interval)
    learned, held = [], []
    for given in settings.recordings:
        recording = open_recording(**{given.kind: given.path}, rate=given.rate, topic=given.topic)  # type: ignore[arg-type]
        name = given.path.name
        with tqdm(recording, total=len(recording) or None, desc=name, unit="frame") as frames:
            clip = decode(name, frames, pixels=pixels, most=most, run_length=run_length)
        if len(clip) < HELD_OUT * settings.interval:
            raise ValueError(f"{name} should hold at least {HELD_OUT} intervals, {HELD_OUT * settings.interval} frames, got {len(clip)}")
        parts = split(clip)
        learned.append(parts[0])
        held.append(parts[1])
        print(f"dff_train: {name}: {len(parts[0])} frames to learn from, {len(parts[1])} to measure on", flush=True)
    return learned, held


def crops(clips: Sequence[Clip], card: Card, stride: int, settings: Settings, *, between: bool = False) -> MixedDataset:
    """Random crops of pairs 1 to 1.5 intervals apart, where wanted with the frames ``between``; each recording as often as it is long.

    Their look is left as it is: it is that of the camera to be worked with, and made-up noise would drown what motion changes.
    """
    shapes = {frame.shape[:2] for clip in clips for frame in clip.frames}
    seen = [fit(*shape, input_pixels=card.input_pixels, stride=stride) for shape in shapes]
    shortest = min(view.height for view in seen), min(view.width for view in seen)
    crop = [max(int(side * CROP_SHARE) // stride, 4) * stride for side in shortest]
    pixels = max(view.height * view.width for view in seen)  # fewer than the card's where every camera's frames are small
    augmentation = Augmentation(crop=(crop[0], crop[1]), scale=SCALES, look=False, pixels=pixels, flow=False, between=between)
    offsets = (1, settings.interval + settings.interval // 2)
    return MixedDataset(clips, [len(clip) for clip in clips], augmentation, seed=settings.seed, offsets=offsets)


def _training(
    card: Card, model: DeepFeatureFlow, planned: tuple[Stage, ...], settings: Settings, run: Path, device: torch.device
) -> Training:
    """A run at its beginning, with the weights of ``model``."""
    training = Training(Recipe(card, sources={}, stages=planned, seed=settings.seed), run, device)
    training.start_with(model)
    return training


def done(training: Training) -> int:
    """Steps done in all stages."""
    return sum(stage.steps for stage in training.recipe.stages[: training.stage_index]) + training.step


def stages(trains: Sequence[str], steps: int, *, new_branch: bool) -> tuple[Stage, ...]:
    """``steps`` steps, for the parts in turn, each at its own rate: flow and scale, then the branch, which corrects what they carry."""
    rates = {"flow_network": FLOW_LEARNING_RATE, "refine_network": NEW_BRANCH_LEARNING_RATE if new_branch else BRANCH_LEARNING_RATE}
    shares = [steps * (index + 1) // len(trains) - steps * index // len(trains) for index in range(len(trains))]
    return tuple(
        Stage(part, share, batch=BATCH, learning_rate=rates[part], pairs=True, trains=(part,), loss_weights=LOSS_WEIGHTS)
        for part, share in zip(trains, shares, strict=True)
    )


def _steps_in_time(trial: Training, dataset: MixedDataset, minutes: float) -> int:
    """How many steps, of all stages alike, fit into the minutes."""
    batch = collate([dataset[index] for index in range(BATCH)])
    seconds = []
    while not trial.finished:
        seconds.append(_seconds_a_step(trial, batch))
        trial.next_stage()
    return max(int(minutes * 60 / statistics.mean(seconds)), LEAST_STEPS)


def _seconds_a_step(trial: Training, batch: Batch) -> float:
    """The middle one of three after the first, which is slower."""
    seconds = []
    for _ in range(4):
        started = time.monotonic()
        training_step(trial, batch)
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds[1:])


def _measured(
    model: DeepFeatureFlow, held: Sequence[Clip], card: Card, settings: Settings, device: torch.device
) -> dict[str, float | int | None]:
    return disagreement(model, held, interval=settings.interval, pixels=card.input_pixels, device=device).figures()


def grown(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Which answers differ from per-frame's more often than ``before``: on few frames a branch may learn what holds for these alone."""
    return [name for name in ("pixels", "boxes") if (after[name] or 0.0) > (before[name] or 0.0)]  # None: no box of either to differ


def _said(figures: Mapping[str, Any], interval: int) -> str:
    shares = [f"{figures[name]:.1%} of the {name}" for name in ("pixels", "boxes") if figures[name] is not None]
    shares.append(f"{figures['feature']:.3f} of the feature")
    return f"{', '.join(shares)} differ from per-frame at fixed:{interval}"


def distilled_card(
    card: Card, name: str, learned: Sequence[Clip], settings: Settings, notes: Mapping[str, Any], after: Mapping[str, Any]
) -> Card:
    """The new bundle's card: what it was made from, how, and what that brought. Scores of the old propagation are left out."""
    sources = [f"{clip.name} ({len(clip)} frames without labels), for propagation alone" for clip in learned]
    measured = {**{when: notes[when] for when in ("copied", "before") if when in notes}, "after": after}
    kept = {figure: {when: each[figure] for when, each in measured.items()} for figure in ("pixels", "boxes", "feature")}
    return replace(
        card,
        name=name,
        description=f"{card.description.strip()} Its propagation was distilled from its own per-frame path, bundle {card.name}.",
        provenance=(*card.provenance, *sources),
        recipe=f"{card.recipe.strip()} Then {settings.command(notes['steps'])}".strip(),
        figures={f"disagreement_with_per_frame_at_fixed:{settings.interval}": {"frames": after["frames"], **kept}},
    )
