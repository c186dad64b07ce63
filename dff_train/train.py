"""The training loop: per-frame, then end to end on pairs (DFF, sec. 3.4). Interrupted, it goes on where it was."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dff_train.datasets import mixed_dataset
from dff_train.fusion import fit_fusion, fit_half_cells, fit_look
from dff_train.interrupts import ignore_interrupts, interrupt_noted
from dff_train.objective import batch_losses, network_image
from dff_train.parts import set_modes, trains
from dff_train.samples import Batch, Sample, collate
from dff_train.training import Training

LOG = "log.jsonl"
WARM_UP_STEPS = 200
CHECKPOINT_EVERY_S = 120.0
LOG_EVERY = 20
FUSION_BATCHES = 12
"""Batches of stills that a pyramid's fusion is fitted to: about 100 000 cells for 512 weights each."""


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
    """One stage from where it stands, and the fits at its end; False where it was over before the last step."""
    stage = training.stage
    saved = time.monotonic()
    batches = _batches(training, dataset, workers, first=training.step)
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
    fit_stale_half_cells(training, dataset)
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


def _batches(training: Training, dataset: Dataset[Sample], workers: int, *, first: int = 0) -> Iterator[Batch]:
    """Those of the stage at hand, from its step ``first`` on."""
    stage = training.stage
    # Each sample depends only on its index, so a resumed run reads on exactly where it stopped.
    loader: DataLoader[Any] = DataLoader(
        dataset,
        sampler=range(first * stage.batch, stage.steps * stage.batch),
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
    stills = _stills(training, stage_dataset(training, data))
    for fit in wanted:
        fit(training.model, stills)
    training.begin_with_weights()


def fit_stale_half_cells(training: Training, dataset: Dataset[Sample]) -> None:
    """At a stage's end: half cells are a regression of the feature, so where that has learned and they have not, they are fitted anew.

    Only pairs teach them: a stage without leaves them as they were, whatever its ``trains`` says.
    """
    stage, averaged = training.stage, training.averaged
    learned = any(trains(stage.trains, f"feature_network.{name}") for name, _ in averaged.feature_network.named_parameters())
    if averaged.half_cells is None or not learned:
        return
    if stage.pairs and trains(stage.trains, "half_cells.conv.weight"):
        return
    fit_half_cells(averaged, _stills(training, dataset))


def _stills(training: Training, dataset: Dataset[Sample]) -> list[Tensor]:
    batches = itertools.islice(_batches(training, dataset, workers=0), FUSION_BATCHES)
    return [network_image(batch.images, training.device) for batch in batches]


def training_step(training: Training, batch: Batch) -> dict[str, float]:
    """One optimiser step; returns the losses. Raises ValueError where they have no gradient that is a number: no weight is changed."""
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
        norm = nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        if not bool(norm.isfinite()):
            said = ", ".join(f"{name} {float(loss.detach()):.3g}" for name, loss in losses.items())
            raise ValueError(f"stage {stage.name!r}, step {training.step}: the gradients are no numbers any more; losses: {said}")
        training.optimizer.step()
    training.average.update_parameters(model)
    return {name: float(loss.detach()) for name, loss in losses.items()}


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
