"""Training of what chains flow: fields over the frames between, by whom they are measured, and who gives the frames."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import tiny_card
from test_train import CPU, batch, label_free, recipe
from torch import Tensor
from training_data import write_camvid

from dff_ros.core.bundle import Card, build_model, load_bundle, save_bundle
from dff_ros.core.flow_network import FLOWNETS
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.propagate import FlowFields, chain, propagate
from dff_ros.recording.drive import GeneratedDrive
from dff_train import distill as distilling
from dff_train.augment import Augmentation, augment
from dff_train.cli import main
from dff_train.clips import Clip
from dff_train.disagreement import disagreement
from dff_train.distillation import feature_loss
from dff_train.flow_losses import end_point_loss
from dff_train.motion import make_pair
from dff_train.objective import DEFAULT_WEIGHTS, batch_losses, extract, propagated, way_back
from dff_train.recipe import Stage
from dff_train.samples import Batch, collate
from dff_train.source_pairs import Truth
from dff_train.train import stage_dataset, train, training_step
from dff_train.training import Training


def chaining_card(flow_network: dict[str, object] | None = None, *, branch: bool = False) -> Card:
    architecture = {**tiny_card().architecture, "flow_network": {**(flow_network or {"kind": "dis"}), "chained": True}}
    refine_network = {"refine_network": {"kind": "light", "width": 16, "blocks": (1, 1)}} if branch else {}
    return tiny_card(architecture={**architecture, **refine_network})


FLOWNET = {"kind": "flownet", "width": 0.125}


def answering(card: Card) -> DeepFeatureFlow:
    """A model of the card whose flow network answers more than zeros and ones."""
    torch.manual_seed(0)
    model = build_model(card).eval()
    if card.architecture["flow_network"]["kind"] in FLOWNETS:
        for answer in (model.flow_network.flow, model.flow_network.scale):
            torch.nn.init.normal_(answer.weight, std=0.02)
    return model


def drive_batch(offsets: tuple[int, ...]) -> Batch:
    """Pairs of a generated drive with their frames between."""
    drive = GeneratedDrive(2, 40, width=96, height=64, rate=10.0)
    frames = torch.stack([torch.from_numpy(np.ascontiguousarray(item.frame)).permute(2, 0, 1) for item in drive])
    now = [10 + 5 * index for index in range(len(offsets))]
    return replace(
        batch(offsets),
        images=frames[now],
        key_images=frames[[index - offset for index, offset in zip(now, offsets, strict=True)]],
        between=[frames[index - offset + 1 : index] for index, offset in zip(now, offsets, strict=True)],
    )


def network_inputs(pairs: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
    return pairs.images / 255.0, pairs.key_images / 255.0, [frames / 255.0 for frames in pairs.between]


def slow_way_back(model: DeepFeatureFlow, image: Tensor, key_image: Tensor, between: Tensor) -> FlowFields:
    """One pair, from frame to frame, each step on its own."""
    network = model.flow_network
    frames = [key_image, *between, image]
    fields: FlowFields | None = None
    for before, now in itertools.pairwise(frames):
        step = network(network.prepare(now.unsqueeze(0)), network.prepare(before.unsqueeze(0)))
        fields = step if fields is None else chain(step, fields)
    assert fields is not None
    return fields


@pytest.mark.parametrize("flow_network", [{"kind": "dis"}, FLOWNET])
def test_ways_of_several_lengths_are_chained_as_each_on_its_own(flow_network: dict[str, object]) -> None:
    model = answering(chaining_card(flow_network))
    image, key_image, between = network_inputs(drive_batch((4, 1, 9, 2, 4)))
    with torch.no_grad():
        fields = way_back(model, image, key_image, between)
        slow = [slow_way_back(model, *each) for each in zip(image, key_image, between, strict=True)]
        direct = way_back(model, image, key_image)
    assert (fields.scale is None) == (flow_network["kind"] == "dis")
    for index, expected in enumerate(slow):
        torch.testing.assert_close(fields.flow[index : index + 1], expected.flow, atol=1e-4, rtol=1e-4)
        assert (fields.fine is None) == (expected.fine is None) == (flow_network["kind"] != "dis")
        if fields.fine is not None and expected.fine is not None:
            torch.testing.assert_close(fields.fine[index : index + 1], expected.fine, atol=1e-4, rtol=1e-4)
        if fields.scale is not None and expected.scale is not None:
            torch.testing.assert_close(fields.scale[index : index + 1], expected.scale, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fields.flow[1], direct.flow[1], atol=1e-4, rtol=1e-4)
    assert float((fields.flow[2] - direct.flow[2]).abs().max()) > 0.01, "a long way is another than the direct one"


def test_the_objective_propagates_along_chained_flow() -> None:
    model = answering(chaining_card())
    pairs = drive_batch((0, 5, 3))
    weights = {**dict.fromkeys(DEFAULT_WEIGHTS, 0.0), "feature": 1.0}
    losses = batch_losses(model, pairs, CPU, pairs=True, weights=weights, teacher=model)
    image, key_image, between = network_inputs(pairs)
    feature, taught = extract(model.feature_network, key_image), extract(model.feature_network, image)
    for index in (1, 2):
        fields = slow_way_back(model, image[index], key_image[index], between[index])
        feature = feature.index_copy(0, torch.tensor([index]), propagate(feature[index : index + 1], fields))
    torch.testing.assert_close(losses["feature"], feature_loss(feature, taught), atol=1e-3, rtol=1e-3)


def test_over_a_long_made_pair_chained_search_finds_the_known_flow_and_direct_search_does_not() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    still = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)
    view = Augmentation(crop=(240, 320), pixels=240 * 320, scale=(1.0, 1.0), aspect=0.0, look=False, between=True)
    model, errors = answering(chaining_card()), []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pair = collate([augment(make_pair(np.asarray(still), Truth(), 9, [], "camvid", rng), view, rng)])
        assert pair.flow is not None and pair.visible is not None
        image, key_image, between = network_inputs(pair)
        found = [way_back(model, image, key_image, frames).flow for frames in (between, ())]
        errors.append([float(end_point_loss(flow, pair.flow, pair.visible, cell=8, stride=8)) for flow in found])
    chained, direct = np.mean(errors, axis=0)
    assert chained < 0.5 and chained < 0.5 * direct, "in feature cells"


@pytest.mark.parametrize("chains_flow", [False, True])
def test_flow_is_direct_where_the_model_does_not_chain_or_no_frame_between_is_known(chains_flow: bool) -> None:
    model = answering(chaining_card())
    model.chains_flow = chains_flow
    image, key_image, between = network_inputs(drive_batch((6, 6)))
    direct = model.flow_network(*map(model.flow_network.prepare, (image, key_image)))
    unknown = [frames[:0] for frames in between]
    assert torch.equal(way_back(model, image, key_image, unknown if chains_flow else between).flow, direct.flow)
    assert torch.equal(way_back(model, image, key_image).flow, direct.flow)
    if chains_flow:
        mixed = way_back(model, image, key_image, [between[0][:0], between[1]]).flow
        assert torch.equal(mixed[0], direct.flow[0]) and not torch.equal(mixed[1], direct.flow[1])


def test_every_frame_is_prepared_once_and_all_steps_are_measured_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    model = answering(chaining_card(FLOWNET))
    prepared, measured = [], []
    prepare, forward = model.flow_network.prepare, model.flow_network.forward
    monkeypatch.setattr(model.flow_network, "prepare", lambda image: prepared.append(len(image)) or prepare(image))
    monkeypatch.setattr(model.flow_network, "forward", lambda now, before: measured.append(len(now)) or forward(now, before))
    way_back(model, *network_inputs(drive_batch((4, 1, 3))))
    assert prepared == [2 * 3 + 3 + 0 + 2] and measured == [4 + 1 + 3]


def test_the_gradient_reaches_every_step_of_a_chain_of_three() -> None:
    model = answering(chaining_card(FLOWNET))
    answers: list[Tensor] = []

    def keep(*call: object) -> None:
        fields = call[-1]
        assert isinstance(fields, FlowFields) and fields.scale is not None
        for answer in (fields.flow, fields.scale):
            answer.retain_grad()
            answers.append(answer)

    model.flow_network.register_forward_hook(keep)
    image, key_image, between = network_inputs(drive_batch((3,)))
    feature = torch.rand(1, 32, 8, 12)
    propagated(model, feature, image, key_image, torch.tensor([3]), between).square().sum().backward()
    flow, scale = (answer.grad for answer in answers)
    assert flow is not None and scale is not None and len(flow) == len(scale) == 3
    assert all(bool(step.any()) and bool(torch.isfinite(step).all()) for each in (flow, scale) for step in each)
    assert all(bool(answer.weight.grad.any()) for answer in (model.flow_network.flow, model.flow_network.scale))


@pytest.mark.parametrize("flow_network", [{"kind": "dis"}, FLOWNET])
def test_a_flow_network_that_does_not_learn_leaves_no_graph(flow_network: dict[str, object]) -> None:
    model = answering(chaining_card(flow_network))
    model.flow_network.requires_grad_(False)
    fields = way_back(model, *network_inputs(drive_batch((4, 2))))
    assert not fields.flow.requires_grad and (fields.scale is None or not fields.scale.requires_grad)


def test_the_branch_learns_on_what_chained_flow_carries(tmp_path: Path) -> None:
    stage = Stage("branch", 10, batch=2, pairs=True, trains=("refine_network",), loss_weights=label_free())
    training = Training(recipe(card=chaining_card(branch=True), stages=(stage,)), tmp_path, CPU)
    seen: list[FlowFields] = []
    training.model.refine_network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[3]))
    before = training.model.refine_network.correction.weight.clone()
    pairs = drive_batch((5, 3))
    training_step(training, pairs)
    assert not torch.equal(training.model.refine_network.correction.weight, before)
    expected = [slow_way_back(training.model, *each).flow for each in zip(*network_inputs(pairs), strict=True)]
    torch.testing.assert_close(seen[0].flow, torch.cat(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chained", [False, True])
def test_frames_between_are_drawn_for_stages_of_pairs_of_models_that_chain(tmp_path: Path, chained: bool) -> None:
    write_camvid(tmp_path)
    stages = (Stage("stills", 1, batch=2), Stage("pairs", 2, batch=2, pairs=True, offsets=(3, 3)))
    training = Training(recipe(card=chaining_card() if chained else tiny_card(), stages=stages), tmp_path / "run", CPU)
    assert stage_dataset(training, tmp_path)[0].between is None
    training.next_stage()
    samples = [stage_dataset(training, tmp_path)[index] for index in range(4)]
    assert [sample.offset for sample in samples] == [3] * 4
    assert [None if sample.between is None else len(sample.between) for sample in samples] == [2 if chained else None] * 4
    train(training, tmp_path, workers=0)
    assert training.finished


@pytest.mark.parametrize("flow_network", [{"kind": "dis"}, FLOWNET])
@pytest.mark.parametrize("interval", [2, 4])
def test_the_disagreement_of_a_model_that_chains_is_that_along_the_frames_between(flow_network: dict[str, object], interval: int) -> None:
    model = answering(chaining_card(flow_network))
    frames = [item.frame for item in GeneratedDrive(2, 2 * interval, width=160, height=120, rate=10.0)]
    clip = Clip("clip", frames, [Truth()] * len(frames))
    found = disagreement(model, [clip], interval=interval, pixels=19_200, device=CPU)
    images = torch.stack([torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1) for frame in frames]) / 255.0
    features, expected = extract(model.feature_network, images), []
    for now in range(interval - 1, len(frames)):
        for age in range(interval - 1, 0, -1):
            key = now - age
            arguments = features[key : key + 1], images[now : now + 1], images[key : key + 1], torch.tensor([age])
            with torch.no_grad():
                answer = propagated(model, *arguments, [images[key + 1 : now]])
            expected.append(float(feature_loss(answer, features[now : now + 1])))
    assert found.features == pytest.approx(expected, rel=1e-2, abs=1e-4)


def test_a_bundle_that_chains_is_distilled_with_frames_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drive").mkdir()
    for item in GeneratedDrive(2, 20, width=160, height=120, rate=10.0):
        cv2.imwrite(str(tmp_path / f"drive/{item.index:03d}.png"), np.ascontiguousarray(item.frame[..., ::-1]))
    card = chaining_card()
    save_bundle(tmp_path / "chains", card, build_model(card))
    crops, opened = distilling.crops, []
    monkeypatch.setattr(distilling, "crops", lambda *given, **how: opened.append(crops(*given, **how)) or opened[-1])
    command = ["distill", "--model", str(tmp_path / "chains"), "--frames", str(tmp_path / "drive"), "--to", str(tmp_path / "mine")]
    options = ["--run", str(tmp_path / "run"), "--interval", "4", "--steps", "2", "--device", "cpu", "--workers", "0"]
    assert main([*command, *options]) == 0
    samples = [opened[0][index] for index in range(20)]
    assert [len(sample.between) for sample in samples if sample.between is not None] == [sample.offset - 1 for sample in samples]
    made_card, made = load_bundle(str(tmp_path / "mine"))
    assert made.chains_flow and made_card.architecture["flow_network"] == {"kind": "dis", "chained": True}
