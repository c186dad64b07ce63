"""Where a key frame's feature is computed while its stream goes on: in a thread; or, for lock-step, ready so many frames later."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.step_times import Timing
from dff_ros.engine.turns import KeyTurn, Turns


@dataclass(frozen=True)
class KeyFeature:
    """A key frame's feature (1, C, H / stride, W / stride), what is warped of it, and the milliseconds of computing them."""

    feature: Tensor
    carried: Tensor
    took_ms: float


class KeyWorker(Protocol):
    """Computes one key frame's feature at a time; only the stream's thread calls it."""

    def start(self, image: Tensor) -> None:
        """Begin with ``image`` (1, 3, H, W); returns at once. Nothing else may be wanted still: see ``cancel``."""
        ...

    def finished(self, frames: int) -> bool:
        """Whether ``take`` has an answer by the time the ``frames``-th frame after the image's own has come."""
        ...

    def take(self) -> KeyFeature:
        """The feature; raises what went wrong while it was computed. Either way the worker is free again."""
        ...

    def cancel(self) -> None:
        """Nobody wants the feature any more: on a CPU its computation stops soon, and its result is dropped."""
        ...

    def close(self, timeout: float | None = None) -> bool:
        """Leave no thread behind; False where one is still busy after ``timeout`` seconds."""
        ...


class ThreadKeyWorker:
    """A thread of its own: on a CPU it computes when it has its turn, on a GPU in a queue of low priority.

    The thread starts with the first image and ends with ``close`` or with the worker. One that was cancelled begins with the next image
    when the operation it was in is done, on a GPU when all of them are. A process that ends waits for a key frame in the making unless
    ``close`` was called.
    """

    def __init__(self, model: LoadedModel, turns: Turns) -> None:
        self._wanted: Future[KeyFeature] | None = None
        self._turn: KeyTurn | None = None
        self._model = model
        self._turns = turns
        on_gpu = model.device.type == "cuda"
        self._queue = torch.cuda.Stream(model.device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._executor: ThreadPoolExecutor | None = None
        self._unfinished: set[Future[KeyFeature]] = set()

    def __del__(self) -> None:
        self.cancel()

    def start(self, image: Tensor) -> None:
        """Hand ``image`` to the thread."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="dff_key")
        if self._queue is None:
            self._turn = self._turns.key_frame()
            future = self._executor.submit(_compute_in_turn, self._model, image, self._turn, self._turns.threads)
        else:
            future = self._executor.submit(_compute_on_gpu, self._model, image, torch.cuda.current_stream().record_event(), self._queue)
        self._wanted = future
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)

    def finished(self, frames: int) -> bool:
        """Whether the thread is done, however many frames have passed."""
        return self._wanted is not None and self._wanted.done()

    def take(self) -> KeyFeature:
        """The thread's answer, waited for where it is not there yet."""
        wanted, self._wanted = self._wanted, None
        assert wanted is not None, "nothing was started"
        answer = wanted.result()
        if self._queue is not None:  # its memory belongs to the other queue: not to be used again before this one is done with it
            answer.feature.record_stream(torch.cuda.current_stream())
            answer.carried.record_stream(torch.cuda.current_stream())
        return answer

    def cancel(self) -> None:
        """Drop what is waiting or being computed."""
        if self._wanted is not None:
            self._wanted.cancel()
            if self._turn is not None:
                self._turn.cancel()
            self._wanted = None

    def close(self, timeout: float | None = None) -> bool:
        """End the thread. A later ``start`` begins a new one."""
        self.cancel()
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)
        idle = not wait(list(self._unfinished), timeout).not_done  # a copy: the thread takes out what it has done
        if idle and executor is not None:
            executor.shutdown(wait=True)  # a moment: nothing is left to do
        return idle


def _extract(model: LoadedModel, image: Tensor) -> tuple[Tensor, Tensor]:
    """The feature, and what is warped of it."""
    feature = model.extract(image)
    return feature, model.networks.carried_map(feature)


@torch.inference_mode()
def _compute(model: LoadedModel, image: Tensor) -> KeyFeature:
    started = time.perf_counter()
    made = _extract(model, image)
    if model.device.type == "cuda":
        torch.cuda.current_stream(model.device).synchronize()
    return KeyFeature(*made, (time.perf_counter() - started) * 1e3)


@torch.inference_mode()
def _compute_in_turn(model: LoadedModel, image: Tensor, turn: KeyTurn, threads: int) -> KeyFeature:
    torch.set_num_threads(threads)
    try:
        with turn:
            made = _extract(model, image)
            computed = turn.computed
    finally:
        torch.set_num_threads(threads)  # a thread's first call takes over what was set last, wherever that was
    return KeyFeature(*made, computed * 1e3)


@torch.inference_mode()
def _compute_on_gpu(model: LoadedModel, image: Tensor, image_is_there: torch.cuda.Event, queue: torch.cuda.Stream) -> KeyFeature:
    started = time.perf_counter()
    with torch.cuda.stream(queue):
        queue.wait_event(image_is_there)
        image.record_stream(queue)
        made = _extract(model, image)
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # sleeps instead of spinning on a core
        done.record(queue)
    done.synchronize()
    return KeyFeature(*made, (time.perf_counter() - started) * 1e3)


class DelayedKeyWorker:
    """Ready when ``frames`` further frames have come, whatever the clock says: the same run every time, for tests and lock-step replay.

    The feature is computed at once, in the caller's thread. What it took is as the stream's ``timing`` has it.
    """

    def __init__(self, model: LoadedModel, frames: int, *, timing: Timing | None = None) -> None:
        if frames < 1:
            raise ValueError(f"a key frame aside should be ready at least 1 frame later, got {frames}")
        self.frames = frames
        self._model = model
        self._timing = timing or Timing()
        self._wanted: Future[KeyFeature] | None = None

    def start(self, image: Tensor) -> None:
        """Compute, and keep the feature or the error for ``take``."""
        self._wanted = Future()
        try:
            made = _compute(self._model, image)
            self._wanted.set_result(replace(made, took_ms=self._timing.key_feature(made.took_ms)))
        except Exception as error:  # noqa: BLE001 - whatever it is, ``take`` raises it
            self._wanted.set_exception(error)

    def finished(self, frames: int) -> bool:
        """Whether enough frames have come."""
        return frames >= self.frames

    def take(self) -> KeyFeature:
        """What ``start`` computed."""
        wanted, self._wanted = self._wanted, None
        assert wanted is not None, "nothing was started"
        return wanted.result()

    def cancel(self) -> None:
        """Drop it."""
        self._wanted = None

    def close(self, timeout: float | None = None) -> bool:
        """There is no thread."""
        self.cancel()
        return True
