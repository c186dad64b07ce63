"""Training of flow networks from known flow: units, what counts, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import tiny_card
from test_train import CPU, batch, recipe
from torch import Tensor, nn

from dff_ros.core.bundle import build_model, read_card
from dff_ros.core.flow_network import COARSE_CELLS, DISFlow, FlowNetS
from dff_ros.core.propagate import FlowFields
from dff_train.flow_losses import COARSE_WEIGHTS, ROUNDING, end_point_loss, flow_loss
from dff_train.objective import DEFAULT_WEIGHTS, batch_losses
from dff_train.recipe import Recipe, Stage, read_recipe
from dff_train.samples import Batch
from dff_train.train import training_step
from dff_train.training import Training

RECIPES = Path(__file__).resolve().parents[1] / "dff_train" / "recipes"
ONLY_FLOW = {**dict.fromkeys(DEFAULT_WEIGHTS, 0.0), "flow": 1.0}


def answered(training: Training, pair: Batch) -> FlowFields:
    """What the flow network says of a pair after training."""
    network = training.model.flow_network.eval()
    with torch.no_grad():
        fields: FlowFields = network(network.prepare(pair.images / 255.0), network.prepare(pair.key_images / 255.0))
    return fields


def shifted_pair(dx: int, dy: int, *, seed: int = 0) -> Batch:
    """A textured key frame and the same shifted: what stands at p in the current frame is at p + (dx, dy) in the key frame."""
    noise = np.random.default_rng(seed).random((64, 96, 3)).astype(np.float32)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    image = torch.from_numpy(smooth.astype(np.uint8)).permute(2, 0, 1)
    flow = torch.tensor([float(dx), float(dy)]).view(1, 2, 1, 1).expand(1, 2, 64, 96)
    return replace(
        batch((3,)),
        images=image.unsqueeze(0),
        key_images=image.roll((dy, dx), (1, 2)).unsqueeze(0),
        labels=torch.full((1, 64, 96), 255, dtype=torch.uint8),
        flow=flow.clone(),
        visible=torch.ones(1, 64, 96, dtype=torch.bool),
        flow_known=torch.tensor([True]),
    )


def flownet_recipe(**changes: Any) -> Recipe:
    architecture = {**tiny_card().architecture, "flow_network": {"kind": "flownet", "width": 0.125}}
    stage = Stage("flow", 1000, batch=1, learning_rate=2e-3, pairs=True, trains=("flow_network",), loss_weights=ONLY_FLOW)
    return recipe(card=tiny_card(architecture=architecture), stages=(replace(stage, **changes),))


def slow_loss(flow: Tensor, truth: Tensor, visible: Tensor, cell: int, stride: int) -> float:
    """Cell by cell: the distance from the mean true flow of its visible pixels, weighed by how much of it is visible."""
    total, weight = 0.0, 0.0
    for image in range(len(flow)):
        for row in range(flow.shape[2]):
            for column in range(flow.shape[3]):
                window = (image, slice(row * cell, (row + 1) * cell), slice(column * cell, (column + 1) * cell))
                seen = visible[window]
                if not seen.any():
                    continue
                wanted = truth[image][:, window[1], window[2]][:, seen].mean(dim=1) / stride
                squared = float((flow[image, :, row, column] - wanted).square().sum())
                share = float(seen.float().mean())
                total += share * ((squared + ROUNDING**2) ** 0.5 - ROUNDING)
                weight += share
    return total / weight


@pytest.mark.parametrize(("cell", "stride"), [(8, 8), (16, 8), (16, 16), (32, 8)])
def test_the_end_point_loss_agrees_with_going_from_cell_to_cell(cell: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(2, 2, 72, 88, generator=generator) * 20
    visible = torch.rand(2, 72, 88, generator=generator) < 0.3
    visible[:, :40, :40] = False
    flow = torch.randn(2, 2, -(-72 // cell), -(-88 // cell), generator=generator)
    found = end_point_loss(flow, truth, visible, cell=cell, stride=stride)
    assert float(found) == pytest.approx(slow_loss(flow, truth, visible, cell, stride), rel=1e-4)


def test_the_right_flow_in_feature_cells_costs_nothing_and_one_cell_beside_costs_one() -> None:
    truth = torch.tensor([24.0, -8.0]).view(1, 2, 1, 1).expand(1, 2, 64, 96)
    visible = torch.ones(1, 64, 96, dtype=torch.bool)
    right = torch.tensor([3.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 8, 12)
    assert float(end_point_loss(right, truth, visible, cell=8, stride=8)) == pytest.approx(0.0, abs=1e-6)
    beside = right + torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert float(end_point_loss(beside, truth, visible, cell=8, stride=8)) == pytest.approx(1.0, abs=ROUNDING)


def test_what_is_not_visible_counts_nothing() -> None:
    truth = torch.zeros(1, 2, 32, 32)
    visible = torch.zeros(1, 32, 32, dtype=torch.bool)
    visible[:, :, 16:] = True
    wrong = torch.full((1, 2, 4, 4), 7.0, requires_grad=True)
    hidden = truth.clone()
    hidden[:, :, :, :16] = 99.0
    loss = end_point_loss(wrong, hidden, visible, cell=8, stride=8)
    torch.testing.assert_close(loss, end_point_loss(wrong, truth, visible, cell=8, stride=8))
    loss.backward()
    assert wrong.grad is not None
    assert wrong.grad[..., :2].abs().max() == 0 and wrong.grad[..., 2:].abs().min() > 0
    nothing = end_point_loss(wrong, truth, torch.zeros_like(visible), cell=8, stride=8)
    assert float(nothing.detach()) == 0.0


def test_every_level_of_the_decoder_is_corrected() -> None:
    network = FlowNetS(channels=4, stride=8, width=0.125)
    pair = shifted_pair(8, -16)
    images = pair.images / 255.0, pair.key_images / 255.0
    loss = flow_loss(network, *images, pair.flow, pair.visible, stride=8)
    length = 5**0.5  # of (1, -2) cells, and every flow starts as 0
    assert float(loss.detach()) == pytest.approx((1 + sum(COARSE_WEIGHTS)) * length, rel=0.01)
    assert len(COARSE_WEIGHTS) == len(COARSE_CELLS)
    loss.backward()
    for step in (network.up5, network.up4, network.up3, network.up2):
        assert step.flow.weight.grad is not None and step.flow.weight.grad.abs().sum() > 0


def test_a_flow_network_without_levels_is_scored_on_its_answer() -> None:
    class Constant(nn.Module):
        def prepare(self, image: Tensor) -> Tensor:
            return image

        def forward(self, current: Tensor, key: Tensor) -> FlowFields:
            return FlowFields(torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 8, 12))

    pair = shifted_pair(8, -16)
    images = pair.images / 255.0, pair.key_images / 255.0
    assert float(flow_loss(Constant(), *images, pair.flow, pair.visible, stride=8)) == pytest.approx(0.0, abs=1e-6)


def test_the_known_flow_has_the_direction_that_flow_networks_have() -> None:
    pair = shifted_pair(8, -4)
    inner = torch.zeros_like(pair.visible)
    inner[:, 16:-16, 16:-16] = True
    images = pair.images / 255.0, pair.key_images / 255.0
    assert float(flow_loss(DISFlow(stride=8), *images, pair.flow, inner, stride=8)) < 0.3  # copying would cost 1.1


def test_a_shift_is_learned_to_half_a_pixel(tmp_path: Path) -> None:
    training = Training(flownet_recipe(), tmp_path, CPU)
    training.step = 200  # past the warm-up
    pair = shifted_pair(6, -4)
    first = training_step(training, pair)["flow"]
    for _ in range(60):
        last = training_step(training, pair)["flow"]
    assert last < 0.2 * first
    error = (answered(training, pair).flow * 8.0 - torch.tensor([6.0, -4.0]).view(1, 2, 1, 1)).norm(dim=1)
    assert float(error.mean()) < 0.5


def test_a_stage_of_flow_alone_asks_no_other_network(tmp_path: Path) -> None:
    training = Training(flownet_recipe(), tmp_path, CPU)

    def refuse(*_: object) -> None:
        raise AssertionError("evaluated")

    for module in (training.model.feature_network, *training.model.heads.values()):
        module.register_forward_pre_hook(refuse)
    assert set(training_step(training, shifted_pair(6, -4))) == {"flow"}


def test_pairs_whose_flow_is_not_known_teach_no_flow(tmp_path: Path) -> None:
    training = Training(flownet_recipe(), tmp_path, CPU)
    before = {name: weight.clone() for name, weight in training.model.state_dict().items()}
    unknown = replace(shifted_pair(6, -4), flow=None, visible=None, flow_known=torch.tensor([False]))
    assert training_step(training, unknown) == {"flow": 0.0}
    for name, weight in training.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_the_flow_loss_joins_the_others() -> None:
    architecture = {**tiny_card().architecture, "flow_network": {"kind": "flownet", "width": 0.125}}
    model = build_model(tiny_card(architecture=architecture))
    weights = {**dict.fromkeys(DEFAULT_WEIGHTS, 0.0), "flow": 1.0, "segmentation": 1.0}
    losses = batch_losses(model, shifted_pair(6, -4), CPU, pairs=True, weights=weights)
    assert set(losses) == {"flow", "segmentation"}


def test_a_recipe_follows_a_bundle_in_what_it_does_not_say(tmp_path: Path, refined_bundle: Path) -> None:
    content = yaml.safe_load((RECIPES / "flow_half.yaml").read_text())
    content["card"]["like"] = str(refined_bundle)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    card, bundle = read_recipe(tmp_path / "recipe.yaml").card, read_card(refined_bundle)
    assert card.name == "street_flow_half" and card.segmentation_classes == bundle.segmentation_classes
    assert card.input_pixels == bundle.input_pixels and card.figures == {}
    assert card.architecture["flow_network"] == {"kind": "flownet_half"} and "refine_network" not in card.architecture
    assert card.architecture["feature_network"] == bundle.architecture["feature_network"]
    content["card"]["like"] = str(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="no bundle"):
        read_recipe(tmp_path / "recipe.yaml")


def test_consistency_teaches_flow_and_scale_without_labels_and_nothing_else(tmp_path: Path) -> None:
    feature_alone = {**dict.fromkeys(DEFAULT_WEIGHTS, 0.0), "feature": 1.0}
    training = Training(flownet_recipe(loss_weights=feature_alone), tmp_path, CPU)
    training.step = 200  # past the warm-up
    before = {name: weight.clone() for name, weight in training.model.state_dict().items()}
    pair = shifted_pair(8, 0)
    darker = replace(pair, key_images=(pair.key_images * 0.5).to(torch.uint8))  # no flow turns this key's feature into the frame's
    first = training_step(training, darker)["feature"]
    for _ in range(40):
        last = training_step(training, darker)["feature"]
    assert last < 0.7 * first
    fields = answered(training, darker)
    assert float((fields.scale - 1.0).abs().mean()) > 0.01 and float(fields.flow.abs().max()) > 0.01
    for name, weight in training.model.state_dict().items():
        assert name.startswith("flow_network.") or torch.equal(weight, before[name]), name
