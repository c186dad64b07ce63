"""``dff_tune`` from the command line on a small generated drive: what it writes, who can read it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from browser import open_page
from conftest import tiny_card
from test_damaged_bags import cut, storage_file
from test_replay_bags import bag_of

from dff_ros.core.bundle import build_model, read_card, save_bundle
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.fingerprint import cpu_name, versions
from dff_ros.evaluation.ground_truth.drive_truth import drive_truth
from dff_ros.evaluation.ground_truth.truth import Truth
from dff_ros.evaluation.parameter_files import read_parameters
from dff_ros.evaluation.replay import main as replay
from dff_ros.recording.drive import GeneratedDrive
from dff_ros.tuning.command import main, parse_arguments, run
from dff_ros.tuning.measuring import Measuring
from dff_ros.tuning.tune import Tuning, Wish

FRAMES, RATE = 16, 20.0


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drive as a folder of images."""
    folder = tmp_path_factory.mktemp("drive")
    for item in GeneratedDrive(4, FRAMES, width=160, height=120, rate=RATE):
        cv2.imwrite(str(folder / f"{item.index:03d}.png"), item.frame[..., ::-1])
    return folder


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Time few steps, without pauses."""
    patch.setattr("dff_ros.tuning.timing.STEPS", 9)
    patch.setattr("dff_ros.tuning.timing.PAUSE_MS", 0.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``hurry``, for one test."""
    hurry(monkeypatch)


def arguments(frames: Path, bundle: Path, to: Path, *more: str) -> list[str]:
    given = ["--frames", str(frames), "--rate", str(RATE), "--model", str(bundle), "--device", "cpu", "--to", str(to), "--minutes", "30"]
    return [*given, *more]


@pytest.fixture(scope="module")
def tuned(frames: Path, refined_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a run with two sizes wrote; the first-best candidate was run by the clock."""
    folder = tmp_path_factory.mktemp("tuned") / "to"
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        assert main(arguments(frames, refined_bundle, folder, "--sizes", "1,0.6", "--verify", "1")) == 0
    return folder


def content(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "tune.json").read_text())
    return loaded


def test_every_candidate_is_there_with_its_figures(tuned: Path) -> None:
    found = content(tuned)
    assert found["frames"] == found["frames_looked_at"] == FRAMES and found["segments"] == [[0, FRAMES - 1]]
    assert found["frame_interval_ms"] == pytest.approx(1e3 / RATE)
    assert found["versions"] == versions() and found["machine"]["cpu"] == cpu_name()
    by_name = {one["name"]: one for one in found["candidates"]}
    assert len(by_name) == len(found["candidates"]) == 66
    per_frame = by_name["refined, per-frame, blocking"]["simulated"]
    assert per_frame["loss"] == pytest.approx(0.0) and per_frame["key_rate"] == 1.0
    assert by_name["refined at 0.6, per-frame, blocking"]["simulated"]["loss"] > 0.0
    assert set(found["front"]) == {name for name, one in by_name.items() if one["on_front"]}
    recommended = by_name[found["recommended"]]
    assert recommended["verified"] is not None and found["promise"] == recommended["verified"]
    assert recommended["parameters"] == found["parameters"]
    assert sum(one["verified"] is not None for one in found["candidates"]) == 1


def test_dff_replay_reads_the_parameters(tuned: Path, frames: Path) -> None:
    wanted = content(tuned)["parameters"]
    read = read_parameters(tuned / "params.yaml")
    assert read == {**wanted, "device": "cpu"}
    out = tuned / "replay.json"
    assert replay(["--frames", str(frames), "--rate", str(RATE), "--params", str(tuned / "params.yaml"), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["schedule"] == wanted["schedule"]


def test_the_node_reads_the_parameters(tuned: Path) -> None:
    rclpy = pytest.importorskip("rclpy")
    from dff_ros.node.parameters import NodeSettings, declare

    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        given = ["--ros-args", "--params-file", str(tuned / "params.yaml")]
        node = rclpy.node.Node("dff", context=context, cli_args=given)
        assert declare(node, EngineSettings) == EngineSettings().with_values({**content(tuned)["parameters"], "device": "cpu"})
        assert declare(node, NodeSettings) == NodeSettings()
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def test_the_parameters_say_what_they_promise(tuned: Path) -> None:
    lines = (tuned / "params.yaml").read_text().splitlines()
    comments = "\n".join(line for line in lines if line.startswith("# "))
    assert content(tuned)["recommended"] in comments
    assert "Promise (run by the clock" in comments and "points" in comments and "p95" in comments
    assert comments.splitlines()[1:] == [f"# {line}" for line in content(tuned)["reasons"]]


@pytest.mark.usefixtures("quick")
def test_a_target_out_of_reach_is_said_and_ends_with_1(
    frames: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(frames, tiny_bundle, tmp_path, "--sizes", "1", "--verify", "0", "--target", "latency_ms=0.001")
    assert main(given) == 1
    assert "NOTHING REACHES THE TARGET" in capsys.readouterr().out
    assert "NOTHING REACHES THE TARGET" in (tmp_path / "params.yaml").read_text()
    assert content(tmp_path)["target_reached"] is False


def test_what_of_a_bag_cannot_be_read_is_said(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = bag_of(tmp_path / "bag")
    cut(storage_file(bag), 0.6)
    monkeypatch.setattr("dff_ros.tuning.command.tune", lambda recording, *_, **__: [*recording])
    monkeypatch.setattr("dff_ros.tuning.command.write_outputs", lambda *_, **__: [])
    run(parse_arguments(["--bag", str(bag), "--model", str(tiny_bundle), "--to", str(tmp_path / "to")]), "dff_tune")
    assert f"dff_tune: bag {bag} is incomplete: bag.mcap breaks off" in capsys.readouterr().err


def interrupting(after: int) -> Any:
    """``Measuring.add`` with a Ctrl-C after so many frames."""
    add = Measuring.add

    def interrupted(self: Measuring, *given: Any) -> Any:
        if len(self) == after:
            raise KeyboardInterrupt
        return add(self, *given)

    return interrupted


@pytest.mark.usefixtures("quick")
def test_an_interruption_keeps_what_was_measured(
    frames: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Measuring, "add", interrupting(13))
    assert main(arguments(frames, tiny_bundle, tmp_path, "--sizes", "1")) == 130
    assert content(tmp_path)["interrupted"] and content(tmp_path)["frames_looked_at"] == 13
    assert "Interrupted: 13 of 16" in capsys.readouterr().out
    assert read_parameters(tmp_path / "params.yaml")


@pytest.mark.usefixtures("quick")
def test_an_early_interruption_says_that_nothing_was_written(
    frames: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Measuring, "add", interrupting(3))
    assert main(arguments(frames, tiny_bundle, tmp_path, "--sizes", "1")) == 130
    assert "nothing was written" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose detection answers other classes."""
    torch.manual_seed(0)
    card = tiny_card(name="other", detection_classes=("person", "dog", "cat"))
    folder = tmp_path_factory.mktemp("bundles") / "other"
    save_bundle(folder, card, build_model(card))
    return folder


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--target", "speed=3"], "target should be one of latency_ms"),
        (["--range", "0:5"], "at least 12 frames, got 6"),
        (["--model", "OTHER"], "the same detection classes"),
        (["--boxes", "missing.csv:person"], "missing.csv"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    frames: Path, tiny_bundle: Path, other_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], expected: str
) -> None:
    more = [str(other_bundle) if word == "OTHER" else word for word in more]
    assert main(arguments(frames, tiny_bundle, tmp_path / "to", *more)) == 2
    told = capsys.readouterr().err.strip()
    assert expected in told and len(told.splitlines()) == 1


def test_truth_decides_where_it_is_given(tiny_bundle: Path) -> None:
    """The generated drive's own truth is what losses are counted from."""
    card = read_card(tiny_bundle)
    truth = Truth(*drive_truth(card.segmentation_classes, card.detection_classes, card.ignored_labels), card.detection_classes)
    base = EngineSettings(device="cpu", precision="float32")
    wish = Wish((str(tiny_bundle),), (1.0,), minutes=1.0, base=base)
    tuning = Tuning(GeneratedDrive(4, 14, width=160, height=120, rate=10.0), wish, lambda card: truth)
    tuning.segments = [(0, 14)]
    measured, interrupted = tuning.measure()
    answers = measured[0].answers()
    scores = answers.scores(np.arange(14), np.zeros(14, np.intp))
    assert not interrupted and scores.miou is not None and scores.agreement == pytest.approx(1.0)


def test_the_page_shows_the_recommendation_and_escapes_what_is_written(tuned: Path) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    from dff_ros.report.tuning_page import render_tuning

    found = content(tuned)
    written = (tuned / "report.html").read_text()
    assert f"<h1>{found['recommended']}</h1>" in written
    assert all(name in written for name in found["front"]) and "schedule: " in written
    evil = render_tuning({**found, "recording": "<script>alert('x')</script>"}, parameters="</code><b>", command="&")
    assert "<script>alert" not in evil and "</code><b>" not in evil


def test_a_browser_shows_the_page_without_an_error(tuned: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    opened = open_page(tuned / "report.html", tmp_path / "profile")
    assert opened.console == []
    assert 'class="main-svg"' in opened.dom and "frame interval" in opened.dom
