"""The training loop: per-frame, then end to end on pairs (DFF, sec. 3.4). Interrupted, it goes on where it was."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dff_ros.core.bundle import build_model, load_bundle, save_bundle
from dff_ros.core.model import DeepFeatureFlow
from dff_train.datasets import mixed_dataset
from dff_train.fusion import fit_fusion, fit_half_cells, fit_look
from dff_train.interrupts import ignore_interrupts, interrupt_noted
from dff_train.objective import DISTILLATION_LOSSES, batch_losses, network_image
from dff_train.parts import bundle_teacher, check_parts, freeze_but, frozen_teacher, set_modes
from dff_train.recipe import Recipe, Stage
from dff_train.samples import Batch, Sample, collate

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
WARM_UP_STEPS = 200
CHECKPOINT_EVERY_S = 120.0
LOG_EVERY = 20
FUSION_BATCHES = 12
"""Batches of stills that a pyramid's fusion is fitted to: about 100 000 cells for 512 weights each."""


class Training:
    """The state of one run: networks, their moving average, optimiser, and how far it has come."""

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.folder = folder
        self.device = device
        self.model = build_model(recipe.card).to(device)
        average = moving_average(recipe.ema_decay)
        self.average = AveragedModel(self.model, avg_fn=average, use_buffers=True)
        self.stage_index = 0
        self.step = 0
        self.recipe_changed = False
        """Whether the checkpoint that was taken up is of another recipe than this one."""
        for stage in recipe.stages:
            check_parts(self.model, stage.trains)
        self._enter_stage()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def stage(self) -> Stage:
        """The stage being trained."""
        return self.recipe.stages[self.stage_index]

    @property
    def averaged(self) -> DeepFeatureFlow:
        """The moving average of the model's weights, what the bundle holds."""
        return cast(DeepFeatureFlow, self.average.module)

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self.stage_index >= len(self.recipe.stages)

    def next_stage(self) -> None:
        """Go on to the next stage from the averaged weights, with a fresh optimiser."""
        self.model.load_state_dict(self.average.module.state_dict())
        self.stage_index += 1
        self.step = 0
        if not self.finished:
            self._enter_stage()

    def _enter_stage(self) -> None:
        """Freeze what the stage does not train, and take the teacher and a fresh optimiser for the rest."""
        freeze_but(self.model, self.stage.trains)
        self.optimizer = self._fresh_optimizer()
        self.teacher = self._stage_teacher()

    def _stage_teacher(self) -> DeepFeatureFlow | None:
        """Whose per-frame path the stage distils: the bundle it names or, on pairs, the model's own; None where it does not distil."""
        weights = self.recipe.weights_of(self.stage)
        if not any(weights[name] for name in DISTILLATION_LOSSES):
            return None
        if not self.stage.teacher:
            return frozen_teacher(self.model) if self.stage.pairs else None
        return self._teacher_in(self.stage)

    def check_teachers(self) -> None:
        """Raise ValueError where a bundle that is to teach in this stage or a later one is missing or does not fit."""
        for stage in self.recipe.stages[self.stage_index :]:
            if stage.teacher:
                self._teacher_in(stage)

    def _teacher_in(self, stage: Stage) -> DeepFeatureFlow:
        try:
            return bundle_teacher(stage.teacher, self.model, self.recipe.card).to(self.device)
        except ValueError as error:
            raise ValueError(f"stage {stage.name!r}: {error}") from error

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        decayed = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.stage.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.stage.learning_rate)

    def start_from(self, bundle: str) -> list[str]:
        """Take what fits from a bundle's weights; returns the names of the weights that stay as they were.

        The weights of a bundle's feature network also fit where the recipe's feature network or branch holds such a network as its trunk.
        """
        return self.start_with(load_bundle(bundle)[1])

    def start_with(self, source: DeepFeatureFlow) -> list[str]:
        """As :meth:`start_from`, from a model."""
        given, state = source.state_dict(), self.model.state_dict()
        untouched = []
        for name, weight in state.items():
            found = next((given[other] for other in _names_in_a_bundle(name) if other in given), None)
            if found is None or found.shape != weight.shape:
                untouched.append(name)
            else:
                weight.copy_(found)
        self.begin_with_weights()
        return untouched

    def begin_with_weights(self) -> None:
        """Have the moving average and the stage's teacher begin with the model's weights as they are now."""
        self.average.module.load_state_dict(self.model.state_dict())
        self._enter_stage()

    def save(self) -> None:
        """Write the checkpoint; a kill in the middle leaves the previous one."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "stage_index": self.stage_index,
            "step": self.step,
            "recipe": self.recipe.digest(),
            "stage": None if self.finished else {"trains": list(self.stage.trains), "teacher": self.stage.teacher},
        }
        partial = self.folder / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / CHECKPOINT)

    def resume(self) -> bool:
        """Go on from the folder's checkpoint; False where there is none.

        The recipe may have been edited since, see ``recipe_changed``. Raises ValueError where the checkpoint is of other networks, or
        has come further than the recipe has stages.
        """
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        try:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
        except RuntimeError as error:
            differences = " ".join(str(error).split())[:200]  # torch lists every tensor
            raise ValueError(f"{path} should be of the networks that the recipe's card names, got others: {differences}") from error
        done, stages = state["stage_index"], len(self.recipe.stages)
        if done > stages or (done == stages and state["step"]):
            raise ValueError(f"{path} has come to step {state['step']} of stage {done + 1}, but the recipe has only {stages} stages")
        self.stage_index, self.step = done, state["step"]
        self.recipe_changed = state.get("recipe", self.recipe.digest()) != self.recipe.digest()
        if not self.finished:
            self._enter_stage()
            if self.step:
                self._resume_stage(state)
        return True

    def _resume_stage(self, state: Mapping[str, Any]) -> None:
        """Take the optimiser and the teacher of a stage that had begun, as far as the recipe still has it train and taught alike."""
        stage = state.get("stage") or {"trains": list(self.stage.trains), "teacher": self.stage.teacher}
        if stage["trains"] == list(self.stage.trains):
            decays = [group["weight_decay"] for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(state["optimizer"])
            for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
                group["weight_decay"] = decay  # the recipe's, like the learning rate
        if self.teacher is not None and state.get("teacher") and stage["teacher"] == self.stage.teacher:
            self.teacher.load_state_dict(state["teacher"])

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a bundle."""
        save_bundle(folder, self.recipe.card, self.averaged)


def train(training: Training, data: Path, *, workers: int = 1, time_limit_s: float = math.inf) -> None:
    """Train on the recipe's sources in ``data`` until the recipe is done or the time is up; the checkpoint holds what was reached."""
    train_on(training, lambda: stage_dataset(training, data), workers=workers, time_limit_s=time_limit_s)


def train_on(training: Training, open_dataset: Callable[[], Dataset[Sample]], *, workers: int = 1, time_limit_s: float = math.inf) -> None:
    """As :func:`train`, on what ``open_dataset`` gives for the stage at hand.

    Interrupted from the keyboard it finishes the step, saves the checkpoint and raises KeyboardInterrupt. Raises ValueError at once where
    the teacher of any stage to come is missing or does not fit.
    """
    training.check_teachers()
    deadline = time.monotonic() + time_limit_s
    with interrupt_noted() as interrupted:
        while not training.finished and time.monotonic() < deadline:
            if not _train_stage(training, open_dataset(), workers, lambda: interrupted() or time.monotonic() > deadline):
                break
            training.next_stage()
        training.save()
        if interrupted():
            raise KeyboardInterrupt


def _train_stage(training: Training, dataset: Dataset[Sample], workers: int, is_over: Callable[[], bool]) -> bool:
    """One stage from where it stands; False where it was over before the last step."""
    stage = training.stage
    saved = time.monotonic()
    batches = _batches(training, dataset, workers)
    with tqdm(batches, total=stage.steps, initial=training.step, desc=stage.name, unit="step") as progress:
        for batch in progress:
            losses = training_step(training, batch)
            training.step += 1
            if training.step % LOG_EVERY == 0:
                _log(training, losses)
                progress.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
            if time.monotonic() - saved > CHECKPOINT_EVERY_S:
                training.save()
                saved = time.monotonic()
            if is_over():
                return False
    return True


def stage_dataset(training: Training, data: Path) -> Dataset[Sample]:
    """The sources of the stage at hand, mixed."""
    stage, recipe = training.stage, training.recipe
    return mixed_dataset(
        data,
        recipe.sources_of(stage),
        crop=recipe.crop,
        seed=recipe.seed + training.stage_index,
        offsets=recipe.offsets_of(stage),
        input_pixels=recipe.card.input_pixels,
        flow=recipe.weights_of(stage)["flow"] > 0,
        between=training.model.chains_flow and stage.pairs,
    )


def _batches(training: Training, dataset: Dataset[Sample], workers: int) -> Iterator[Batch]:
    stage = training.stage
    # Each sample depends only on its index, so a resumed run reads on exactly where it stopped.
    loader: DataLoader[Any] = DataLoader(
        dataset,
        sampler=range(training.step * stage.batch, stage.steps * stage.batch),
        batch_size=stage.batch,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=ignore_interrupts,
        pin_memory=training.device.type == "cuda",
    )
    yield from loader


def fit_new_fusion(training: Training, data: Path, fresh: Sequence[str]) -> None:
    """Start what fuses looks whose networks came from a bundle, on stills of the sources, where it is among the ``fresh`` weights."""
    fits = {"feature_network.looks.": fit_fusion, "half_cells.": fit_half_cells, "refine_network.spread.": fit_look}
    wanted = [fit for prefix, fit in fits.items() if any(name.startswith(prefix) for name in fresh)]
    if not wanted:
        return
    batches = itertools.islice(_batches(training, stage_dataset(training, data), workers=0), FUSION_BATCHES)
    stills = [network_image(batch.images, training.device) for batch in batches]
    for fit in wanted:
        fit(training.model, stills)
    training.begin_with_weights()


def _names_in_a_bundle(name: str) -> tuple[str, ...]:
    """The names that the weight ``name`` may have in a bundle, the likeliest first."""
    trunk = name.replace("refine_network.trunk.", "feature_network.trunk.")
    return name, trunk, trunk.replace("feature_network.trunk.", "feature_network.")


def training_step(training: Training, batch: Batch) -> dict[str, float]:
    """One optimiser step; returns the losses."""
    stage, model = training.stage, training.model
    # Sampling of anchors depends on the step alone, so that an interrupted run ends in the same weights.
    torch.manual_seed(hash((training.recipe.seed, training.stage_index, training.step)))
    set_modes(model, stage.trains, pairs=stage.pairs)
    for group in training.optimizer.param_groups:
        group["lr"] = stage.learning_rate * learning_rate_factor(training.step, stage.steps)
    balance = torch.tensor(training.recipe.class_weights, device=training.device) if training.recipe.class_weights else None
    weights = training.recipe.weights_of(stage)
    losses = batch_losses(
        model, batch, training.device, pairs=stage.pairs, weights=weights, teacher=training.teacher, class_weights=balance
    )
    if not losses:
        raise ValueError(f"stage {stage.name!r} has no loss with a weight above 0 for what the model answers")
    total = torch.stack([loss * weights[name] for name, loss in losses.items()]).sum()
    training.optimizer.zero_grad(set_to_none=True)
    if total.requires_grad:  # a batch without a pair says nothing to a stage that trains propagation alone
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        training.optimizer.step()
    training.average.update_parameters(model)
    return {name: float(loss.detach()) for name, loss in losses.items()}


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An exponential moving average that forgets faster at first: the random weights of the start must not linger in it."""

    def update(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        return averaged + (current - averaged) * (1.0 - kept)

    return update


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 1 % (Loshchilov and Hutter 2017)."""
    warm_up = min(WARM_UP_STEPS, steps // 5)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


def _log(training: Training, losses: dict[str, float]) -> None:
    line = {"stage": training.stage.name, "step": training.step, "time": round(time.time(), 1), **losses}
    with (training.folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
