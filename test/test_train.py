"""Training: recipes are checked, both stages learn, and an interrupted run ends where the whole one does."""

from __future__ import annotations

import copy
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import tiny_card
from training_data import write_camvid

from dff_ros.core.bundle import Card, build_model, load_bundle, save_bundle
from dff_ros.core.propagate import FlowFields, propagate
from dff_ros.core.results import Task
from dff_train.cli import main
from dff_train.losses import unlabelled_objects
from dff_train.objective import DEFAULT_WEIGHTS, batch_losses, carried, extract
from dff_train.parts import bundle_teacher, frozen_teacher
from dff_train.precision import mixed_precision
from dff_train.recipe import Recipe, Stage, read_recipe
from dff_train.samples import Batch
from dff_train.train import learning_rate_factor, train, training_step
from dff_train.training import Training, moving_average

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_camvid(folder)
    return folder


def recipe(**changes: Any) -> Recipe:
    stages = (Stage("per-frame", 3, batch=2), Stage("end-to-end", 3, batch=2, pairs=True))
    values: dict[str, Any] = {"card": tiny_card(), "sources": {"camvid": 1.0}, "stages": stages, "crop": (64, 96)}
    return Recipe(**{**values, **changes})


def batch(offsets: tuple[int, ...], seed: int = 0) -> Batch:
    """Random key and current images; the left half is road, the right half a car."""
    generator = torch.Generator().manual_seed(seed)
    count = len(offsets)
    images, keys = (torch.randint(0, 256, (count, 3, 64, 96), generator=generator, dtype=torch.uint8) for _ in range(2))
    still = torch.tensor(offsets) == 0
    keys[still] = images[still]
    labels = torch.full((count, 64, 96), 3, dtype=torch.uint8)
    labels[:, :, 48:] = 8
    return Batch(
        key_images=keys,
        images=images,
        offsets=torch.tensor(offsets),
        labels=labels,
        boxes=[torch.tensor([[48.0, 8.0, 90.0, 60.0]])] * count,
        box_labels=[torch.tensor([1])] * count,
        ignore_boxes=[torch.zeros(0, 4)] * count,
        labelled_classes=torch.ones(count, 3, dtype=torch.bool),
        sources=["test"] * count,
        flow=None,
        visible=None,
        flow_known=torch.zeros(count, dtype=torch.bool),
    )


def tiny_card_with_branch() -> Card:
    """The tiny card with a branch on the current frame."""
    return tiny_card(architecture={**tiny_card().architecture, "refine_network": {"kind": "light", "width": 16, "blocks": (1, 1)}})


def label_free() -> dict[str, float]:
    """Weights of losses that need no label, all others 0."""
    return {**dict.fromkeys(DEFAULT_WEIGHTS, 0.0), "feature": 0.3, "distil_segmentation": 1.0, "distil_detection": 1.0}


def unlabelled(labelled: Batch) -> Batch:
    """The same frames without truth."""
    count = len(labelled)
    nothing = [torch.zeros(0, 4)] * count
    return replace(
        labelled,
        labels=torch.full_like(labelled.labels, 255),
        boxes=nothing,
        box_labels=[torch.zeros(0, dtype=torch.long)] * count,
        labelled_classes=torch.zeros(count, 3, dtype=torch.bool),
    )


def test_the_shipped_recipes_are_readable_and_build_their_networks() -> None:
    paths = sorted((REPOSITORY / "dff_train" / "recipes").glob("*.yaml"))
    assert paths
    for path in paths:
        with torch.device("meta"):
            assert build_model(read_recipe(path).card).heads


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("stages"), "stages"),
        (lambda content: content["stages"][0].update(epochs=3), "stage knows .*, got epochs"),
        (lambda content: content.update(class_weights=[1, 2]), "class_weights should be 11 numbers above 0, got \\[1.0, 2.0\\]"),
        (lambda content: content.update(loss_weights={"colour": 1}), "losses are .*, got colour"),
        (lambda content: content["stages"][1].update(offsets=[9]), "offsets should be the fewest and the most .*, got \\[9\\]"),
        (lambda content: content["stages"][1].update(offsets=9), "offsets should be a list, got 9"),
        (lambda content: content["stages"][1].update(trains="heads"), "trains should be a list, got 'heads'"),
        (lambda content: content["stages"][1].update(offsets=[1, 9], pairs=False), "offsets belong to pairs, got \\[1, 9\\]"),
        (lambda content: content.update(colour="red"), "recipe knows .*, got colour"),
        (
            lambda content: content["card"]["detection_classes"].reverse(),
            "those of the sources, person, car, bicyclist, got bicyclist, car, person",
        ),
        (lambda content: content["card"].update(palette=[]), "palette should have 11 colours, got 0"),
        (lambda content: content["stages"][0].update(learning_rate="1e-3"), "learning_rate should be of type float, got '1e-3'"),
        (lambda content: content["stages"][0].update(steps=1.5), "steps should be of type int, got 1.5"),
        (lambda content: content["stages"][0].update(batch=0), "batch should be at least 1, got 0"),
        (lambda content: content["stages"][0].update(trains=[1]), "trains should be of type tuple\\[str, ...\\], got \\(1,\\)"),
        (lambda content: content["stages"][0].pop("steps"), "stage should have steps"),
        (lambda content: content.update(stages=["fusion"]), "stage should be a mapping, got 'fusion'"),
        (lambda content: content.update(stages=[]), "at least one stage"),
        (lambda content: content.update(sources=["camvid"]), "sources should be of type Mapping"),
        (lambda content: content.update(sources={"camvid": None}), "sources should be of type Mapping"),
        (lambda content: content.update(crop=[240]), "crop should be of type tuple\\[int, int\\], got \\(240,\\)"),
        (lambda content: content.update(seed=-1), "max_offset and seed should be at least 0 .*, got 12, -1 and"),
        (lambda content: content.update(ema_decay=True), "ema_decay should be of type float, got True"),
        (lambda content: content.update(card={"like": "street", "architecture": None}), "architecture should be a mapping, got None"),
        (lambda content: content.clear(), "recipe should have card, sources, stages"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_file_and_what_came(tmp_path: Path, change: Any, message: str) -> None:
    content = yaml.safe_load((REPOSITORY / "dff_train/recipes/street.yaml").read_text())
    change(content)
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message) as caught:
        read_recipe(path)
    assert "wrong.yaml" in str(caught.value)


@pytest.mark.parametrize("pairs", [False, True])
def test_losses_fall_on_a_batch_seen_again_and_again(tmp_path: Path, pairs: bool) -> None:
    stage = Stage("only", 1000, batch=2, learning_rate=5e-3, pairs=pairs)
    training = Training(recipe(stages=(stage,)), tmp_path, CPU)
    training.step = 200  # past the warm-up
    same = batch((0, 4) if pairs else (0, 0))
    first = sum(training_step(training, same).values())
    for _ in range(15):
        last = sum(training_step(training, same).values())
    assert last < 0.7 * first


def test_training_takes_bfloat16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    convolution, image = torch.nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 8, 8)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported, raising=False)
        with mixed_precision(CPU):
            assert convolution(image).dtype == expected


@pytest.mark.parametrize("native", [True, False])
def test_networks_and_branches_learn_in_that_precision(native: bool, refined_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    model, found = load_bundle(str(refined_bundle))[1], set()
    convolutions = (module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    for convolution in (*convolutions,):
        convolution.register_forward_hook(lambda *passed: found.add(passed[-1].dtype))
    image = torch.rand(1, 3, 64, 96)
    feature = extract(model.feature_network, image)
    assert found == {torch.bfloat16 if native else torch.float32} and feature.dtype == torch.float32
    found.clear()
    still = FlowFields(torch.zeros(1, 2, 8, 12))
    corrected = carried(model, model.carried_map(feature), image, image, torch.ones(1), still)
    assert found == {torch.bfloat16 if native else torch.float32} and corrected.dtype == torch.float32


def test_pairs_are_scored_on_the_key_feature_carried_by_the_flow_and_stills_on_their_own() -> None:
    torch.manual_seed(0)
    model = build_model(tiny_card()).eval()
    mixed = batch((0, 3))
    losses = batch_losses(model, mixed, CPU, pairs=True)
    key_images, images = mixed.key_images.float() / 255, mixed.images.float() / 255
    with torch.no_grad():
        with mixed_precision(CPU):
            feature = model.feature_network(key_images)
        flow = model.flow_network(model.flow_network.prepare(images[1:]), model.flow_network.prepare(key_images[1:]))
        carried = propagate(feature[1:].float(), FlowFields(flow.flow))
        scores = model.heads["segmentation"](torch.cat([feature[:1].float(), carried]))
        scores = torch.nn.functional.interpolate(scores, (64, 96), mode="bilinear")
        expected = torch.nn.functional.cross_entropy(scores, mixed.labels.long())
    torch.testing.assert_close(losses["segmentation"].detach(), expected, atol=1e-3, rtol=1e-3)


def test_end_to_end_training_reaches_every_weight_of_a_flow_network() -> None:
    architecture = {**tiny_card().architecture, "flow_network": {"kind": "flownet", "width": 0.125}}
    model = build_model(tiny_card(architecture=architecture))
    with torch.no_grad():
        for answer in (model.flow_network.flow, model.flow_network.scale):
            torch.nn.init.normal_(answer.weight, std=0.1)  # they start as 0, behind which nothing learns
    losses = batch_losses(model, batch((2, 5)), CPU, pairs=True)
    torch.stack(list(losses.values())).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and bool(torch.isfinite(weight.grad).all()), name
    learning = [bool(weight.grad.any()) for weight in model.flow_network.parameters() if weight.grad is not None]
    assert sum(learning) > 0.8 * len(learning)  # but for those before the decoder's own flows, which start as 0 too


def test_batch_norm_of_the_feature_network_is_frozen_on_pairs_and_that_of_the_branch_learns(tmp_path: Path) -> None:
    for pairs in (False, True):
        training = Training(recipe(card=tiny_card_with_branch(), stages=(Stage("only", 10, pairs=pairs),)), tmp_path, CPU)
        model = training.model
        statistics = [model.feature_network.stem[1].running_mean, model.refine_network.encoder[0][1].running_mean]
        before = [each.clone() for each in statistics]
        training_step(training, batch((0, 1)))
        assert [torch.equal(*each) for each in zip(statistics, before, strict=True)] == [pairs, not pairs]


def test_only_the_parts_of_a_stage_learn_and_the_rest_keeps_every_bit(tmp_path: Path) -> None:
    distilled = {"feature": 0.3, "distil_segmentation": 1.0, "distil_detection": 1.0}
    stages = (
        Stage("branch", 10, batch=2, pairs=True, trains=("refine_network",), loss_weights=distilled),
        Stage("heads", 10, batch=2, trains=("heads", "feature_network.reduce")),
    )
    training = Training(recipe(card=tiny_card_with_branch(), stages=stages), tmp_path, CPU)
    for parts in (("refine_network.",), ("heads.", "feature_network.reduce.")):
        before = {name: weight.clone() for name, weight in training.model.state_dict().items()}
        averaged = {name: weight.clone() for name, weight in training.average.module.state_dict().items()}
        for seed in range(4):
            training_step(training, batch((1, 4) if training.stage.pairs else (0, 0), seed))
        for name, weight in training.model.named_parameters():
            assert (weight.grad is not None) == name.startswith(parts), name
        for after, was in ((training.model, before), (training.average.module, averaged)):
            changed = {name for name, weight in after.state_dict().items() if not torch.equal(weight, was[name])}
            assert changed and all(name.startswith(parts) for name in changed), changed
        training.next_stage()


def test_a_part_without_weights_cannot_be_trained(tmp_path: Path) -> None:
    stage = Stage("flow", 10, pairs=True, trains=("flow_network",))
    with pytest.raises(ValueError, match=r"\(feature_network, heads, or a part of these\), got flow_network"):
        Training(recipe(stages=(stage,)), tmp_path, CPU)


def test_the_branch_alone_learns_from_the_frozen_teacher_without_any_label(tmp_path: Path) -> None:
    stage = Stage("branch", 1000, batch=2, learning_rate=1e-2, pairs=True, trains=("refine_network",), loss_weights=label_free())
    training = Training(recipe(card=tiny_card_with_branch(), stages=(stage,)), tmp_path, CPU)
    training.step = 200
    for weight in training.model.heads.parameters():
        torch.nn.init.normal_(weight, std=0.2)  # fresh heads say so little that there is nothing to distil
    same = unlabelled(batch((1, 4)))
    first = training_step(training, same)
    assert set(first) == {"feature", "distil_segmentation", "distil_detection"}
    for _ in range(60):
        last = training_step(training, same)
    assert all(last[name] < 0.8 * first[name] for name in first), (first, last)


def test_a_pair_of_offset_0_is_its_own_teacher(tmp_path: Path) -> None:
    stage = Stage("branch", 10, batch=2, pairs=True, trains=("refine_network",), loss_weights=label_free())
    training = Training(recipe(card=tiny_card_with_branch(), stages=(stage,)), tmp_path, CPU)
    before = [weight.clone() for weight in training.model.parameters()]
    losses = training_step(training, batch((0, 0)))
    assert losses == pytest.approx({"feature": 0.0, "distil_segmentation": 0.0, "distil_detection": 0.0}, abs=1e-5)
    assert all(torch.equal(*each) for each in zip(before, training.model.parameters(), strict=True))


def test_the_teacher_stays_as_the_stage_found_it_while_the_model_learns_and_across_a_restart(tmp_path: Path) -> None:
    stage = Stage("joint", 50, batch=2, learning_rate=1e-2, pairs=True, loss_weights={"feature": 1.0})
    changed = recipe(card=tiny_card_with_branch(), stages=(stage,))
    training = Training(changed, tmp_path, CPU)
    found = {name: weight.clone() for name, weight in training.model.feature_network.state_dict().items()}
    training.step = 40
    training_step(training, batch((1, 4)))
    training.save()
    resumed = Training(changed, tmp_path, CPU)
    assert resumed.resume()
    for each in (training, resumed):
        assert each.teacher is not None
        assert all(torch.equal(weight, found[name]) for name, weight in each.teacher.feature_network.state_dict().items())
    assert not all(torch.equal(weight, found[name]) for name, weight in resumed.model.feature_network.state_dict().items())


def test_a_bundle_can_be_the_teacher_and_one_that_does_not_fit_is_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    stage = Stage("branch", 10, batch=2, pairs=True, teacher=str(tiny_bundle), loss_weights={"feature": 1.0, "distil_detection": 1.0})
    training = Training(recipe(card=tiny_card_with_branch(), stages=(stage,)), tmp_path, CPU)
    assert training_step(training, batch((0, 4)))["feature"] > 0
    feature_network = {**tiny_card().architecture["feature_network"], "channels": 16}
    card = tiny_card(architecture={**tiny_card().architecture, "feature_network": feature_network})
    with pytest.raises(ValueError, match="teacher .*tiny should have"):
        Training(recipe(card=card, stages=(stage,)), tmp_path, CPU)


@pytest.mark.parametrize(
    ("part", "value"),
    [("segmentation", {"subcells": 2}), ("detection", {**tiny_card().architecture["detection"], "anchors": ((9.0, 9.0),) * 2})],
)
def test_a_teacher_whose_maps_mean_something_else_does_not_fit(tmp_path: Path, tiny_bundle: Path, part: str, value: Any) -> None:
    card = tiny_card(architecture={**tiny_card().architecture, part: value})
    with pytest.raises(ValueError, match="teacher .*tiny should have"):
        bundle_teacher(str(tiny_bundle), build_model(card), card)


@pytest.mark.parametrize("teacher", ["runs/none", "other"])
def test_the_teacher_of_a_late_stage_is_looked_for_when_the_run_starts(tmp_path: Path, teacher: str, data: Path) -> None:
    card = tiny_card(architecture={**tiny_card().architecture, "segmentation": {"subcells": 2}})
    save_bundle(tmp_path / "other", card, build_model(card))
    late = Stage("late", 1, batch=2, pairs=True, teacher=teacher.replace("other", str(tmp_path / "other")), loss_weights=label_free())
    several = recipe(stages=(*recipe().stages, late))
    training = Training(several, tmp_path / "run", CPU)
    with pytest.raises(ValueError, match=f"stage 'late': .*{teacher}"):
        train(training, data, workers=0)
    assert training.step == 0
    training.stage_index = 3  # done, so that nobody is to be taught any more
    train(training, data, workers=0)


def test_a_frozen_network_answers_for_key_frames_and_as_the_teacher_in_one_batch_without_a_graph(tmp_path: Path) -> None:
    stage = Stage("branch", 10, batch=2, pairs=True, trains=("refine_network",), loss_weights=label_free())
    training = Training(recipe(card=tiny_card_with_branch(), stages=(stage,)), tmp_path, CPU)
    seen: list[tuple[int, bool]] = []
    network = training.model.feature_network
    network.register_forward_hook(lambda module, inputs, output: seen.append((len(inputs[0]), output.requires_grad)))
    training_step(training, batch((0, 1, 4)))
    assert seen == [(5, False)], "three key frames, and the two current frames that are not their own key"


def test_what_weighs_nothing_is_not_computed() -> None:
    model = build_model(tiny_card_with_branch())
    weights = {**DEFAULT_WEIGHTS, "lovasz": 0.0, "rpn_class": 0.0, "rpn_box": 0.0, "rfcn_class": 0.0, "rfcn_box": 0.0}
    model.heads["detection"].forward = None  # would fail if called
    assert set(batch_losses(model, batch((1, 2)), CPU, pairs=True, weights=weights)) == {"segmentation"}


def test_the_labelled_loss_knows_what_the_teacher_sees_even_where_its_boxes_are_not_distilled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(tiny_card_with_branch())
    partial = replace(batch((1, 2)), labelled_classes=torch.tensor([[True, True, True], [False, True, False]]))
    given: list[Any] = []

    def noted(head: Any, taught: Any, truths: Any, *size: int) -> list[torch.Tensor]:
        given.append((taught.objectness.requires_grad, [truth.labelled_classes.tolist() for truth in truths], size))
        return unlabelled_objects(head, taught, truths, *size)

    monkeypatch.setattr("dff_train.losses.unlabelled_objects", noted)
    weights = {**DEFAULT_WEIGHTS, "feature": 1.0}
    for teacher in (None, frozen_teacher(model)):
        losses = batch_losses(model, partial, CPU, pairs=True, weights=weights, teacher=teacher)
        assert "rpn_class" in losses and "distil_detection" not in losses
    assert given == [(False, partial.labelled_classes.tolist(), (64, 96))]


def test_the_moving_average_forgets_where_it_started_and_then_keeps_long() -> None:
    update = moving_average(0.999)
    averaged = torch.tensor(100.0)
    for count in range(1, 100):
        averaged = update(averaged, torch.tensor(0.0), count)
    assert averaged < 1e-3
    assert update(torch.tensor(1.0), torch.tensor(0.0), 100_000) == pytest.approx(0.999)


def test_the_learning_rate_warms_up_and_comes_down() -> None:
    curve = [learning_rate_factor(step, 1000) for step in range(1000)]
    assert curve[0] == pytest.approx(1 / 200) and max(curve) == pytest.approx(1.0) and curve.index(max(curve)) in (199, 200)
    assert curve[-1] == pytest.approx(0.01, abs=1e-3)


def test_an_interrupted_run_ends_in_the_same_weights(tmp_path: Path, data: Path) -> None:
    stages = (
        Stage("per-frame", 2, batch=2),
        Stage("branch", 2, batch=2, pairs=True, offsets=(1, 12), trains=("refine_network",), loss_weights=label_free()),
        Stage("end-to-end", 3, batch=2, pairs=True, loss_weights={"feature": 0.3, "distil_segmentation": 1.0}),
    )
    several = recipe(card=tiny_card_with_branch(), stages=stages)
    whole = Training(several, tmp_path / "whole", CPU)
    train(whole, data, workers=0)
    assert whole.finished
    for _ in range(20):
        part = Training(several, tmp_path / "parts", CPU)
        part.resume()
        if part.finished:
            break
        train(part, data, workers=0, time_limit_s=0.01)  # a step or so at a time
    assert part.finished
    for name, weight in whole.average.state_dict().items():
        torch.testing.assert_close(weight, part.average.state_dict()[name], msg=name)


def test_a_run_of_other_networks_is_not_taken_up(tmp_path: Path) -> None:
    Training(recipe(), tmp_path, CPU).save()
    other = Training(recipe(card=tiny_card_with_branch()), tmp_path, CPU)
    with pytest.raises(ValueError, match=r"checkpoint.pt should be of the networks that the recipe's card names, got others: .*refine"):
        other.resume()


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        ({}, False),
        ({"card": tiny_card(description="better words", figures={"miou": 0.7})}, False),
        ({"sources": {"camvid": 0.5, "drives": 0.5}}, True),
        ({"card": tiny_card(input_pixels=40_000)}, True),
        ({"stages": (Stage("per-frame", 3, batch=2), Stage("end-to-end", 9, batch=2, pairs=True))}, True),
    ],
)
def test_a_run_goes_on_with_an_edited_recipe_and_says_so(tmp_path: Path, edit: dict[str, Any], changed: bool) -> None:
    Training(recipe(), tmp_path, CPU).save()
    resumed = Training(recipe(**edit), tmp_path, CPU)
    assert resumed.resume() and resumed.recipe_changed == changed
    resumed.save()
    again = Training(recipe(**edit), tmp_path, CPU)
    assert again.resume() and not again.recipe_changed


def test_a_checkpoint_that_has_come_further_than_the_recipe_goes_is_refused(tmp_path: Path) -> None:
    training = Training(recipe(), tmp_path, CPU)
    training.next_stage()
    training.step = 2
    training.save()
    with pytest.raises(ValueError, match=r"has come to step 2 of stage 2, but the recipe has only 1 stages"):
        Training(recipe(stages=recipe().stages[:1]), tmp_path, CPU).resume()
    training.next_stage()
    training.save()
    for count, fits in ((1, False), (2, True)):
        other = Training(recipe(stages=recipe().stages[:count]), tmp_path, CPU)
        if fits:
            assert other.resume() and other.finished
        else:
            with pytest.raises(ValueError, match="has only 1 stages"):
                other.resume()


def test_a_stage_added_to_a_finished_run_begins_afresh(tmp_path: Path) -> None:
    one, two = (recipe(card=tiny_card_with_branch(), stages=stages) for stages in (recipe().stages[:1], recipe().stages))
    training = Training(one, tmp_path, CPU)
    training_step(training, batch((0, 0)))
    training.next_stage()
    training.save()
    resumed = Training(two, tmp_path, CPU)
    assert resumed.resume() and resumed.stage.name == "end-to-end"
    assert not resumed.optimizer.state


def test_a_stage_edited_in_the_middle_takes_the_parts_the_decay_and_the_teacher_that_the_recipe_names_now(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    stage = Stage("joint", 50, batch=2, learning_rate=1e-2, pairs=True, loss_weights={"feature": 1.0})
    training = Training(recipe(card=tiny_card_with_branch(), stages=(stage,)), tmp_path, CPU)
    training_step(training, batch((1, 4)))
    training.step = 1
    training.save()

    def resumed(**edit: Any) -> Training:
        other = Training(recipe(card=tiny_card_with_branch(), stages=(replace(stage, **edit),)), tmp_path, CPU)
        assert other.resume()
        training_step(other, batch((1, 4)))
        return other

    kept = resumed(weight_decay=0.3)
    assert [group["weight_decay"] for group in kept.optimizer.param_groups] == [0.3, 0.0]
    assert {float(state["step"]) for state in kept.optimizer.state.values()} == {2.0}
    fresh = resumed(trains=("refine_network",))
    assert {float(state["step"]) for state in fresh.optimizer.state.values()} == {1.0}
    taught = resumed(teacher=str(tiny_bundle)).teacher
    assert taught is not None
    expected = load_bundle(str(tiny_bundle))[1].feature_network
    assert all(torch.equal(*each) for each in zip(taught.feature_network.parameters(), expected.parameters(), strict=True))


def test_an_interrupt_lets_the_step_end_and_leaves_a_checkpoint(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(recipe(), tmp_path, CPU)
    before = signal.getsignal(signal.SIGINT)  # a shell starts what runs in the background with interrupts ignored

    def interrupted_step(training: Training, batch: Batch) -> dict[str, float]:
        if training.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(training, batch)

    monkeypatch.setattr("dff_train.train.training_step", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        train(training, data, workers=0)
    resumed = Training(recipe(), tmp_path, CPU)
    assert resumed.resume()
    assert resumed.step == 2
    for ours, theirs in zip(resumed.model.parameters(), training.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_command_trains_logs_and_exports_a_bundle_that_loads(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load((REPOSITORY / "dff_train/recipes/street.yaml").read_text())
    tiny = tiny_card().architecture
    content["card"]["architecture"] = json.loads(json.dumps(tiny))
    content.update(sources={"camvid": 1.0}, crop=[64, 96], stages=[{"name": "per-frame", "steps": 20, "batch": 2}])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    common = ["--recipe", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["run", *common, "--data", str(data), "--workers", "1"]) == 0
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert logged[-1]["step"] == 20 and logged[-1]["segmentation"] > 0
    assert "trained with another recipe" not in capsys.readouterr().err
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**content, "seed": 5}))
    assert main(["export", *common, "--to", str(tmp_path / "bundle")]) == 0
    note = f"dff_train: note: what {tmp_path / 'run'} holds was trained with another recipe than {tmp_path / 'recipe.yaml'} as it is now"
    assert capsys.readouterr().err.splitlines() == [note]
    card, _ = load_bundle(str(tmp_path / "bundle"))
    assert card.name == "street"


def test_anchors_are_clustered_from_the_sources_of_a_recipe(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load((REPOSITORY / "dff_train/recipes/street.yaml").read_text())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**content, "sources": {"camvid": 1.0}}))
    assert main(["anchors", "--recipe", str(tmp_path / "recipe.yaml"), "--data", str(data), "--count", "2"]) == 0
    # The pedestrian and the car of each still, 12x36 and 40x25 in pictures of 120x90, which the network sees four times as large.
    assert yaml.safe_load(capsys.readouterr().out) == [[48, 144], [160, 100]]


def test_the_export_of_a_run_that_is_not_done_says_so(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    card = {name: value for name, value in vars(tiny_card()).items() if name != "disagreement"}
    stage = {"name": "only", "steps": 4, "batch": 2}
    path.write_text(yaml.safe_dump(json.loads(json.dumps({"card": card, "sources": {"camvid": 1}, "crop": [64, 96], "stages": [stage]}))))
    Training(read_recipe(path), tmp_path / "run", CPU).save()
    export = ["export", "--recipe", str(path), "--run", str(tmp_path / "run"), "--to", str(tmp_path / "b")]
    assert main(export) == 0
    assert "note: the run is not done: step 0 of 4 of stage 'only'" in capsys.readouterr().err
    assert main(["run", *export[1:5], "--data", str(data), "--workers", "0"]) == 0
    capsys.readouterr()
    assert main(export) == 0
    assert "not done" not in capsys.readouterr().err


def test_a_broken_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    training = Training(recipe(), tmp_path, CPU)
    training.save()
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read: .*") as caught:
            training.resume()
        assert "\n" not in str(caught.value)


def test_a_training_that_diverged_ends_instead_of_saving_what_is_no_number(tmp_path: Path) -> None:
    training = Training(recipe(), tmp_path, CPU)
    head = training.model.head(Task.SEGMENTATION)
    with torch.no_grad():
        head.score.weight.fill_(float("nan"))
    before = copy.deepcopy(training.averaged.state_dict())
    with pytest.raises(ValueError, match="stage 'per-frame', step 0: .* no numbers any more; losses: segmentation nan"):
        training_step(training, batch((0, 0)))
    assert all(torch.equal(weight, before[name]) for name, weight in training.averaged.state_dict().items())


@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_a_device_that_is_not_there_is_refused_in_one_line(device: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        main(["export", "--recipe", "r.yaml", "--run", "r", "--to", "b", "--device", device])
    assert caught.value.code == 2
    assert f"argument --device: should be cpu or cuda, where there is one, got {device}" in capsys.readouterr().err


def test_an_empty_recipe_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ValueError, match=r"empty\.yaml: recipe should be a mapping, got None"):
        read_recipe(tmp_path / "empty.yaml")


def test_what_cannot_be_trained_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = str(REPOSITORY / "dff_train/recipes/street.yaml")
    assert main(["run", "--recipe", str(tmp_path / "none.yaml"), "--run", str(tmp_path), "--data", str(tmp_path)]) == 2
    assert main(["run", "--recipe", shipped, "--run", str(tmp_path), "--data", str(tmp_path / "nodata")]) == 2
    assert main(["export", "--recipe", shipped, "--run", str(tmp_path / "norun"), "--to", str(tmp_path / "b")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in lines if line.startswith("dff_train: ")]  # the rest is the progress bar
    assert len(lines) == 3
    assert "none.yaml" in lines[0] and "nodata" in lines[1] and "no checkpoint" in lines[2]


def test_a_run_starts_from_what_fits_of_a_bundle(tmp_path: Path) -> None:
    first, second = (Training(recipe(seed=seed), tmp_path / str(seed), CPU) for seed in (1, 2))
    head = "heads.segmentation.score.bias"
    with torch.no_grad():
        first.average.module.get_parameter(head).fill_(0.5)
    first.export(tmp_path / "bundle")
    assert second.start_from(str(tmp_path / "bundle")) == []
    for name, weight in second.model.state_dict().items():
        torch.testing.assert_close(weight, first.average.module.state_dict()[name], atol=2e-3, rtol=2e-3)
    assert second.average.module.state_dict()[head].unique().tolist() == [0.5]
    card = tiny_card()
    finer = replace(card, architecture={**card.architecture, "segmentation": {"subcells": 2}})
    third = Training(recipe(card=finer), tmp_path / "3", CPU)
    assert third.start_from(str(tmp_path / "bundle")) == ["heads.segmentation.score.weight", head]


def test_the_recipe_of_another_split_point_begins_as_the_light_bundle_with_blocks_of_the_heads_own(tmp_path: Path) -> None:
    training = Training(read_recipe(REPOSITORY / "dff_train/recipes/street_light_split.yaml"), tmp_path, CPU)
    fresh = training.start_from(training.recipe.init)
    assert {".".join(name.split(".")[:4]) for name in fresh} == {"heads.segmentation.blocks.0", "heads.detection.blocks.0"}
    card, light = load_bundle("street_light")
    assert {name: part for name, part in training.recipe.card.architecture.items() if name not in training.model.heads} == {
        name: part for name, part in card.architecture.items() if name not in training.model.heads
    }
    feature = torch.rand(1, light.channels, 6, 8)
    with torch.no_grad():
        for task in light.tasks:
            for ours, theirs in zip(training.averaged.eval().head(task)(feature), light.head(task)(feature), strict=True):
                assert torch.equal(ours, theirs)


def test_stages_change_places_with_a_fresh_optimiser(tmp_path: Path) -> None:
    training = Training(recipe(), tmp_path, CPU)
    training_step(training, batch((0, 0)))
    training.next_stage()
    assert training.stage.name == "end-to-end" and not training.optimizer.state
    for ours, averaged in zip(training.model.parameters(), training.average.module.parameters(), strict=True):
        assert torch.equal(ours, averaged)
