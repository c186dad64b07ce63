"""Fitting what an adaptive schedule goes by: known laws are found, and a bundle gets its estimator and keeps all else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_card
from training_data import write_drive

from dff_ros.core.bundle import build_model, load_bundle, save_bundle, with_refine_network
from dff_ros.core.results import Task
from dff_ros.core.signals import FLOORS, SIGNALS, Signals
from dff_ros.engine.loading import load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.schedule_study.agreement import measure_table
from dff_ros.recording.opening import open_recording
from dff_train.cli import main
from dff_train.recordings import decode
from dff_train.schedule import AGES, Observed, explained, fit, observe

CPU = torch.device("cpu")
FRAMES = 90


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated drive as a folder of images, 160x120."""
    return write_drive(tmp_path_factory.mktemp("drive"), seed=3, frames=FRAMES)


def made_up(seed: int, *, level: float, weights: np.ndarray, noise: float = 0.05) -> Observed:
    """A recording where the share follows the weights, ``level`` higher than elsewhere, and keys show twice as much."""
    random = np.random.default_rng(seed)
    signals = random.normal(size=(2000, len(SIGNALS))) + random.normal(size=len(SIGNALS))
    differs = signals @ weights + level + noise * random.normal(size=2000)
    return Observed(signals, differs, differs + np.log(2.0))


def test_the_weights_of_a_known_law_are_found_whatever_the_recordings_levels() -> None:
    weights = np.array([0.3, 0.5, 0.0, -0.2, 0.1, 0.2])
    recordings = [made_up(seed, level=level, weights=weights) for seed, level in enumerate((-3.0, -1.0, 1.0))]
    estimator = fit(recordings)
    assert [estimator.weights[name] for name in SIGNALS] == pytest.approx(weights.tolist(), abs=0.02)
    assert estimator.bias == pytest.approx(-1.0, abs=0.1)
    assert estimator.surprise == pytest.approx(np.log(2.0), abs=1e-3)
    assert explained(estimator, recordings) > 0.95


def test_what_follows_nothing_is_not_explained() -> None:
    noise = [made_up(seed, level=-2.0, weights=np.zeros(len(SIGNALS)), noise=1.0) for seed in range(4)]
    estimator = fit(noise[:2])
    assert abs(explained(estimator, noise[2:])) < 0.02


@pytest.fixture(scope="module")
def whole_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With all that propagation may have: chained flow, half cells and a branch, and a head that answers many classes."""
    torch.manual_seed(0)
    plain = tiny_card().architecture
    card = tiny_card(name="whole", architecture={**plain, "flow_network": {"kind": "dis", "chained": True}, "half_cells": True})
    card, model = with_refine_network(build_model(card), card, {"kind": "light", "width": 16, "blocks": (1, 1)})
    torch.nn.init.normal_(model.half_cells.conv.weight, std=0.1)
    torch.nn.init.normal_(model.refine_network.correction.weight, std=0.1)
    torch.nn.init.normal_(model.head(Task.SEGMENTATION).score.weight)
    folder = tmp_path_factory.mktemp("bundles") / "whole"
    save_bundle(folder, card, model)
    return folder


@pytest.mark.parametrize("name", ["tiny_bundle", "whole_bundle"])
def test_training_sees_what_the_engine_sees(
    name: str, drive: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals, disagreement and surprise of the training code against those of the engine's own parts."""
    bundle = request.getfixturevalue(name)
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, check, lambda: False, raising=False)  # float32, as the engine is told
    card, networks = load_bundle(str(bundle))
    clip = decode("drive", open_recording(frames=drive))
    clip.frames = clip.frames[:12]
    seen = observe(networks, clip, pixels=card.input_pixels, device=CPU)
    settings = EngineSettings(model=str(bundle), device="cpu", precision="float32")
    recording = [item for item in open_recording(frames=drive) if item.index < 12]
    table = measure_table(recording, load_model(settings), settings)
    rows = [(frame, age) for frame in range(12) for age in AGES if age <= frame]
    assert len(seen.differs) == len(rows)
    told = np.array([table.signals[row] for row in rows])
    np.testing.assert_allclose(np.exp(seen.signals), told + [FLOORS[name] for name in SIGNALS], rtol=1e-3, atol=1e-5)
    differs = np.array([table.losses[row] for row in rows])
    np.testing.assert_allclose(np.exp(seen.differs), np.maximum(differs, 2e-3), atol=2e-3)
    surprises = np.array([table.surprises[row] for row in rows])
    np.testing.assert_allclose(np.exp(seen.surprises), np.maximum(surprises, 2e-3), atol=5e-3)


def test_a_bundle_gets_its_estimator_and_keeps_all_else(tiny_bundle: Path, drive: Path, tmp_path: Path) -> None:
    made = tmp_path / "mine"
    ranged = f"{drive}@0:87"
    assert main(["schedule", "--model", str(tiny_bundle), "--frames", ranged, "--to", str(made), "--device", "cpu"]) == 0
    (old_card, old), (card, new) = load_bundle(str(tiny_bundle)), load_bundle(str(made))
    assert old_card.estimator is None
    assert card.estimator is not None and set(card.estimator.weights) == set(SIGNALS)
    assert 0 < card.estimator(Signals(3, 0.02, 0.05, 0.2, 0.01, 0.05)) <= 1
    assert "dff_train schedule" in card.disagreement["made_by"] and "explained" in card.disagreement
    assert card.architecture == old_card.architecture
    for name, weight in old.state_dict().items():
        torch.testing.assert_close(new.state_dict()[name], weight, atol=1e-3, rtol=1e-3)
    model = load_model(EngineSettings(model=str(made), device="cpu"))
    assert Task.SEGMENTATION in model.networks.tasks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "DRIVE@0:20"], "should hold at least 85 frames, got 21"),
        ([], "at least one recording should be given"),
        (["--frames", "DRIVE", "--to", "BUNDLE"], "should not take the place"),
        (["--frames", "DRIVE", "--most", "80"], "should hold at least 85 frames, got 60 of its 90: --most 80 leaves too few"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(
    tiny_bundle: Path, drive: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.replace("DRIVE", str(drive)).replace("BUNDLE", str(tiny_bundle)) for word in arguments]
    to = [] if "--to" in given else ["--to", str(tmp_path / "mine")]
    assert main(["schedule", "--model", str(tiny_bundle), *to, *given, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
