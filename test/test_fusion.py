"""The start of a pyramid's fusion: segmentation scores are the mean of both looks, and the feature stays what heads understand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import tiny_card
from training_data import write_camvid

from dff_ros.core.bundle import CARD_FILE, build_model, load_bundle, save_bundle, with_refine_network
from dff_ros.core.feature_network import head_blocks
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.results import Task
from dff_train.cli import main
from dff_train.fusion import fit_fusion, fit_look
from dff_train.recipe import Recipe, Stage
from dff_train.train import fit_new_fusion
from dff_train.training import Training

TINY_TRUNK = {"width": 8, "blocks": (1, 1, 2), "dilations": (1, 2)}


def pyramid(subcells: int, scales: Sequence[float | str] = (1, 2)) -> DeepFeatureFlow:
    card = tiny_card()
    network = {**card.architecture["feature_network"], "kind": "pyramid", "scales": scales}
    architecture = {**card.architecture, "feature_network": network, "segmentation": {"subcells": subcells}}
    model = build_model(replace(card, architecture=architecture)).eval()
    torch.nn.init.normal_(model.head(Task.SEGMENTATION).score.weight)
    torch.nn.init.normal_(model.head(Task.SEGMENTATION).score.bias)
    return model


@pytest.mark.parametrize("subcells", [1, 2])
@pytest.mark.parametrize("scales", [(1, 2), ("1/2", 1), ("2/3", "3/2", 2)])
def test_scores_become_the_mean_of_all_looks(subcells: int, scales: tuple[float | str, ...]) -> None:
    torch.manual_seed(0)
    model = pyramid(subcells, scales)
    head, trunk = model.head(Task.SEGMENTATION), model.feature_network.trunk
    # Where the head reads more than the feature has, no feature can give it all of the mean.
    head.score.weight.data = head.score.weight.data[: model.channels // 2]
    head.score.bias.data = head.score.bias.data[: model.channels // 2]
    fit_fusion(model, [torch.rand(2, 3, 96, 144) for _ in range(2)])
    image = torch.rand(1, 3, 96, 144)
    in_place = []
    with torch.no_grad():
        for scale in map(Fraction, scales):
            size = (int(96 * scale), int(144 * scale))
            scores = head(trunk(F.interpolate(image, size=size, mode="bilinear", align_corners=False)))
            finer = scores.repeat_interleave(scale.denominator, 2).repeat_interleave(scale.denominator, 3)
            in_place.append(F.avg_pool2d(finer, scale.numerator))
        expected = sum(in_place) / len(scales)
        torch.testing.assert_close(head(model.feature_network(image)), expected, atol=2e-3, rtol=2e-3)


def test_what_a_head_with_blocks_of_its_own_reads_is_not_solved_for() -> None:
    """Its scores are not linear in the feature: the regression is kept as it is, as where there is no segmentation."""
    images, told = [torch.rand(2, 3, 64, 96) for _ in range(2)], []
    for kept in (True, False):
        torch.manual_seed(0)
        model = pyramid(1)
        model.head(Task.SEGMENTATION).blocks = head_blocks(model.channels, 1)
        if not kept:
            del model.heads[Task.SEGMENTATION.value]
        fit_fusion(model, images)
        told.append([look.conv.weight for look in model.feature_network.looks])
    assert all(torch.equal(*each) for each in zip(*told, strict=True))


def test_the_finer_look_speaks_the_trunks_language() -> None:
    torch.manual_seed(0)
    model = pyramid(1)
    del model.heads[Task.SEGMENTATION.value]
    network = model.feature_network
    images = [torch.rand(2, 3, 64, 96) * torch.rand(2, 3, 1, 1) for _ in range(6)]

    def error() -> float:
        with torch.no_grad():
            return float(torch.stack([(network(image) - network.trunk(image)).square().mean() for image in images]).mean())

    before = error()
    fit_fusion(model, images)
    assert error() < 0.8 * before


def test_a_run_that_starts_from_a_trunk_fits_its_fusion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_camvid(tmp_path / "data")
    card, model = tiny_card(), build_model(tiny_card())
    save_bundle(tmp_path / "trunk", card, model)
    network = {**card.architecture["feature_network"], "kind": "pyramid"}
    stage = {"name": "fusion", "steps": 1, "batch": 2, "trains": ["heads.detection"]}
    content = {
        **yaml.safe_load((tmp_path / "trunk" / CARD_FILE).read_text()),
        "architecture": {**card.architecture, "feature_network": network},
    }
    content["architecture"] = json.loads(json.dumps(content["architecture"]))
    recipe = {"card": content, "init": str(tmp_path / "trunk"), "sources": {"camvid": 1.0}, "stages": [stage], "crop": [64, 96]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = ["--recipe", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "run")]
    assert main(["run", *run, "--data", str(tmp_path / "data"), "--workers", "0"]) == 0
    assert "4 tensors are new: feature_network.looks.0.conv.weight" in capsys.readouterr().out
    assert main(["export", *run, "--to", str(tmp_path / "bundle")]) == 0
    fused = load_bundle(str(tmp_path / "bundle"))[1].feature_network
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        trunk = fused.trunk(image)
        assert (fused(image) - trunk).square().mean() < 0.2 * trunk.square().mean()


def test_a_teacher_that_a_stage_takes_of_its_own_model_has_the_fitted_fusion_too(tmp_path: Path) -> None:
    write_camvid(tmp_path / "data")
    save_bundle(tmp_path / "trunk", tiny_card(), build_model(tiny_card()))
    network = {**tiny_card().architecture["feature_network"], "kind": "pyramid"}
    card = tiny_card(architecture={**tiny_card().architecture, "feature_network": network})
    stage = Stage("joint", 1, batch=2, pairs=True, trains=("feature_network.looks",), loss_weights={"feature": 1.0})
    training = Training(Recipe(card, {"camvid": 1.0}, (stage,), crop=(64, 96)), tmp_path / "run", torch.device("cpu"))
    training.start_from(str(tmp_path / "trunk"))
    fit_new_fusion(training, tmp_path / "data", ["feature_network.looks.1.conv.weight"])
    assert training.teacher is not None
    for network in (training.teacher.feature_network, training.averaged.feature_network):
        assert torch.equal(network.looks[1].conv.weight, training.model.feature_network.looks[1].conv.weight)


@pytest.mark.parametrize("scale", [0.5, "2/3"])
def test_the_small_look_speaks_the_features_language(scale: float | str) -> None:
    torch.manual_seed(0)
    branch = {"kind": "look", "scale": scale, "fusion_width": 8, **TINY_TRUNK}
    card, model = with_refine_network(build_model(tiny_card()).eval(), tiny_card(), branch)
    assert card.architecture["refine_network"]["kind"] == "look"
    branch = model.refine_network
    branch.trunk.load_state_dict(model.feature_network.state_dict())
    images = [torch.rand(2, 3, 64, 96) * torch.rand(2, 3, 1, 1) for _ in range(6)]

    def error() -> float:
        with torch.no_grad():
            return float(torch.stack([(branch.look(image) - model.feature_network(image)).square().mean() for image in images]).mean())

    before = error()
    fit_look(model, images)
    assert error() < 0.5 * before


def test_a_look_is_fitted_to_crops_of_an_odd_number_of_cells() -> None:
    _, model = with_refine_network(build_model(tiny_card()).eval(), tiny_card(), {"kind": "look", "fusion_width": 8, **TINY_TRUNK})
    weight = model.refine_network.spread.conv.weight
    start = weight.clone()
    fit_look(model, [torch.rand(1, 3, 72, 88)])
    assert bool(torch.isfinite(weight).all()) and not torch.equal(weight, start)
    with pytest.raises(ValueError, match="expected images to fit a fusion to, got none"):
        fit_look(model, [])


def test_networks_without_a_fusion_are_refused() -> None:
    with pytest.raises(ValueError, match="should be a pyramid to have a fusion, got CompactFeatureNetwork"):
        fit_fusion(build_model(tiny_card()), [])
    with pytest.raises(ValueError, match="should be a look to have its spread fitted, got NoneType"):
        fit_look(build_model(tiny_card()), [])
