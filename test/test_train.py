"""Training: recipes are checked, both stages learn, and an interrupted run ends where the whole one does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import tiny_card
from training_data import write_camvid

from dff_ros.core.bundle import build_model, load_bundle
from dff_ros.core.propagate import FlowFields, propagate
from dff_train.cli import main
from dff_train.recipe import Recipe, Stage, read_recipe
from dff_train.samples import Batch
from dff_train.train import Training, batch_losses, learning_rate_factor, moving_average, train, training_step

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
        (lambda content: content.update(colour="red"), "recipe knows .*, got colour"),
        (
            lambda content: content["card"]["detection_classes"].reverse(),
            "those of the sources, person, car, bicyclist, got bicyclist, car, person",
        ),
        (lambda content: content["card"].update(palette=[]), "palette should have 11 colours, got 0"),
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


def test_pairs_are_scored_on_the_key_feature_carried_by_the_flow_and_stills_on_their_own() -> None:
    torch.manual_seed(0)
    model = build_model(tiny_card()).eval()
    mixed = batch((0, 3))
    losses = batch_losses(model, mixed, CPU, pairs=True)
    key_images, images = mixed.key_images.float() / 255, mixed.images.float() / 255
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
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
    losses = batch_losses(model, batch((2, 5)), CPU, pairs=True)
    torch.stack(list(losses.values())).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and bool(torch.isfinite(weight.grad).all()), name


def test_batch_norm_is_frozen_on_pairs_and_learns_on_stills(tmp_path: Path) -> None:
    for pairs in (False, True):
        training = Training(recipe(stages=(Stage("only", 10, pairs=pairs),)), tmp_path, CPU)
        statistics = training.model.feature_network.stem[1].running_mean
        before = statistics.clone()
        training_step(training, batch((0, 1)))
        assert torch.equal(statistics, before) == pairs


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
    whole = Training(recipe(), tmp_path / "whole", CPU)
    train(whole, data, workers=0)
    assert whole.finished
    for _ in range(20):
        part = Training(recipe(), tmp_path / "parts", CPU)
        part.resume()
        if part.finished:
            break
        train(part, data, workers=0, time_limit_s=0.01)  # a step or so at a time
    assert part.finished
    for name, weight in whole.average.state_dict().items():
        torch.testing.assert_close(weight, part.average.state_dict()[name], msg=name)


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
    assert main(["export", *common, "--to", str(tmp_path / "bundle")]) == 0
    card, _ = load_bundle(str(tmp_path / "bundle"))
    assert card.name == "street"


def test_anchors_are_clustered_from_the_sources_of_a_recipe(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load((REPOSITORY / "dff_train/recipes/street.yaml").read_text())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**content, "sources": {"camvid": 1.0}}))
    assert main(["anchors", "--recipe", str(tmp_path / "recipe.yaml"), "--data", str(data), "--count", "2"]) == 0
    # The pedestrian and the car of each still, 12x36 and 40x25 in pictures of 120x90, which the network sees four times as large.
    assert yaml.safe_load(capsys.readouterr().out) == [[48, 144], [160, 100]]


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


def test_stages_change_places_with_a_fresh_optimiser(tmp_path: Path) -> None:
    training = Training(recipe(), tmp_path, CPU)
    training_step(training, batch((0, 0)))
    training.next_stage()
    assert training.stage.name == "end-to-end" and not training.optimizer.state
    for ours, averaged in zip(training.model.parameters(), training.average.module.parameters(), strict=True):
        assert torch.equal(ours, averaged)
