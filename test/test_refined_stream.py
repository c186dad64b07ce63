"""The stream of a bundle with a branch on the current frame: what passes it, when, and how it is switched off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dff_ros.core.model import DeepFeatureFlow
from dff_ros.core.propagate import propagate
from dff_ros.core.results import Task
from dff_ros.engine.cost import measure_cost
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.evaluation.replay import main

MS = 1_000_000


def load(bundle: Path, *without: str, precision: str = "float32") -> LoadedModel:
    return load_model(EngineSettings(model=str(bundle), device="cpu", precision=precision), without=frozenset(without))


@pytest.fixture(scope="module")
def refined(refined_bundle: Path) -> LoadedModel:
    return load(refined_bundle)


@pytest.fixture(scope="module")
def plain(refined: LoadedModel) -> LoadedModel:
    """The same weights in a model that has no branch."""
    networks = refined.networks
    pure = DeepFeatureFlow(networks.feature_network, networks.flow_network, heads=networks.heads.values())
    return replace(refined, networks=pure.eval())


def stream(model: LoadedModel, **values: object) -> FeatureFlowStream:
    return FeatureFlowStream(model, EngineSettings().with_values({"schedule": "fixed:5", **values}))


def frame(shift: int = 0, height: int = 120, width: int = 160) -> np.ndarray:
    """Smooth noise whose content stands ``shift`` pixels further left."""
    noise = np.random.default_rng(7).integers(0, 256, (height // 8, width // 4, 3), np.uint8)
    large = cv2.resize(noise, (2 * width, height), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[:, shift : shift + width])


def play(video: FeatureFlowStream, count: int) -> list[FrameResult]:
    return [video.step(frame(3 * i), (1000 + i * 66) * MS) for i in range(count)]


def labels(results: list[FrameResult]) -> np.ndarray:
    return np.stack([result.label_map.labels for result in results if result.label_map is not None])


def counted(monkeypatch: pytest.MonkeyPatch, model: LoadedModel, name: str) -> list[int]:
    """A list that grows with every call of a method of the branch."""
    calls: list[int] = []
    original = getattr(model.networks.refine_network, name)
    monkeypatch.setattr(model.networks.refine_network, name, lambda *arguments: calls.append(1) or original(*arguments))
    return calls


def test_propagated_frames_pass_the_branch_and_key_frames_never(refined: LoadedModel, plain: LoadedModel, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    calls = counted(monkeypatch, refined, "forward")
    ours, pure = play(stream(refined), 7), play(stream(plain), 7)
    assert len(calls) == 5 == sum(result.refine_ms > 0 for result in ours)
    for result, other in zip(ours, pure, strict=True):
        same = (labels([result]) == labels([other])).mean()
        assert same == 1.0 if result.is_key else same < 0.95


@pytest.mark.parametrize(("schedule", "prepared"), [("per-frame", 0), ("fixed:5", 10), ("adaptive", 11)])
def test_only_frames_that_the_branch_reads_are_prepared_for_it_and_each_once(
    refined: LoadedModel, monkeypatch: pytest.MonkeyPatch, schedule: str, prepared: int
) -> None:
    calls = counted(monkeypatch, refined, "prepare")
    play(stream(refined, schedule=schedule, adaptive_price=100.0), 11)  # adaptive: one key, and ten frames from it
    assert len(calls) == prepared


@pytest.mark.parametrize("age", [1, 3])
def test_the_head_reads_the_corrected_feature(refined: LoadedModel, age: int) -> None:
    result = play(stream(refined), age + 1)[-1]
    networks = refined.networks
    with torch.inference_mode():
        key, current = (torch.from_numpy(frame(3 * shift)).permute(2, 0, 1)[None].float() / 255 for shift in (0, age))
        fields = networks.flow_network(*(networks.flow_network.prepare(image) for image in (current, key)))
        carried = propagate(networks.feature_network(key), fields)
        branch = networks.refine_network
        feature = branch(branch.prepare(current), branch.prepare(key), carried, fields, torch.tensor([float(age)]))
        scores = networks.head(Task.SEGMENTATION)(feature)
        expected = torch.nn.functional.interpolate(scores, (120, 160), mode="bilinear").argmax(1)[0]
    np.testing.assert_array_equal(labels([result])[0], expected.numpy())


def test_without_the_branch_the_answer_is_the_pure_warps(refined_bundle: Path, refined: LoadedModel, plain: LoadedModel) -> None:
    expected = labels(play(stream(plain), 4))
    for video in (stream(load(refined_bundle, "refine")), stream(refined, refine=False)):
        np.testing.assert_array_equal(labels(play(video, 4)), expected)


def test_the_branch_can_be_switched_while_the_stream_runs(refined: LoadedModel) -> None:
    video = stream(refined)
    times = []
    for index, refine in enumerate([True, True, False, True]):
        video.apply(video.settings.with_values({"refine": refine}))
        times.append(video.step(frame(3 * index), (1000 + index * 66) * MS).refine_ms > 0)
    assert times == [False, True, False, True]


def test_a_model_says_whether_its_branch_runs(refined_bundle: Path, refined: LoadedModel, plain: LoadedModel) -> None:
    settings = EngineSettings()
    assert refined.refines(settings) and not refined.refines(settings.with_values({"refine": False}))
    assert not plain.refines(settings) and not load(refined_bundle, "refine").refines(settings)


def test_evaluations_that_choose_their_keys_pass_the_branch_too(refined: LoadedModel) -> None:
    video = stream(refined)
    stepped = play(video, 4)
    track, own = video.start_track(frame(0), 1000 * MS)
    np.testing.assert_array_equal(labels([own]), labels([stepped[0]]))
    assert own.refine_ms == 0
    for age in (1, 2, 3):
        chosen = video.follow(track, frame(3 * age), (1000 + age * 66) * MS)
        np.testing.assert_array_equal(labels([chosen]), labels([stepped[age]]))
        assert chosen.refine_ms > 0


@pytest.mark.parametrize("size", [(90, 200), (33, 47), (5, 5)])
def test_frames_of_any_size_pass_the_branch(refined: LoadedModel, size: tuple[int, int]) -> None:
    video = stream(refined)
    for stamp in (1000, 1033):
        result = video.step(frame(0, 480, 640)[: size[0], : size[1]], stamp * MS)
        assert result.label_map is not None and result.label_map.labels.shape == size
    assert result.refine_ms > 0


def test_half_precision_agrees_with_float32(refined_bundle: Path, refined: LoadedModel) -> None:
    half = labels(play(stream(load(refined_bundle, precision="bfloat16")), 3))
    assert (half == labels(play(stream(refined), 3))).mean() > 0.9


def test_the_measured_cost_includes_the_branch(refined: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, refined, "forward")
    measure_cost(refined, EngineSettings(), 120, 160, repeats=1)
    assert len(calls) == 4
    measure_cost(refined, EngineSettings(refine=False), 120, 160, repeats=1)
    assert len(calls) == 4


def test_dff_replay_runs_the_branch_and_leaves_it_out(refined_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "params.yaml").write_text("precision: float32\nthreads: 1\n")
    for index in range(4):
        cv2.imwrite(str(tmp_path / "frames" / f"{index}.png"), frame(3 * index))
    fixed = ["--frames", str(tmp_path / "frames"), "--model", str(refined_bundle), "--params", str(tmp_path / "params.yaml")]
    agreement = {}
    for name, options in {"with": [], "without": ["--without", "refine"]}.items():
        output = tmp_path / f"{name}.json"
        assert main([*fixed, *options, "--schedule", "fixed:4", "--baseline", "--device", "cpu", "--json", str(output)]) == 0
        agreement[name] = json.loads(output.read_text())["agreement"]
    assert agreement["with"] != agreement["without"]  # which is better is the weights' business: these are random
