"""The key feature between its cells: fitted, it is nearer to what the network says of the frame moved by half a cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_card
from training_data import write_camvid

from dff_ros.core.bundle import BundleError, build_model, load_bundle, save_bundle, with_flow_network
from dff_ros.core.half_cells import HalfCells
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.propagate import warp
from dff_ros.engine.loading import load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream
from dff_train.fusion import fit_half_cells
from dff_train.recipe import Recipe, Stage
from dff_train.train import train
from dff_train.training import Training


def model() -> DeepFeatureFlow:
    torch.manual_seed(0)
    card = tiny_card()
    return build_model(replace(card, architecture={**card.architecture, "half_cells": True})).eval()


def flow(dx: float, dy: float, height: int, width: int) -> torch.Tensor:
    return torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(1, 2, height, width).contiguous()


@pytest.mark.parametrize("learning", [False, True])
def test_unfitted_half_cells_change_no_warp(learning: bool) -> None:
    feature, way = torch.randn(2, 3, 6, 8, requires_grad=learning), torch.rand(2, 2, 6, 8) * 1.5
    ends = torch.tensor([7.0, 5.0]).view(1, 2, 1, 1) - torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="xy"))
    way = torch.minimum(way, ends)  # beyond the last cell's centre half cells repeat the edge
    dense = HalfCells(3)(feature)
    assert dense.shape == (2, 3, 12, 16) and torch.equal(dense[:, :, ::2, ::2], feature)
    torch.testing.assert_close(warp(dense, way), warp(feature, way))


def test_a_dense_warp_by_whole_cells_reads_the_cells_themselves() -> None:
    feature = torch.randn(1, 3, 6, 8)
    dense = torch.randn(1, 3, 12, 16)
    dense[:, :, ::2, ::2] = feature
    torch.testing.assert_close(warp(dense, flow(2, -1, 6, 8)), warp(feature, flow(2, -1, 6, 8)))
    torch.testing.assert_close(warp(dense, flow(0, 0, 6, 8)), feature)
    torch.testing.assert_close(warp(dense, flow(0.5, 0, 6, 8)), dense[:, :, ::2, 1::2])


@pytest.mark.parametrize("shape", [(1, 3, 12, 15), (1, 3, 13, 16), (1, 3, 12, 8)])
def test_maps_that_are_no_multiple_of_the_flow_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="flow should be"):
        warp(torch.zeros(shape), torch.zeros(1, 2, 6, 8))


def test_fitted_half_cells_are_nearer_to_the_moved_frames_feature() -> None:
    built = model()
    network = built.feature_network
    images = [torch.rand(1, 3, 8, 12).repeat_interleave(8, 2).repeat_interleave(8, 3) for _ in range(8)]

    def error() -> float:
        with torch.no_grad():
            moved = [network(F.pad(image, (0, 4, 0, 0), mode="replicate")[..., 4:])[..., :-1] for image in images]
            found = [warp(built.carried_map(network(image)), flow(0.5, 0, 8, 12))[..., :-1] for image in images]
            return float(torch.stack([(a - b).square().mean() for a, b in zip(found, moved, strict=True)]).mean())

    before = error()
    fit_half_cells(built, images)
    assert error() < 0.8 * before


def test_a_bundle_keeps_its_half_cells_and_its_stream_reads_them(tmp_path: Path) -> None:
    card = tiny_card()
    card = replace(card, architecture={**card.architecture, "flow_network": {"kind": "dis"}, "half_cells": True})
    built = build_model(card)
    torch.nn.init.normal_(built.half_cells.conv.bias, std=0.5)
    save_bundle(tmp_path / "dense", card, built)
    _, loaded = load_bundle(str(tmp_path / "dense"))
    torch.testing.assert_close(loaded.half_cells.conv.bias, built.half_cells.conv.bias, atol=1e-3, rtol=1e-3)
    assert with_flow_network(loaded, card, "still").half_cells is loaded.half_cells
    ready = load_model(EngineSettings(model=str(tmp_path / "dense"), device="cpu", precision="float32"))
    stream = FeatureFlowStream(ready, EngineSettings(schedule="fixed:5"))
    frame = torch.randint(0, 256, (120, 160, 3), dtype=torch.uint8).numpy()
    track, _ = stream.start_track(frame, 0)
    assert "carried" not in vars(track.key)  # per-frame does not pay for it
    stream.follow(track, frame, 0)
    assert [2 * side for side in track.key.feature.shape[2:]] == list(track.key.carried.shape[2:])


def test_what_is_wrong_with_half_cells_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half_cells should be in the card"):
        fit_half_cells(build_model(tiny_card()), [])
    card = tiny_card()
    save_bundle(tmp_path / "b", card, build_model(card))
    text = (tmp_path / "b" / "model.yaml").read_text().replace("architecture:", "architecture:\n  half_cells: 2", 1)
    (tmp_path / "b" / "model.yaml").write_text(text)
    with pytest.raises(BundleError, match="half_cells should be true or false, got 2"):
        load_bundle(str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("trains", "pairs", "fitted"),
    [
        ((), False, True),
        (("feature_network",), False, True),
        (("heads",), False, False),
        (("feature_network",), True, True),
        ((), True, False),
    ],
)
def test_half_cells_are_fitted_again_where_the_feature_has_learned_without_them(
    tmp_path: Path, trains: tuple[str, ...], pairs: bool, fitted: bool
) -> None:
    write_camvid(tmp_path / "data")
    card = tiny_card()
    card = replace(card, architecture={**card.architecture, "half_cells": True})
    stage = Stage("only", 1, batch=2, pairs=pairs, trains=trains)
    training = Training(Recipe(card, {"camvid": 1.0}, (stage,), crop=(64, 96)), tmp_path / "run", torch.device("cpu"))
    unfitted = training.averaged.half_cells.conv.weight.clone()
    train(training, tmp_path / "data", workers=0)
    assert training.finished
    change = (training.averaged.half_cells.conv.weight - unfitted).abs().max()
    assert (change > 0.05) == fitted
