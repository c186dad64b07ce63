"""Turns with the cores: what a key frame aside may do while a step runs, when it has half of the threads, and how it is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from dff_ros.engine import turns as module
from dff_ros.engine.turns import KeyFrameCancelledError, KeyProgress, Turns

MINUTE = 60.0


class Computation:
    """A key frame of ``count`` operations in a thread, each of which takes ``cost`` seconds on the clock."""

    def __init__(self, turns: Turns, clock: Clock, *, count: int, cost: float = 1.0) -> None:
        self.done = 0
        self.threads = 0
        self.error: Exception | None = None
        self.turn = turns.key_frame()
        self.began = threading.Event()
        self._clock, self._count, self._cost = clock, count, cost
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.began.wait(MINUTE)

    def _run(self) -> None:
        try:
            with self.turn:
                self.began.set()
                for _ in range(self._count):
                    operation(self._operation)
        except KeyFrameCancelledError as error:
            self.error = error

    def _operation(self) -> None:
        self._clock.pass_by(self._cost)
        self.threads = torch.get_num_threads()
        self.done += 1

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
    key = Computation(Turns(0.0, threads=1, clock=clock), clock, count=7)
    key.join()
    assert key.done == 7


def test_within_a_step_nothing_is_computed(clock: Clock) -> None:
    turns = Turns(0.0, threads=1, clock=clock)
    with turns.step() as waited:
        assert waited == 0
        key = Computation(turns, clock, count=5)
        wait_until(lambda: key.turn.waiting_since is not None, "the first operation")
        clock.pass_by(3.0)
        assert key.done == 0 and key.turn.computed == 0
    key.join()
    assert key.done == 5 and key.turn.computed == 5.0


def test_a_step_waits_for_the_operation_that_is_running(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_WAIT", MINUTE)
    turns = Turns(0.0, threads=1, clock=clock)
    begun, let_go = threading.Event(), threading.Event()
    turn = turns.key_frame()
    found: list[tuple[bool, float]] = []

    def compute() -> None:
        with turn:
            operation(lambda: begun.set() or (let_go.wait(MINUTE) and None))

    def step() -> None:
        with turns.step() as waited:
            found.append((let_go.is_set(), waited))

    threads = [threading.Thread(target=target, daemon=True) for target in (compute, step)]
    threads[0].start()
    assert begun.wait(MINUTE)
    turn.cancel()  # though nobody wants it any more
    threads[1].start()
    wait_until(lambda: turns._in_step, "the step")
    clock.pass_by(2.0)
    let_go.set()
    for thread in threads:
        thread.join(MINUTE)
    assert found == [(True, 2.0)]


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_a_key_frame_left_too_little_has_half_of_the_threads(clock: Clock, three_threads: None) -> None:
    turns = Turns(0.25, threads=3, clock=clock)
    with turns.step():
        assert torch.get_num_threads() == 3
        key = Computation(turns, clock, count=1_000_000, cost=0.0)
        wait_until(lambda: key.turn.waiting_since is not None, "the first operation")
        clock.pass_by(8.0)
        assert not key.turn.shares and key.turn.computed == 0
    assert key.threads in (0, 3)
    for _ in range(2):
        with turns.step() as waited:
            assert key.turn.shares and waited == 0 and torch.get_num_threads() == 2
            done = key.done
            wait_until(lambda done=done: key.done > done + 1, "an operation within the step")
            assert key.threads == 1
        assert torch.get_num_threads() == 3
        clock.pass_by(8.0)  # it is owed nothing any more, and goes on as it is
    with turns.step():
        key.turn.cancel()
        turns.take_all()
        assert torch.get_num_threads() == 3
    key.join()
    with turns.step():
        assert torch.get_num_threads() == 3


def test_one_thread_is_not_halved(clock: Clock) -> None:
    turns = Turns(0.5, threads=1, clock=clock)
    with turns.key_frame() as turn:
        turn.waiting_since = clock.now
        clock.pass_by(8.0)
        with turns.step():
            assert turn.shares and torch.get_num_threads() == turns.half == 1
        turn.waiting_since = None


def test_beside_a_key_frame_threads_are_the_models_in_every_thread(clock: Clock) -> None:
    """What a thread begins with is what was set last, perhaps by a step of another stream that shares its threads."""
    turns = Turns(0.0, threads=2, clock=clock)
    with turns.step():
        assert torch.get_num_threads() == 1  # alone, whatever the caller has
        key = Computation(turns, clock, count=3)
    key.join()
    assert key.threads == 2
    turns.key_frame()
    with turns.step():
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


def test_the_end_of_a_cancelled_key_frame_is_not_the_next_ones(clock: Clock) -> None:
    turns = Turns(0.5, threads=1, clock=clock)
    with turns.key_frame() as cancelled:
        cancelled.cancel()
        following = turns.key_frame()
    with following:
        following.waiting_since = clock.now
        clock.pass_by(8.0)
        with turns.step():
            assert following.shares
        following.waiting_since = None


def test_a_long_operation_stops_no_stream(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.01)
    turns = Turns(0.5, threads=1, clock=clock)
    stuck, let_go = threading.Event(), threading.Event()
    turn = turns.key_frame()

    def one_long_operation() -> None:
        with turn:
            operation(lambda: stuck.set() or (let_go.wait(MINUTE) and None))

    thread = threading.Thread(target=one_long_operation, daemon=True)
    thread.start()
    assert stuck.wait(MINUTE)
    with turns.step():
        assert thread.is_alive()
    let_go.set()
    thread.join(MINUTE)
    assert not thread.is_alive()


def test_what_has_no_operations_counts_as_computing(clock: Clock) -> None:
    """As a scripted network: nothing can stop it, so a step owes it nothing."""
    turns = Turns(0.5, threads=1, clock=clock)
    with turns.key_frame() as turn:
        with turns.step():
            clock.pass_by(8.0)
        assert turn.computed == 8.0 and turn.owed == -4.0


def test_a_cancelled_key_frame_stops_before_its_next_operation(clock: Clock) -> None:
    turns = Turns(0.0, threads=1, clock=clock)
    with turns.step():
        key = Computation(turns, clock, count=5)
        key.turn.cancel()
        key.join()  # within the step: it need not wait for its turn
    assert key.done == 0 and isinstance(key.error, KeyFrameCancelledError)
    later = Computation(turns, clock, count=5)  # the next one is not the cancelled one
    later.join()
    assert later.done == 5


def test_one_that_has_not_begun_can_be_cancelled(clock: Clock) -> None:
    turn = Turns(0.0, threads=1, clock=clock).key_frame()
    turn.cancel()
    begun = False
    with pytest.raises(KeyFrameCancelledError), turn:
        begun = True
    assert not begun


def test_a_cancelled_key_frame_has_no_threads(clock: Clock) -> None:
    turns = Turns(0.5, threads=1, clock=clock)
    turn = turns.key_frame()
    with turn:
        with turns.step():
            turn.waiting_since = clock.now
            clock.pass_by(8.0)
        assert turn.owed == 4.0
        turn.cancel()
        with turns.step():
            assert not turn.shares
        turn.waiting_since = None


def test_a_step_that_is_interrupted_while_it_waits_is_over(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(0.0, threads=1, clock=clock)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(turns._changed, "wait_for", interrupted)
        patch.setattr(turns, "_operations", 1)
        with pytest.raises(KeyboardInterrupt), turns.step():
            pass
    Computation(turns, clock, count=3).join()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match=f"least share of a key frame aside should be from 0 to below 1, got {share}"):
        Turns(share, threads=1)


def test_by_a_simulated_clock_it_computes_between_steps() -> None:
    progress = KeyProgress(50.0, ordered=0.0, least_share=0.0)
    progress.step_ends(20.0)  # the step it was ordered in
    progress.step_begins(60.0)
    assert not progress.ready  # 40
    progress.step_ends(80.0)
    progress.step_begins(90.0)
    assert progress.ready  # 50


def test_by_a_simulated_clock_it_is_half_as_fast_beside_steps_without_a_pause() -> None:
    progress, now = KeyProgress(50.0, ordered=0.0, least_share=0.25), 0.0
    while not progress.ready:
        now += 30.0
        progress.step_ends(now)
        progress.step_begins(now)
    assert now == 150.0  # from 30 on, 100 at half speed are there at 130


def test_by_a_simulated_clock_a_gpu_computes_it_beside_the_steps() -> None:
    progress = KeyProgress(50.0, ordered=0.0, least_share=None)
    for now, ready in ((20.0, False), (40.0, False), (60.0, True)):
        progress.step_ends(now)
        progress.step_begins(now)
        assert progress.ready == ready


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + MINUTE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.001)
