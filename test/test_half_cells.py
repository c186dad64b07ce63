"""The key feature between its cells: fitted, a warp by half a cell keeps what each part of a cell says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_card

from dff_ros.core.bundle import BundleError, build_model, load_bundle, save_bundle, with_flow_network
from dff_ros.core.half_cells import HalfCells
from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.propagate import warp
from dff_ros.core.results import Task
from dff_ros.engine.loading import load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream
from dff_train.fusion import fit_half_cells, scores_between


def model(subcells: int = 2) -> DeepFeatureFlow:
    torch.manual_seed(0)
    card = tiny_card()
    architecture = {**card.architecture, "segmentation": {"subcells": subcells}, "half_cells": True}
    built = build_model(replace(card, architecture=architecture)).eval()
    torch.nn.init.normal_(built.head(Task.SEGMENTATION).score.weight)
    torch.nn.init.normal_(built.head(Task.SEGMENTATION).score.bias)
    return built


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


@pytest.mark.parametrize("subcells", [1, 2, 3])
def test_scores_between_cells_are_those_of_the_parts_that_lie_there(subcells: int) -> None:
    built = model(subcells)
    # Where the head reads more than the feature has, no feature can give it all of the scores.
    head = built.head(Task.SEGMENTATION)
    keep = subcells**2 * max(1, built.channels // 2 // subcells**2)
    head.score.weight.data, head.score.bias.data = head.score.weight.data[:keep], head.score.bias.data[:keep]
    fit_half_cells(built, [torch.rand(2, 3, 64, 96) for _ in range(2)])
    feature = torch.rand(1, built.channels, 8, 12)
    with torch.no_grad():
        # Parts in pixels of their own, finely enough that half a cell is a whole number of them.
        fine = head(feature).repeat_interleave(2, 2).repeat_interleave(2, 3)
        for dx, dy in ((0.5, 0.0), (0.0, 0.5), (0.5, 0.5)):
            moved = fine[:, :, int(dy * 2 * subcells) :, int(dx * 2 * subcells) :]
            expected = F.avg_pool2d(moved, 2)[:, :, : 7 * subcells, : 11 * subcells]
            found = head(warp(built.carried_map(feature), flow(dx, dy, 8, 12)))[:, :, : 7 * subcells, : 11 * subcells]
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_scores_between_by_hand() -> None:
    score = torch.tensor([[1.0], [10.0], [100.0], [1000.0]])  # upper left, upper right, lower left, lower right part
    right = scores_between(score, subcells=2, down=0.0, right=0.5)[0].view(4, 2, 2)
    assert right[0].tolist() == [[10.0, 0.0], [0.0, 0.0]]  # the upper left part there: the upper right one of the left cell
    assert right[1].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    both = scores_between(score, subcells=2, down=0.5, right=0.5)[0].view(4, 2, 2)
    assert both[0].tolist() == [[1000.0, 0.0], [0.0, 0.0]] and both[3].tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_fitted_half_cells_are_nearer_to_the_moved_frames_feature() -> None:
    built = model()
    del built.heads[Task.SEGMENTATION.value]
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
