"""From message to result: what is skipped, what drops the key frame, and what an error does."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from node_process import SECOND, image_message, picture

from dff_ros.core.results import ALL_TASKS, Task
from dff_ros.engine.key_worker import DelayedKeyWorker, KeyWorker
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.memory import is_out_of_memory
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.image_encoding import EncodingError
from dff_ros.node.counters import Counters, Statistics, percentiles
from dff_ros.node.diagnostics import ERROR, OK, USE_SIM_TIME, WARN, engine_values, judge_engine, judge_input, resident_mib
from dff_ros.node.mailbox import Mailbox, Worker
from dff_ros.node.pipeline import Answer, Pipeline, decode

MINUTE = 60.0


class FailingStream(FeatureFlowStream):
    """A real stream whose next steps raise what is in ``errors``."""

    errors: list[Exception]

    def step(self, frame: Any, stamp: int, **options: Any) -> FrameResult:
        if self.errors:
            raise self.errors.pop(0)
        return super().step(frame, stamp, **options)


class Bench:
    """A pipeline over a tiny bundle, what it counted and what it said."""

    def __init__(self, model: LoadedModel, settings: EngineSettings, *errors: Exception, key_worker: KeyWorker | None = None) -> None:
        self.stream = FailingStream(model, settings, key_worker=key_worker)
        self.stream.errors = list(errors)
        self.counters = Counters()
        self.said: list[tuple[str, str]] = []
        self.pipeline = Pipeline(self.stream, counters=self.counters, report=lambda level, text: self.said.append((level, text)))

    def show(self, stamp: int, **options: Any) -> Answer | None:
        tasks = options.pop("tasks", ALL_TASKS)
        message = image_message(options.pop("pixels", picture()), "rgb8", stamp)
        limits = {"now_ns": options.pop("now", 0), "max_age": options.pop("max_age", 0.0)}
        return self.pipeline.process(message, tasks=tasks, **limits, **options)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> LoadedModel:
    return load_model(EngineSettings(model=str(tiny_bundle), device="cpu"))


@pytest.fixture
def settings(tiny_bundle: Path) -> EngineSettings:
    return EngineSettings(model=str(tiny_bundle), device="cpu", schedule="fixed:100", input_pixels=160_000)


def result_of(answer: Answer | None) -> FrameResult:
    assert answer is not None
    return answer.result


def test_only_the_heads_asked_for_run(model: LoadedModel, settings: EngineSettings) -> None:
    bench = Bench(model, settings)
    both, one, none = (
        result_of(bench.show(stamp * SECOND // 10, tasks=tasks))
        for stamp, tasks in ((1, ALL_TASKS), (2, frozenset({Task.DETECTION})), (3, frozenset()))
    )
    assert both.detections is not None and both.label_map is not None
    assert one.detections is not None and one.label_map is None
    assert none.detections is None and none.label_map is None


def test_a_request_for_a_reset_and_new_settings_hold_from_the_next_frame(model: LoadedModel, settings: EngineSettings) -> None:
    bench = Bench(model, settings)
    assert [result_of(bench.show(stamp)).is_key for stamp in (1, 2)] == [True, False]
    bench.pipeline.request_reset("reset")
    assert result_of(bench.show(3)).reason == "reset"
    bench.pipeline.request_settings(settings.with_values({"schedule": "per-frame"}))
    assert [result_of(bench.show(stamp)).is_key for stamp in (4, 5)] == [True, True]


def test_duplicates_and_stale_images_are_counted_but_not_those_of_unknown_time(model: LoadedModel, settings: EngineSettings) -> None:
    bench = Bench(model, settings)
    assert bench.show(SECOND) is not None
    assert bench.show(SECOND) is None
    assert bench.show(2 * SECOND, now=4 * SECOND, max_age=1.0) is None
    assert bench.show(3 * SECOND, now=4 * SECOND, max_age=1.0) is not None
    assert all(bench.show(0, now=4 * SECOND, max_age=1.0) for _ in range(2))
    assert (bench.counters.duplicate, bench.counters.stale, bench.counters.bad) == (1, 1, 0)
    assert len(bench.said) == 1  # about stamp 0, once


def test_images_that_were_replaced_or_too_old_are_no_pause_of_the_camera(model: LoadedModel, settings: EngineSettings) -> None:
    bench, second = Bench(model, settings), 1_000_000_000
    bench.show(1 * second)
    assert bench.show(int(1.8 * second), dropped=[int(1.4 * second)], now=9 * second, max_age=2.0) is None
    answer = result_of(bench.show(3 * second, dropped=[int(2.5 * second)], now=3 * second, max_age=2.0))
    assert not answer.is_key
    assert result_of(bench.show(5 * second)).reason == "gap"


def test_an_unreadable_image_leaves_the_key_frame(model: LoadedModel, settings: EngineSettings) -> None:
    bench = Bench(model, settings)
    bench.show(1)
    message = image_message(picture(), "rgb8", 2)
    message.encoding = "holo9"
    assert bench.pipeline.process(message, tasks=ALL_TASKS, now_ns=0, max_age=0.0) is None
    assert "got 'holo9'" in bench.said[0][1]
    assert not result_of(bench.show(3)).is_key


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A cv_bridge that reads rgb16 as the real one does: all columns that a row holds, up to the width."""

    class CvBridge:
        def imgmsg_to_cv2(self, message: Any, desired: str) -> np.ndarray:
            if (message.encoding, desired) != ("rgb16", "rgb8"):
                raise TypeError(f"[{message.encoding}] is not a color format. but [{desired}] is.\nThe conversion does not make sense")
            rows = np.frombuffer(message.data, "<u2").reshape(message.height, message.step // 6, 3)
            return (rows[:, : message.width] >> 8).astype(np.uint8)

    module = types.ModuleType("cv_bridge")
    module.__dict__["CvBridge"] = CvBridge
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    return module


def image_16_bit(pixels: np.ndarray, encoding: str = "rgb16") -> Any:
    message = image_message((pixels.astype("<u2") << 8).view(np.uint8).reshape(len(pixels), -1), encoding, 1)
    message.width = pixels.shape[1]
    return message


def test_encodings_outside_the_table_are_read_by_cv_bridge(bridge: types.ModuleType) -> None:
    np.testing.assert_array_equal(decode(image_16_bit(picture())), picture())


def test_what_cv_bridge_cannot_read_is_refused_in_one_line(bridge: types.ModuleType) -> None:
    with pytest.raises(EncodingError, match=r"encoding should be one of rgb8, .* got '32FC1' \(cv_bridge: .32FC1. is not a col") as caught:
        decode(image_16_bit(picture(), "32FC1"))
    assert "\n" not in str(caught.value)
    narrow = image_16_bit(picture())
    narrow.width += 10
    with pytest.raises(EncodingError, match="120x170 with step 960 became"):
        decode(narrow)


def test_without_cv_bridge_the_refusal_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(EncodingError, match=r"got 'rgb16' \(cv_bridge: "):
        decode(image_16_bit(picture()))


@pytest.mark.parametrize(
    "encoding",
    [
        *("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "yuv422", "yuv422_yuy2"),
        *("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"),
    ],
)
def test_our_encodings_are_those_of_cv_bridge(encoding: str) -> None:
    cv_bridge = pytest.importorskip("cv_bridge", reason="needs a ROS 2 installation with cv_bridge")
    pixel = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}.get(encoding, 1 if encoding.startswith("bayer") else 2)
    rows = np.random.default_rng(0).integers(0, 256, (48, 64 * pixel), np.uint8)
    message = image_message(rows, encoding, 1)
    message.width = 64
    theirs = np.asarray(cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8"))
    assert np.abs(decode(message).astype(int) - theirs).max() <= 1  # 16 bits are cut here and rounded there


def test_an_encoding_cannot_break_the_log_line() -> None:
    message = image_message(picture(), "rgb8\n\x1b[31m", 1)
    with pytest.raises(EncodingError) as caught:
        decode(message)
    assert str(caught.value).isprintable()


def test_any_error_is_reported_counted_and_the_next_frame_starts_over(model: LoadedModel, settings: EngineSettings) -> None:
    bench = Bench(model, settings, KeyError("weights"))
    assert bench.show(1) is None
    assert bench.said == [("error", "processing failed: KeyError: 'weights'")]
    assert bench.counters.failed == 1
    assert result_of(bench.show(2)).reason == "error"


def test_out_of_memory_takes_a_smaller_input_then_a_head_less_then_tells(model: LoadedModel, settings: EngineSettings) -> None:
    shortage = [torch.cuda.OutOfMemoryError("CUDA out of memory") for _ in range(5)]
    bench = Bench(model, settings, *shortage)
    assert [bench.show(stamp) for stamp in range(1, 6)] == [None] * 5
    remedies = [text.partition(", ")[2].partition(":")[0] for _, text in bench.said]
    expected = ["input reduced to 80000 pixels", "input reduced to 40000 pixels", "input reduced to 20000 pixels", "detection switched off"]
    assert remedies == [*expected, "nothing left to reduce"]
    answer = result_of(bench.show(6))
    assert answer.label_map is not None and answer.detections is None
    bench.pipeline.request_settings(settings.with_values({"score_threshold": 0.9}))
    bench.show(7)
    assert bench.stream.settings.input_pixels == 20_000  # a later change of parameters does not undo it
    assert bench.stream.settings.score_threshold == 0.9


def test_out_of_memory_aside_is_remedied_as_in_a_step(
    model: LoadedModel, settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = model.networks.feature_network.forward, []

    def forward(image: torch.Tensor) -> torch.Tensor:
        calls.append(image.shape)
        if len(calls) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        feature: torch.Tensor = original(image)
        return feature

    monkeypatch.setattr(model.networks.feature_network, "forward", forward)
    aside = settings.with_values({"schedule": "fixed:2", "key_frames": "aside"})
    bench = Bench(model, aside, key_worker=DelayedKeyWorker(model, 1))
    answers = [bench.show(stamp, pixels=picture(240, 320)) for stamp in range(1, 9)]
    assert [answer and answer.result.reason for answer in answers] == ["first frame", "", "interval", None, "error", "", "interval", ""]
    assert [text.partition(":")[0] for _, text in bench.said] == ["out of memory, input reduced to 80000 pixels"]
    assert [answer and answer.result.key_age_frames for answer in answers[4:]] == [0, 1, 2, 1]
    assert calls[0] == calls[1] and calls[2] == calls[3] and calls[2].numel() < calls[0].numel()
    assert bench.counters.failed == 1


def test_a_lack_of_memory_is_told_from_other_errors() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not is_out_of_memory(RuntimeError("sizes do not match"))
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(cv2.error) as refused:
        cv2.resize(np.zeros((10, 10, 3), np.uint8), (200_000_000, 100_000_000))
    assert is_out_of_memory(refused.value)
    with pytest.raises(cv2.error) as other:
        cv2.resize(np.zeros((0, 0, 3), np.uint8), (2, 2))
    assert not is_out_of_memory(other.value)


def test_a_mailbox_holds_the_newest_and_says_what_it_replaced() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert [mailbox.put(item) for item in (1, 2, 3)] == [False, True, True]
    assert mailbox.take() == 3
    assert mailbox.put(4) is False
    mailbox.close()
    assert mailbox.take() is None


def test_a_worker_handles_items_and_stops_while_waiting_or_busy() -> None:
    handled, entered, leave = [], threading.Event(), threading.Event()

    def handle(item: int) -> None:
        handled.append(item)
        entered.set()
        leave.wait(MINUTE)

    worker = Worker(handle, name="test")
    worker.put(1)
    assert entered.wait(MINUTE)
    assert [worker.put(2), worker.put(3)] == [False, True]
    assert worker.stop(timeout=0.01) is False
    leave.set()
    assert worker.stop(timeout=MINUTE)
    assert handled == [1]


def silent() -> str:
    return "nobody publishes on /image"


def judge(statistics: Statistics, since: Counters, *, mismatch: str = "", enabled: bool = True) -> tuple[bytes, str]:
    verdict = judge_input(statistics, since, why_silent=silent, mismatch=mismatch, enabled=enabled)
    return verdict.level, verdict.message


def test_the_input_is_judged_by_the_worst_that_is_known() -> None:
    statistics = Statistics()
    statistics.since -= 100
    assert judge(statistics, Counters()) == (WARN, "no image for 100 s: nobody publishes on /image")
    assert judge(statistics, Counters(), enabled=False) == (OK, "disabled by ~/enable")
    statistics.arrived(replaced=False)
    assert judge(statistics, Counters(received=1, stale=1)) == (WARN, USE_SIM_TIME)
    assert judge(statistics, Counters(received=2, stale=1, processed=1))[0] == OK
    assert judge(statistics, Counters(received=2, bad=2)) == (WARN, "2 unreadable images in the last second")
    assert judge(statistics, Counters(), mismatch="reliable asked for") == (ERROR, "reliable asked for")
    assert judge_engine(Counters(failed=1)).level == ERROR
    assert judge_engine(Counters(received=30, dropped=29)).level == WARN
    assert judge_engine(Counters(received=30, dropped=29, processed=1)).level == OK


def test_rates_and_percentiles_are_of_the_last_seconds() -> None:
    statistics = Statistics()
    assert engine_values(statistics, {})["latency_ms_p50"] == ""
    for index in range(10):
        statistics.arrived(replaced=index == 3)
        statistics.answered(made_key=index % 5 == 0, latency_ms=10.0 * index, step_ms=1.0, overhead_ms=0.5)
    values = engine_values(statistics, {"device": "cpu"})
    assert (values["key_rate"], values["latency_ms_p50"], values["step_ms_p95"]) == ("0.2000", "45.00", "1.00")
    assert (statistics.counters.received, statistics.counters.dropped, statistics.counters.processed) == (10, 1, 10)
    statistics._timings[0] = type(statistics._timings[0])(-1e9, True, 1.0, 1.0, 1.0)
    assert len(statistics.recent_frames) == 9
    assert percentiles([]) == {}


def test_memory_is_that_of_this_process() -> None:
    before = resident_mib()
    block = np.ones(100 * 2**20, np.uint8)
    after = resident_mib()
    assert before is not None and after is not None and after - before > 50
    assert block[0] == 1
