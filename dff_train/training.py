"""The state of a training run: what learns, what it averages to, and the checkpoint it goes on from."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from dff_ros.core.bundle import build_model, load_bundle, save_bundle
from dff_ros.core.model import DeepFeatureFlow
from dff_train.objective import DISTILLATION_LOSSES
from dff_train.parts import bundle_teacher, check_parts, freeze_but, frozen_teacher
from dff_train.recipe import Recipe, Stage

CHECKPOINT = "checkpoint.pt"


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
        try:
            # On the host: what is loaded goes to its weight's device by itself, but for AdamW's counts, which on a GPU would be waited for.
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
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


def _names_in_a_bundle(name: str) -> tuple[str, ...]:
    """The names that the weight ``name`` may have in a bundle, the likeliest first."""
    trunk = name.replace("refine_network.trunk.", "feature_network.trunk.")
    return name, trunk, trunk.replace("feature_network.trunk.", "feature_network.")


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An exponential moving average that forgets faster at first: the random weights of the start must not linger in it."""

    def update(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        return averaged + (current - averaged) * (1.0 - kept)

    return update
