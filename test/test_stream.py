"""The stream: which frames run the slow network, what triggers a new key, and results in source pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dff_ros.core.bundle import load_bundle, save_bundle
from dff_ros.core.propagate import chain, warp
from dff_ros.core.results import Task
from dff_ros.engine.adaptive import Correction
from dff_ros.engine.cost import Cost, measure_cost
from dff_ros.engine.loading import LoadedModel, choose_precision, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream, FrameResult

MS = 1_000_000


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> LoadedModel:
    return load_model(EngineSettings(model=str(tiny_bundle), device="cpu", precision="float32"))


def stream(model: LoadedModel, **values: object) -> FeatureFlowStream:
    return FeatureFlowStream(model, EngineSettings().with_values({"schedule": "fixed:5", **values}))


def frame(shift: int = 0, height: int = 120, width: int = 160) -> np.ndarray:
    """A textured frame whose content stands ``shift`` pixels further left."""
    wide = np.random.default_rng(5).integers(0, 256, (height // 8, width // 4, 3), np.uint8)
    large = wide.repeat(8, axis=0).repeat(8, axis=1)
    return np.ascontiguousarray(large[:height, shift : shift + width])


def play(video: FeatureFlowStream, count: int, *, interval_ms: int = 66, start_ms: int = 1000) -> list[FrameResult]:
    return [video.step(frame(i), (start_ms + i * interval_ms) * MS) for i in range(count)]


def test_key_frames_come_at_the_interval_and_ages_count_up_between_them(model: LoadedModel) -> None:
    results = play(stream(model), 12)
    assert [r.key_age_frames for r in results] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert [r.kind for r in results[:2]] == ["key", "propagated"]
    assert [r.reason for r in results[:6]] == ["first frame", "", "", "", "", "interval"]
    assert results[3].key_age_ms == 3 * 66


def test_only_key_frames_run_the_feature_network(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = model.networks.feature_network.forward
    monkeypatch.setattr(model.networks.feature_network, "forward", lambda image: calls.append(1) or original(image))
    results = play(stream(model), 11)
    assert len(calls) == 3 == sum(r.is_key for r in results)
    assert all((r.feature_ms > 0) == r.is_key for r in results)


def test_flow_is_computed_once_a_propagated_frame_and_for_a_key_only_when_the_schedule_asks(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = model.networks.flow_network.forward
    monkeypatch.setattr(model.networks.flow_network, "forward", lambda *pair: calls.append(1) or original(*pair))
    play(stream(model), 11)
    assert len(calls) == 8
    calls.clear()
    results = play(stream(model, schedule="adaptive", adaptive_price=0.3), 11)
    assert len(calls) == 10 and all(r.motion_px is not None for r in results[1:])


@pytest.mark.parametrize(("schedule", "prepared"), [("per-frame", 0), ("fixed:5", 10), ("adaptive", 11)])
def test_only_images_that_the_flow_reads_are_prepared_for_it_and_each_once(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, schedule: str, prepared: int
) -> None:
    calls = []
    original = model.networks.flow_network.prepare
    monkeypatch.setattr(model.networks.flow_network, "prepare", lambda image: calls.append(1) or original(image))
    play(stream(model, schedule=schedule), 11)  # fixed:5 has keys at 0, 5 and 10, the last of which nothing is propagated from
    assert len(calls) == prepared


def test_a_still_scene_answers_the_same_from_a_propagated_feature(model: LoadedModel) -> None:
    video = stream(model)
    key, propagated = (video.step(frame(), (1000 + i * 33) * MS) for i in range(2))
    assert key.label_map is not None and propagated.label_map is not None
    assert (key.label_map.labels == propagated.label_map.labels).mean() > 0.999
    assert propagated.motion_px == pytest.approx(0.0, abs=0.05)


def test_a_propagated_frame_is_the_warped_key_feature_through_the_head(model: LoadedModel) -> None:
    video = stream(model)
    result = [video.step(frame(shift), (1000 + shift) * MS) for shift in (0, 6)][1]
    with torch.inference_mode():
        images = [torch.from_numpy(frame(shift)).permute(2, 0, 1)[None].float() / 255 for shift in (0, 6)]
        networks = model.networks
        flow = networks.flow_network(*(networks.flow_network.prepare(image) for image in images[::-1])).flow
        scores = networks.head(Task.SEGMENTATION)(warp(networks.feature_network(images[0]), flow))
        expected = torch.nn.functional.interpolate(scores, (120, 160), mode="bilinear").argmax(1)[0]
    assert result.label_map is not None
    np.testing.assert_array_equal(result.label_map.labels, expected.numpy())
    assert result.motion_px == pytest.approx(6.0, abs=1.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda video: video.step(frame(0, 96, 160), 1100 * MS), "size changed"),
        (lambda video: video.step(frame(), 900 * MS), "time went back"),
        (lambda video: video.step(frame(), 5000 * MS), "gap"),
        (lambda video: (video.reset("asked"), video.step(frame(), 1100 * MS))[1], "asked"),
    ],
)
def test_hard_triggers_drop_the_key_and_say_why(model: LoadedModel, change, reason: str) -> None:  # type: ignore[no-untyped-def]
    video = stream(model, schedule="fixed:1000")
    play(video, 2)
    result = change(video)
    assert result.is_key and result.reason == reason and result.key_age_frames == 0
    assert not video.step(frame(0, *(result.label_map.labels.shape)), result.stamp + 30 * MS).is_key


def test_a_camera_that_went_on_while_nobody_had_time_made_no_pause(model: LoadedModel) -> None:
    """Else a key frame that takes longer than the gap would make the next frame one as well, and so on for good."""
    video = stream(model, schedule="fixed:1000", max_key_age=0.0)
    play(video, 1)
    busy = [stamp * MS for stamp in range(1100, 4900, 100)]
    assert not video.step(frame(), 5000 * MS, dropped=busy).is_key
    assert not video.step(frame(), 7000 * MS, dropped=[0, 5900 * MS, 0, 6500 * MS]).is_key  # stamps of 0 are unknown
    paused = [stamp * MS for stamp in (7100, 7200, 8500, 8600)]
    assert video.step(frame(), 8700 * MS, dropped=paused).reason == "gap"


def test_an_old_key_is_replaced_by_stamps(model: LoadedModel) -> None:
    results = play(stream(model, schedule="fixed:1000", max_key_age=0.5), 12, interval_ms=100)
    assert [r.reason for r in results if r.is_key] == ["first frame", "age"]
    assert [r.is_key for r in play(stream(model, schedule="fixed:1000", max_key_age=0.0, max_gap=0.0), 4, interval_ms=9000)[1:]] == [
        False
    ] * 3


def test_unknown_stamps_are_no_jump(model: LoadedModel) -> None:
    video = stream(model, schedule="fixed:1000")
    assert [video.step(frame(), stamp).is_key for stamp in (0, 0, 1000 * MS, 0, 1100 * MS)] == [True, False, False, False, False]


@pytest.mark.parametrize("size", [(120, 160), (90, 200), (480, 640), (33, 47)])
def test_results_come_back_in_source_pixels(model: LoadedModel, size: tuple[int, int]) -> None:
    video = stream(model)
    for stamp in (1000, 1033):
        result = video.step(frame(0, 480, 640)[: size[0], : size[1]], stamp * MS)
        assert result.label_map is not None and result.label_map.labels.shape == size
        assert result.detections is not None
        boxes = result.detections.boxes
        assert boxes.shape == (len(result.detections), 4)
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= size[1]).all() and (boxes[:, 3] <= size[0]).all()


def test_heads_run_only_when_wanted(model: LoadedModel) -> None:
    video = stream(model)
    only = video.step(frame(), 1000 * MS, tasks=frozenset({Task.DETECTION}))
    assert only.label_map is None and only.detections is not None
    neither = video.step(frame(), 1033 * MS, tasks=frozenset())
    assert neither.label_map is None and neither.detections is None and not neither.is_key
    video.apply(video.settings.with_values({"detection": False}))
    assert video.step(frame(), 1066 * MS).detections is None


def test_a_changed_schedule_counts_from_the_next_frame(model: LoadedModel) -> None:
    video = stream(model)
    play(video, 3)
    video.apply(video.settings.with_values({"schedule": "per-frame"}))
    assert video.step(frame(), 2000 * MS).reason == "interval"
    with pytest.raises(ValueError, match="schedule should be"):
        video.apply(video.settings.with_values({"schedule": "sometimes"}))
    assert video.settings.schedule == "per-frame"


def test_a_bad_frame_is_refused_and_the_stream_lives_on(model: LoadedModel) -> None:
    video = stream(model)
    play(video, 2)
    with pytest.raises(ValueError, match=r"frame should be H x W x 3 uint8"):
        video.step(np.zeros((4, 4), np.uint8), 1200 * MS)
    assert video.step(frame(2), 1132 * MS).key_age_frames == 2


def test_two_videos_share_weights_and_nothing_else(model: LoadedModel) -> None:
    first, second, alone = (stream(model) for _ in range(3))
    expected = play(alone, 4)
    for i in range(4):
        interleaved = first.step(frame(i), (1000 + i * 66) * MS)
        second.step(frame(40 + i), (1000 + i * 66) * MS)
        assert interleaved.label_map is not None and expected[i].label_map is not None
        np.testing.assert_array_equal(interleaved.label_map.labels, expected[i].label_map.labels)


@pytest.mark.parametrize("chained", [False, True])
def test_evaluations_may_choose_their_own_keys(model: LoadedModel, chained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.networks, "chains_flow", chained)
    video = stream(model)
    stepped = play(video, 4)
    track, own = video.start_track(frame(0), 1000 * MS)
    assert own.is_key and own.label_map is not None and stepped[0].label_map is not None
    np.testing.assert_array_equal(own.label_map.labels, stepped[0].label_map.labels)
    for age in (1, 2, 3):
        chosen = video.follow(track, frame(age), (1000 + age * 66) * MS)
        assert chosen.key_age_frames == age == track.age and chosen.key_age_ms == stepped[age].key_age_ms
        assert chosen.label_map is not None and stepped[age].label_map is not None
        np.testing.assert_array_equal(chosen.label_map.labels, stepped[age].label_map.labels)
    assert video.step(frame(4), 1264 * MS).key_age_frames == 4  # state was left alone


@pytest.mark.parametrize("schedule", ["fixed:5", "adaptive"])
def test_a_model_that_chains_measures_flow_from_frame_to_frame(model: LoadedModel, monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    monkeypatch.setattr(model.networks, "chains_flow", True)
    flow_network = model.networks.flow_network
    asked: list[tuple[bytes, bytes]] = []
    original = flow_network.forward
    monkeypatch.setattr(
        flow_network, "forward", lambda now, then: asked.append((now.numpy().tobytes(), then.numpy().tobytes())) or original(now, then)
    )
    results = play(stream(model, schedule=schedule, adaptive_price=100.0), 4)
    assert [result.key_age_frames for result in results] == [0, 1, 2, 3]
    images = [stream(model).start_track(frame(index), 0)[0].key.prepared.flow for index in range(4)]
    names = [image.numpy().tobytes() for image in images]
    assert asked == list(zip(names[1:], names, strict=False))
    steps = [original(*pair) for pair in zip(images[1:], images, strict=False)]
    back = chain(steps[2], chain(steps[1], steps[0])).flow
    geometry = stream(model).start_track(frame(0), 0)[0].key.geometry
    assert results[3].motion_px == pytest.approx(float(back.norm(dim=1).mean()) * model.networks.stride / geometry.scale_x)


def test_chaining_can_be_left_out(tiny_bundle: Path, tmp_path: Path) -> None:
    card, networks = load_bundle(str(tiny_bundle))
    chained = {**card.architecture, "flow_network": {"kind": "dis", "chained": True}}
    save_bundle(tmp_path / "chained", replace(card, architecture=chained), networks)
    settings = EngineSettings(model=str(tmp_path / "chained"), device="cpu")
    assert load_model(settings).networks.chains_flow and not load_model(settings, without={"chain"}).networks.chains_flow


def test_half_precision_agrees_with_float32(tiny_bundle: Path, model: LoadedModel) -> None:
    half = load_model(EngineSettings(model=str(tiny_bundle), device="cpu", precision="bfloat16"))
    pairs = zip(play(stream(half), 3), play(stream(model), 3), strict=True)
    for ours, exact in pairs:
        assert ours.label_map is not None and exact.label_map is not None
        assert (ours.label_map.labels == exact.label_map.labels).mean() > 0.9


def test_half_precision_is_chosen_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
        assert choose_precision("auto", cpu) == expected
        assert choose_precision("float16", cpu) == torch.float16
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert choose_precision("auto", cpu) == torch.float32
    assert choose_precision("auto", torch.device("cuda")) == torch.float16


def test_a_missing_gpu_is_said(tiny_bundle: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    loaded = load_model(EngineSettings(model=str(tiny_bundle), device="cuda"))
    assert loaded.device.type == "cpu" and "no GPU found" in loaded.notes[0]


def test_parts_to_leave_out_are_known_parts(tiny_bundle: Path) -> None:
    settings = EngineSettings(model=str(tiny_bundle))
    assert load_model(settings, without=frozenset({"refine", "scale"})).without == {"refine", "scale"}
    with pytest.raises(ValueError, match="parts to leave out are chain, flow, refine, scale, got wheels"):
        load_model(settings, without=frozenset({"wheels"}))


def test_without_flow_the_key_feature_is_copied(tiny_bundle: Path) -> None:
    settings = EngineSettings(model=str(tiny_bundle), device="cpu", precision="float32", schedule="fixed:3", max_key_age=0.0)
    still = FeatureFlowStream(load_model(settings, without=frozenset({"flow"})), settings)
    rng = np.random.default_rng(0)
    key, copy = (still.step(rng.integers(0, 256, (120, 160, 3), np.uint8), 0) for _ in range(2))
    assert (key.is_key, copy.is_key, copy.motion_px) == (True, False, 0.0)
    assert key.label_map is not None and copy.label_map is not None
    assert (key.label_map.labels == copy.label_map.labels).all()


def test_costs_are_measured_and_become_advice(model: LoadedModel) -> None:
    cost = measure_cost(model, EngineSettings(), 120, 160, repeats=2)
    assert cost.key_ms > 0 and cost.propagated_ms > 0
    assert Cost(100.0, 10.0).cost_ratio == pytest.approx(0.1)
    assert Cost(100.0, 10.0).speedup(10) == pytest.approx(10 / 1.9)
    assert "expected speed-up 3.6 at l=5 and 5.3 at l=10" in Cost(100.0, 10.0).advice
    assert "per-frame (schedule:=per-frame) is the better choice" in Cost(10.0, 8.0).advice


def test_an_adaptive_schedule_says_how_far_off_it_expects_answers_to_be(model: LoadedModel) -> None:
    results = play(stream(model, schedule="adaptive", adaptive_max_age=4, adaptive_price=100.0), 9)
    assert [result.reason for result in results if result.is_key] == ["first frame", "age", "age"]
    assert all((result.disagreement is None) == result.is_key for result in results)
    assert all(0 < result.disagreement < 1 for result in results if result.disagreement is not None)
    assert all(result.disagreement is None for result in play(stream(model), 4))


def test_a_cut_is_a_key_frame_at_once(model: LoadedModel) -> None:
    video = stream(model, schedule="adaptive", adaptive_price=100.0)
    play(video, 3)
    assert video.step(255 - frame(3), 1198 * MS).reason == "scene cut"


def test_a_schedule_learns_from_each_key_frame_what_it_was_worth(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[tuple[float, float]] = []
    monkeypatch.setattr(Correction, "learn", lambda self, estimate, seen: learnt.append((estimate, seen)))
    video = stream(model, schedule="adaptive", adaptive_max_age=4, adaptive_price=100.0)
    play(video, 10)
    assert len(learnt) == 2 and all(0 <= seen <= 1 for _, seen in learnt)
    video.reset()
    play(video, 3, start_ms=2000)
    assert len(learnt) == 2  # a key frame after a reset replaced none


def test_a_turn_rate_reaches_the_schedule(model: LoadedModel) -> None:
    def expected(turn_rate: float | None) -> float:
        video = stream(model, schedule="adaptive", adaptive_price=100.0)
        play(video, 2)
        answer = video.step(frame(2), 1132 * MS, turn_rate=turn_rate).disagreement
        assert answer is not None
        return answer

    assert expected(0.5) == pytest.approx(expected(None) + 0.1)


def test_an_age_limit_in_seconds_holds_for_an_adaptive_schedule(model: LoadedModel) -> None:
    results = play(stream(model, schedule="adaptive", adaptive_price=100.0, max_key_age=0.3), 12)
    assert [result.reason for result in results if result.is_key] == ["first frame", "age", "age"]
