"""Turns with the cores: what a key frame aside may do while a step runs, what it is owed, and how it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from dff_ros.engine import turns as module
from dff_ros.engine.turns import KeyFrameCancelledError, KeyProgress, Turns

MINUTE = 60.0


class Computation:
    """A key frame of ``count`` operations in a thread, which takes ``cost`` seconds on its own clock for each."""

    def __init__(self, turns: Turns, clock: Clock, *, count: int, cost: float = 1.0) -> None:
        self.done = 0
        self.error: Exception | None = None
        self.computed = 0.0
        self.began = threading.Event()
        self._turns, self._clock, self._count, self._cost = turns, clock, count, cost
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.began.wait(MINUTE)

    def _run(self) -> None:
        try:
            with self._turns.key_frame() as turn:
                self.began.set()
                for _ in range(self._count):
                    operation(lambda: self._clock.pass_by(self._cost))
                    self.done += 1
                self.computed = turn.computed
        except KeyFrameCancelledError as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(MINUTE)
        assert not self._thread.is_alive()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds



def operation(inside: Callable[[], None]) -> None:
    """One operation of torch that does ``inside``."""
    torch.zeros(1).apply_(lambda value: inside() or value)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_steps_a_key_frame_is_computed_at_once(clock: Clock) -> None:
    turns = Turns(0.0, clock=clock)
    key = Computation(turns, clock, count=7)
    key.join()
    assert key.done == 7 and key.computed == pytest.approx(7.0)


def test_within_a_step_nothing_is_computed(clock: Clock) -> None:
    turns = Turns(0.0, clock=clock)
    with turns.step():
        key = Computation(turns, clock, count=5)
        with pytest.raises(TimeoutError):
            wait_for(lambda: key.done > 0, 0.05)
    key.join()
    assert key.done == 5


def test_steps_leave_a_key_frame_its_least_share(clock: Clock) -> None:
    turns = Turns(0.25, clock=clock)
    with turns.step():
        key = Computation(turns, clock, count=100)
        clock.pass_by(30.0)
    # Whatever the thread did meanwhile, the step finds that at least a quarter of the time has been the key frame's.
    with turns.step():
        done, now = key.done, clock.now
        assert done >= 0.25 * now - 1e-9 and done >= 10
        clock.pass_by(60.0)
    key.join()
    assert key.done == 100


def test_a_step_waits_for_a_share_no_longer_than_is_bearable(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.01)
    turns = Turns(0.5, clock=clock)
    stuck, let_go = threading.Event(), threading.Event()

    def one_long_operation() -> None:
        with turns.key_frame():
            operation(lambda: stuck.set() or (let_go.wait(MINUTE) and None))

    thread = threading.Thread(target=one_long_operation, daemon=True)
    thread.start()
    assert stuck.wait(MINUTE)
    clock.pass_by(100.0)
    with turns.step():  # a network of one operation, as a scripted one is, does not stop the stream
        assert thread.is_alive()
    let_go.set()
    thread.join(MINUTE)
    assert not thread.is_alive()


def test_a_cancelled_key_frame_stops_before_its_next_operation(clock: Clock) -> None:
    turns = Turns(0.0, clock=clock)
    with turns.step():
        key = Computation(turns, clock, count=5)
        turns.cancel()
        key.join()  # within the step: it need not wait for its turn
    assert key.done == 0 and isinstance(key.error, KeyFrameCancelledError)
    later = Computation(turns, clock, count=5)  # the next one is not the cancelled one
    later.join()
    assert later.done == 5


def test_cancelling_nothing_is_no_error(clock: Clock) -> None:
    Turns(0.0, clock=clock).cancel()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match=f"least share of a key frame aside should be from 0 to below 1, got {share}"):
        Turns(share)


def test_by_a_simulated_clock_it_computes_between_steps() -> None:
    progress = KeyProgress(50.0, ordered=0.0, least_share=0.0)
    progress.step_ends(20.0)  # the step it was ordered in
    assert not progress.ready(60.0)  # 40
    progress.step_ends(80.0)
    assert progress.ready(90.0)  # 50


def test_by_a_simulated_clock_it_has_its_least_share() -> None:
    progress = KeyProgress(50.0, ordered=0.0, least_share=0.25)
    for now in range(20, 200, 20):
        progress.step_ends(float(now))
        assert not progress.ready(float(now))
    progress.step_ends(200.0)
    assert progress.ready(200.0)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    changed = threading.Condition()
    with changed:
        if not changed.wait_for(condition, seconds):
            raise TimeoutError
