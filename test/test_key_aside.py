"""Key frames computed beside the stream: which key answers which frame, and what becomes of one that is not wanted any more."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dff_ros.core.results import ImageGeometry, Task
from dff_ros.core.signals import surprise
from dff_ros.engine import adaptive
from dff_ros.engine.adaptive import AdaptiveSchedule, Correction
from dff_ros.engine.frame_pair import Decision, FramePair
from dff_ros.engine.key_worker import DelayedKeyWorker, KeyFeature, ThreadKeyWorker
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.step_times import StepTimes
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.engine.track import PreparedFrame
from dff_ros.engine.turns import KeyFrameCancelledError, KeyTurn, Turns

MS = 1_000_000
MINUTE = 60.0
INTERVAL_MS = 40
SEGMENTATION = frozenset({Task.SEGMENTATION})


@pytest.fixture(scope="module")
def model(refined_bundle: Path) -> LoadedModel:
    """With a branch, and a head that answers many classes: every frame and age has an answer of its own."""
    return load_model(EngineSettings(model=str(refined_bundle), device="cpu", precision="float32"))


@pytest.fixture(params=[False, True], ids=["direct", "chained"])
def chained(model: LoadedModel, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(model.networks, "chains_flow", request.param)
    return bool(request.param)


def settings(**values: object) -> EngineSettings:
    return EngineSettings().with_values({"schedule": "fixed:5", "key_frames": "aside", **values})


def stream(model: LoadedModel, *, delay: int = 2, **values: object) -> FeatureFlowStream:
    return FeatureFlowStream(model, settings(**values), key_worker=DelayedKeyWorker(model, delay))


def frame(index: int, height: int = 120) -> np.ndarray:
    """A textured frame whose content stands ``index`` pixels further left."""
    coarse = np.random.default_rng(5).integers(0, 256, (height // 8, 40, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1)[:, index : index + 160])


def stamp_of(index: int) -> int:
    return (1000 + index * INTERVAL_MS) * MS


def show(video: FeatureFlowStream, index: int) -> FrameResult:
    return video.step(frame(index), stamp_of(index))


def play(video: FeatureFlowStream, count: int, *, start: int = 0) -> list[FrameResult]:
    return [show(video, index) for index in range(start, start + count)]


def labels_of(result: FrameResult) -> np.ndarray:
    assert result.label_map is not None
    return result.label_map.labels


def followed(model: LoadedModel, key: int, index: int) -> np.ndarray:
    """The class ids of frame ``index`` by hand: from a track that starts at frame ``key``."""
    video = FeatureFlowStream(model, settings())
    track, answer = video.start_track(frame(key), stamp_of(key))
    for each in range(key + 1, index + 1):
        answer = video.follow(track, frame(each), stamp_of(each))
    return labels_of(answer)


def count_calls(monkeypatch: pytest.MonkeyPatch, network: torch.nn.Module) -> list[int]:
    calls: list[int] = []
    original = network.forward
    monkeypatch.setattr(network, "forward", lambda *inputs: calls.append(1) or original(*inputs))
    return calls


def test_a_key_is_ordered_at_its_frame_and_answers_once_it_is_ready(model: LoadedModel) -> None:
    results = play(stream(model, delay=2), 14)
    assert [r.key_age_frames for r in results] == [0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 2, 3]
    assert [r.is_key for r in results] == [True] + [False] * 13
    reasons = ["first frame", "", "", "", "", "interval", "", "", "", "", "interval", "", "", ""]
    assert [r.reason for r in results] == reasons
    assert [r.made_key for r in results] == [bool(reason) for reason in reasons]
    assert [r.key_age_ms for r in results] == [r.key_age_frames * INTERVAL_MS for r in results]


@pytest.mark.parametrize("delay", [1, 3])
@pytest.mark.usefixtures("chained")
def test_every_frame_is_answered_as_by_following_its_key(model: LoadedModel, delay: int) -> None:
    results = play(stream(model, delay=delay, schedule="fixed:4"), 11)
    for index, result in enumerate(results):
        np.testing.assert_array_equal(labels_of(result), followed(model, index - result.key_age_frames, index))
    assert (labels_of(results[-1]) != followed(model, 0, 10)).any()  # another key would have been another answer


def test_flow_from_frame_to_frame_is_measured_once_for_both_keys(
    model: LoadedModel, chained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch, model.networks.flow_network)
    results = play(stream(model, delay=3), 14)
    assert len(calls) == 13 and all(r.flow_ms > 0 for r in results[1:])


def test_while_one_is_in_flight_no_other_is_ordered(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch, model.networks.feature_network)
    results = play(stream(model, delay=4, schedule="fixed:1"), 13)
    assert [bool(r.reason) for r in results] == [True, True, False, False, False, True, False, False, False, True, False, False, False]
    assert len(calls) == 4


def test_the_age_limit_orders_and_does_not_block(model: LoadedModel) -> None:
    results = play(stream(model, schedule="fixed:1000", max_key_age=0.2), 10)
    assert [(index, r.reason) for index, r in enumerate(results) if r.reason] == [(0, "first frame"), (6, "age")]
    assert [r.is_key for r in results] == [True] + [False] * 9
    assert [r.key_age_frames for r in results[6:]] == [6, 7, 2, 3]


def test_results_say_how_long_the_key_took(model: LoadedModel) -> None:
    results = play(stream(model), 8)
    assert results[0].key_ms == results[6].key_ms == results[0].feature_ms > 0
    assert 0 < results[7].key_ms != results[0].key_ms
    assert [index for index, r in enumerate(results) if r.feature_ms > 0] == [0, 5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda video: video.step(frame(7, 96), stamp_of(7)), "size changed"),
        (lambda video: video.step(frame(7), 500 * MS), "time went back"),
        (lambda video: video.step(frame(7), 9000 * MS), "gap"),
        (lambda video: (video.reset("asked"), show(video, 7))[1], "asked"),
    ],
)
def test_hard_triggers_drop_what_is_in_flight_and_block(
    model: LoadedModel, change: Callable[[FeatureFlowStream], FrameResult], reason: str
) -> None:
    video = stream(model, delay=4)
    assert play(video, 7)[-1].key_age_frames == 6  # ordered at 5
    result = change(video)
    assert (result.is_key, result.reason, result.key_age_frames) == (True, reason, 0)
    pixels = frame(8, result.label_map.labels.shape[0] if result.label_map else 0)
    later = [video.step(pixels, result.stamp + age * INTERVAL_MS * MS) for age in range(1, 5)]
    assert [r.key_age_frames for r in later] == [1, 2, 3, 4]  # the key ordered at frame 5 never shows up


def listen(video: FeatureFlowStream, monkeypatch: pytest.MonkeyPatch) -> list[FramePair]:
    """The pairs that the stream's schedule is asked of."""
    pairs: list[FramePair] = []
    original = video._schedule.is_key_frame

    def is_key_frame(pair: FramePair) -> Decision:
        pairs.append(pair)
        return original(pair)

    monkeypatch.setattr(video._schedule, "is_key_frame", is_key_frame)
    return pairs


def test_an_adaptive_schedule_is_asked_of_frames_answered_while_a_key_is_in_flight(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptive, "CUT_RISE", 2.0)  # the flow gets lost at some of these frames
    video = stream(model, delay=3, schedule="adaptive", adaptive_max_age=5, adaptive_price=100.0)
    pairs = listen(video, monkeypatch)
    results = play(video, 16)
    assert [(index, r.reason) for index, r in enumerate(results) if r.reason] == [(0, "first frame"), (5, "age"), (10, "age"), (15, "age")]
    assert [pair.age for pair in pairs] == [1, 2, 3, 4, 5, 6, 7, 3, 4, 5, 6, 7, 3, 4, 5]
    assert all(r.disagreement is not None and 0 < r.disagreement <= 1 for r in results[1:])


def test_a_key_aside_shows_at_its_take_over_what_the_old_one_lost(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[float] = []
    monkeypatch.setattr(Correction, "learn", lambda self, estimate, seen: learnt.append(seen))
    monkeypatch.setattr(adaptive, "CUT_RISE", 2.0)  # the flow gets lost at some of these frames
    video = stream(model, delay=3, schedule="adaptive", adaptive_max_age=5, adaptive_price=100.0)
    pairs = listen(video, monkeypatch)
    play(video, 8)
    assert learnt == [] and all(pair.renewal is None for pair in pairs)
    show(video, 8)  # the key ordered at frame 5 takes over
    renewal = pairs[7].renewal
    assert renewal is not None and renewal.signals is pairs[4].signals and learnt == [renewal.surprise]

    by_hand = FeatureFlowStream(model, settings())
    keys = {index: by_hand.start_track(frame(index), stamp_of(index))[0].key for index in (0, 5)}
    with torch.inference_mode():
        expected = surprise(model.networks.head(Task.SEGMENTATION), keys[0].carried, pairs[4].fields, keys[5].feature)
    assert renewal.surprise == pytest.approx(expected) and expected > 0
    play(video, 4, start=9)
    assert len(learnt) == 1  # once for each key frame


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_cut_drops_what_is_in_flight_and_its_own_frame_waits(
    model: LoadedModel, in_flight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = stream(model, delay=4, schedule="adaptive", adaptive_max_age=5, adaptive_price=100.0)
    results = play(video, 7 if in_flight else 4)
    assert bool(results[-1].key_age_frames > 5) == in_flight
    last = len(results)
    cut = video.step(255 - frame(last), stamp_of(last))
    assert (cut.is_key, cut.reason, cut.key_age_frames) == (True, "scene cut", 0)
    pairs = listen(video, monkeypatch)
    later = [video.step(255 - frame(index), stamp_of(index)) for index in range(last + 1, last + 5)]
    assert [r.key_age_frames for r in later] == [1, 2, 3, 4]
    assert all(pair.renewal is None for pair in pairs)  # what another scene's key lost tells nothing of this one


def test_a_budget_counts_a_key_aside_with_its_time(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    video = stream(model, delay=2, schedule="adaptive:latency_ms=20", adaptive_max_age=4)
    schedule = video._schedule
    assert isinstance(schedule, AdaptiveSchedule) and schedule._budget is not None
    told: list[bool] = []
    monkeypatch.setattr(schedule._budget, "spent", lambda pair, *, was_key: told.append(was_key))
    pairs = listen(video, monkeypatch)
    results = play(video, 20)
    expected = [r.own_ms for r in results]  # computed within the step here, the feature counts once: when it is taken over
    keys = [index for index in range(1, 20) if results[index].key_age_frames <= results[index - 1].key_age_frames]
    for index in keys:
        expected[index - 1] += results[index].key_ms
    assert keys and [pair.spent_ms for pair in pairs] == pytest.approx(expected[:-1])
    assert [index for index, was_key in enumerate(told, start=2) if was_key] == keys


def failing_feature(monkeypatch: pytest.MonkeyPatch, model: LoadedModel, error: Exception, *, call: int) -> None:
    """Let the feature network's ``call``-th image from now on end in ``error``."""
    original, calls = model.networks.feature_network.forward, iter(range(1, 1000))

    def forward(image: torch.Tensor) -> torch.Tensor:
        if next(calls) == call:
            raise error
        return original(image)

    monkeypatch.setattr(model.networks.feature_network, "forward", forward)


def test_an_error_aside_is_raised_by_the_step_that_would_take_over(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_feature(monkeypatch, model, torch.cuda.OutOfMemoryError("CUDA out of memory"), call=2)
    video = stream(model)
    play(video, 7)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        show(video, 7)
    result = show(video, 8)  # the caller may go on with the key that is there
    assert (result.is_key, result.reason) == (False, "interval")
    video.reset("error")
    assert show(video, 9).reason == "error"


def test_an_error_in_a_step_forgets_what_is_in_flight(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    video = stream(model)
    play(video, 6)
    with monkeypatch.context() as patch:
        patch.setattr(model.networks.head(Task.SEGMENTATION), "forward", lambda feature: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            show(video, 6)
    assert [(r.key_age_frames, r.reason) for r in play(video, 3, start=7)] == [(6, "interval"), (7, ""), (2, "")]


def test_two_streams_share_a_model_and_no_key(model: LoadedModel) -> None:
    first, second = stream(model, delay=1), stream(model, delay=3)
    alone = play(stream(model, delay=1), 12)
    for index in range(12):
        result = show(first, index)
        show(second, index)
        assert result.key_age_frames == alone[index].key_age_frames
        np.testing.assert_array_equal(labels_of(result), labels_of(alone[index]))


def test_the_mode_can_change_while_it_runs(model: LoadedModel) -> None:
    video = stream(model, key_frames="blocking")
    assert [r.is_key for r in play(video, 6)] == [True, False, False, False, False, True]
    video.apply(video.settings.with_values({"key_frames": "aside"}))
    assert [r.key_age_frames for r in play(video, 6, start=6)] == [1, 2, 3, 4, 5, 6]  # ordered at frame 10
    video.apply(video.settings.with_values({"key_frames": "blocking"}))
    assert [r.key_age_frames for r in play(video, 5, start=12)] == [2, 3, 4, 0, 1]  # what was in flight is taken over


def test_a_reason_without_a_decision_makes_no_key(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in ("blocking", "aside"):
        video = stream(model, key_frames=mode)
        monkeypatch.setattr(video._schedule, "is_key_frame", lambda pair: Decision(False, "almost"))
        assert [r.reason for r in play(video, 4)] == ["first frame", "", "", ""]


def test_per_frame_always_blocks(model: LoadedModel) -> None:
    assert all(r.is_key for r in play(stream(model, schedule="per-frame"), 4))


def test_a_delay_is_at_least_a_frame(model: LoadedModel) -> None:
    with pytest.raises(ValueError, match="ready at least 1 frame later, got 0"):
        DelayedKeyWorker(model, 0)


# From here on with the real worker: a thread, which a gate holds inside the feature network until a test lets it pass.


class Gate:
    """Stops the feature network in the key worker's threads; the stream's own thread passes."""

    def __init__(self, model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []
        self.torch_threads: list[int] = []
        original = model.networks.feature_network.forward

        def forward(image: torch.Tensor) -> torch.Tensor:
            if threading.current_thread() is not threading.main_thread():
                self.threads.append(threading.current_thread())
                self.torch_threads.append(torch.get_num_threads())
                self.entered.set()
                assert self.opened.wait(MINUTE)
            feature: torch.Tensor = original(image)
            return feature

        monkeypatch.setattr(model.networks.feature_network, "forward", forward)


@pytest.fixture
def gate(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    held = Gate(model, monkeypatch)
    yield held
    held.opened.set()


def threaded(model: LoadedModel, **values: object) -> FeatureFlowStream:
    return FeatureFlowStream(model, settings(**values))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + MINUTE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.002)


def ready(video: FeatureFlowStream) -> bool:
    """Whether the next step will switch over."""
    return video._aside._worker.finished(1)


def test_a_thread_computes_the_key_while_frames_are_answered_from_the_old_one(model: LoadedModel, gate: Gate) -> None:
    video = threaded(model)
    waiting = play(video, 5 + 4)
    assert gate.entered.wait(MINUTE)
    assert [r.key_age_frames for r in waiting] == list(range(9))
    gate.opened.set()
    wait_until(lambda: ready(video), "the key")
    result = show(video, 9)
    assert result.key_age_frames == 4
    np.testing.assert_array_equal(labels_of(result), labels_of(play(stream(model, delay=4), 10)[-1]))
    assert video.close(MINUTE)


def test_a_reset_waits_for_nothing_and_what_it_cancelled_never_shows_up(model: LoadedModel, gate: Gate) -> None:
    video = threaded(model)
    play(video, 6)
    assert gate.entered.wait(MINUTE)
    video.reset()
    assert show(video, 6).is_key  # although the thread is still inside the network
    assert [r.key_age_frames for r in play(video, 6, start=7)] == [1, 2, 3, 4, 5, 6]  # a new one was ordered at 11 and waits behind
    gate.opened.set()
    wait_until(lambda: ready(video), "the second key")
    result = show(video, 13)
    assert result.key_age_frames == 2
    np.testing.assert_array_equal(labels_of(result), followed(model, 11, 13))
    assert video.close(MINUTE)


def test_an_error_in_the_thread_reaches_the_caller(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_feature(monkeypatch, model, MemoryError("none left"), call=2)
    video = threaded(model)
    play(video, 6)
    wait_until(lambda: ready(video), "the error")
    with pytest.raises(MemoryError, match="none left"):
        show(video, 6)
    video.reset("error")
    assert show(video, 7).is_key
    assert video.close(MINUTE)


def test_close_says_whether_the_thread_is_busy_and_leaves_none(model: LoadedModel, gate: Gate) -> None:
    video = threaded(model)
    assert video.close()
    play(video, 6)
    assert gate.entered.wait(MINUTE)
    assert video.close(timeout=0.01) is False
    gate.opened.set()
    assert video.close(MINUTE)
    wait_until(lambda: not any(thread.is_alive() for thread in gate.threads), "the thread's end")
    assert play(video, 6)[5].reason == "interval"  # a stream may be used again
    assert video.close(MINUTE)


def test_a_stream_that_nobody_holds_takes_its_thread_along(model: LoadedModel, gate: Gate) -> None:
    video = threaded(model)
    play(video, 6)
    assert gate.entered.wait(MINUTE)
    gone = weakref.ref(video)
    del video
    gc.collect()
    assert gone() is None
    gate.opened.set()
    wait_until(lambda: not any(thread.is_alive() for thread in gate.threads), "the thread's end")


def test_the_key_has_as_many_threads_as_the_stream(model: LoadedModel, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    before, found = torch.get_num_threads(), []

    def in_a_thread(target: Callable[[], object]) -> None:
        thread = threading.Thread(target=target)
        thread.start()
        thread.join(MINUTE)

    try:
        torch.set_num_threads(3)
        video = threaded(replace(model, threads=3))
        play(video, 5)
        in_a_thread(lambda: torch.set_num_threads(2))  # what a new thread would begin with
        show(video, 5)
        assert gate.entered.wait(MINUTE)
        assert gate.torch_threads == [3] and torch.get_num_threads() == 3
        monkeypatch.setattr(KeyTurn, "owed", 1.0)
        show(video, 6)  # from here on it has half of them
        gate.opened.set()
        wait_until(lambda: ready(video), "the key")
        assert video.close(MINUTE)
        in_a_thread(lambda: found.append(torch.get_num_threads()))
        assert found == [3]
    finally:
        torch.set_num_threads(before)


def test_nothing_of_a_key_is_computed_during_a_step(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    in_step, during = threading.Event(), []
    begin, process = Turns._begin, FeatureFlowStream._process

    def note(self: Turns, key: KeyTurn) -> None:
        begin(self, key)
        during.append(in_step.is_set())

    def slow_process(*inputs: Any) -> Any:
        in_step.set()
        time.sleep(0.02)  # the thread would get through the whole network meanwhile
        result = process(*inputs)
        in_step.clear()
        return result

    video = threaded(model, key_share=0.0)
    play(video, 5)
    monkeypatch.setattr(Turns, "_begin", note)
    monkeypatch.setattr(FeatureFlowStream, "_process", slow_process)
    for index in range(5, 15):
        show(video, index)
        time.sleep(0.001)  # some of the network
    assert during and not any(during)
    assert video.close(MINUTE)


def test_a_cut_stops_the_key_that_is_being_computed(model: LoadedModel) -> None:
    video = threaded(model)
    play(video, 5)
    with video._turns.step():  # it cannot have begun yet
        video._aside.order(*_prepared(video, 5), stamp_of(5), unasked())
        unfinished = list(video._aside._worker._unfinished)
        video.reset("asked")
    wait_until(lambda: all(future.done() for future in unfinished), "its end")
    assert all(future.cancelled() or isinstance(future.exception(), KeyFrameCancelledError) for future in unfinished) and unfinished
    assert [r.key_age_frames for r in play(video, 4, start=6)] == [0, 1, 2, 3]
    assert video.close(MINUTE)


def test_results_say_how_long_a_step_waited(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Turns, "step", lambda turns: nullcontext(0.5))
    assert show(threaded(model), 0).waited_ms == 500.0


def test_to_change_to_per_frame_drops_the_key_that_is_being_computed(model: LoadedModel, gate: Gate) -> None:
    video = threaded(model)
    play(video, 6)
    assert gate.entered.wait(MINUTE)
    video.apply(video.settings.with_values({"schedule": "per-frame"}))
    assert show(video, 6).is_key and show(video, 7).is_key
    gate.opened.set()
    assert video.close(MINUTE)


def test_a_key_ends_with_the_stream_that_nobody_holds(model: LoadedModel, gate: Gate) -> None:
    video = threaded(model)
    play(video, 6)
    assert gate.entered.wait(MINUTE)
    turn = video._aside._worker._turn
    del video
    gc.collect()
    assert turn.cancelled


def test_a_closed_stream_begins_anew(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    forgot: list[bool] = []
    video = stream(model, schedule="adaptive", adaptive_price=0.01)
    play(video, 12)
    assert video._renewal is not None
    monkeypatch.setattr(video._schedule, "reset", lambda: forgot.append(True))
    assert video.close()
    assert video._renewal is None and forgot
    assert show(video, 40).reason == "first frame"


def test_what_is_ready_is_taken_before_the_step_has_its_turn(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a key frame could end once the step has half of the threads, and the next be ordered with as few."""
    video, order = stream(model), []
    take, step = video._aside.take, video._turns.step
    monkeypatch.setattr(video._aside, "take", lambda: order.append("take") or take())
    monkeypatch.setattr(video._turns, "step", lambda: order.append("step") or step())
    show(video, 0)
    assert order == ["take", "step"]


def test_a_cut_in_a_step_that_shares_the_threads_has_all_of_them(model: LoadedModel, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    before, found = torch.get_num_threads(), []
    torch.set_num_threads(4)
    try:
        video = threaded(replace(model, threads=4))
        play(video, 6)
        assert gate.entered.wait(MINUTE)
        monkeypatch.setattr(KeyTurn, "owed", 1.0)
        show(video, 6)
        network = model.networks.feature_network
        extract = network.forward
        monkeypatch.setattr(network, "forward", lambda image: found.append(torch.get_num_threads()) or extract(image))
        monkeypatch.setattr(video._schedule, "is_key_frame", lambda _: Decision(True, "cut", hard=True))
        assert show(video, 7).is_key
        assert found == [4]
        gate.opened.set()
        assert video.close(MINUTE)
    finally:
        torch.set_num_threads(before)


def unasked() -> FramePair:
    return FramePair(age=1, age_ns=None, pixels_per_cell=8.0, compute_fields=lambda: pytest.fail("nobody looks at it"))


def _prepared(video: FeatureFlowStream, index: int) -> tuple[PreparedFrame, ImageGeometry]:
    current = video._current(frame(index), stamp_of(index), SEGMENTATION, StepTimes())
    return current.prepared, current.geometry


def test_a_worker_gives_back_what_it_computed_once(model: LoadedModel) -> None:
    worker = ThreadKeyWorker(model, Turns(0.0, threads=1))
    image = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        expected = model.extract(image)
    worker.start(image)
    wait_until(lambda: worker.finished(1), "the feature")
    answer = worker.take()
    assert isinstance(answer, KeyFeature) and answer.took_ms > 0
    assert torch.equal(answer.feature, expected)
    assert not worker.finished(1)
    wait_until(lambda: not worker._unfinished, "the worker to let go of it")
    assert worker.close(MINUTE)


def test_frames_after_a_switch_to_blocking_wait_for_no_thread(model: LoadedModel, gate: Gate) -> None:
    video = threaded(model)
    play(video, 6)  # ordered at frame 5
    assert gate.entered.wait(MINUTE)
    video.apply(video.settings.with_values({"key_frames": "blocking"}))
    waiting = play(video, 3, start=6)
    assert [(r.key_age_frames, r.is_key) for r in waiting] == [(6, False), (7, False), (8, False)]
    gate.opened.set()
    wait_until(lambda: ready(video), "the key")
    later = play(video, 4, start=9)  # it takes over at age 4, and the next key is blocking's
    assert [(r.key_age_frames, r.is_key) for r in later] == [(4, False), (0, True), (1, False), (2, False)]
    np.testing.assert_array_equal(labels_of(later[0]), followed(model, 5, 9))
    np.testing.assert_array_equal(labels_of(later[3]), followed(model, 10, 12))
    assert len(gate.threads) == 1 and video.close(MINUTE)


def test_a_cut_at_the_moment_of_taking_over_drops_both_keys(model: LoadedModel, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "CUT_RISE", 2.0)  # the flow gets lost at some of these frames
    video = threaded(model, schedule="adaptive", adaptive_max_age=5, adaptive_price=100.0)
    assert play(video, 8)[5].reason == "age"
    assert gate.entered.wait(MINUTE)
    gate.opened.set()
    wait_until(lambda: ready(video), "the key")
    monkeypatch.setattr(adaptive, "CUT_RISE", 0.0)  # whatever is shown now is a cut
    cut = video.step(255 - frame(8), stamp_of(8))
    assert (cut.is_key, cut.reason, cut.key_age_frames) == (True, "scene cut", 0)
    monkeypatch.setattr(adaptive, "CUT_RISE", 2.0)
    later = [video.step(255 - frame(index), stamp_of(index)) for index in range(9, 12)]
    assert [r.key_age_frames for r in later] == [1, 2, 3]
    assert len(gate.threads) == 1 and video.close(MINUTE)
