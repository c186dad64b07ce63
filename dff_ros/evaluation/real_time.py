"""Replay in real time, on a simulated clock: frames arrive by their stamps, steps take what they take, and late frames are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.evaluation.arrivals import FOREVER, Arrival, Mailbox, SimulatedClock, SimulatedKeyWorker, arrival_times, busy_ns
from dff_ros.evaluation.ground_truth.truth import Truth
from dff_ros.evaluation.latencies import Latencies, timing_of
from dff_ros.evaluation.measures.streaming import Live, Streaming
from dff_ros.evaluation.observer import AnsweredFrame, Observer
from dff_ros.evaluation.run import Replay, new_replay, warmed_up
from dff_ros.recording.frames import StampedFrame


def real_time(
    frames: Iterable[StampedFrame],
    model: LoadedModel,
    settings: EngineSettings,
    truth: Truth,
    *,
    baseline: bool,
    latencies: Latencies | None = None,
    observers: Sequence[Observer] = (),
) -> Replay:
    """Let the frames arrive by their stamps; ``observers`` are told of each that is answered or dropped, in order.

    Steps are computed when their time comes and take as long as they take here or, with ``latencies``, as those say; then two runs are the
    same run. A key aside is ready when it has had its time (:class:`dff_ros.engine.turns.KeyProgress`). With ``baseline`` per-frame answers
    every frame, and those it would have time for are a run of its own.
    """
    clock, timing = SimulatedClock(), timing_of(latencies)
    worker = SimulatedKeyWorker(model, clock, settings.key_share, timing)
    stream = FeatureFlowStream(model, settings, key_worker=worker, timing=timing)
    every = FeatureFlowStream(model, settings.with_values({"schedule": "per-frame"}), timing=timing_of(latencies))
    replay = new_replay(model.card, settings, truth, baseline=baseline)
    dropped_stamps: list[int] = []

    def step(arrival: Arrival, begins_ns: int) -> FrameResult:
        clock.now_ns = begins_ns
        result = stream.step(arrival.item.frame, arrival.item.stamp, dropped=dropped_stamps)
        dropped_stamps.clear()
        clock.free_ns = begins_ns + busy_ns(result)
        return result

    def step_per_frame(arrival: Arrival, begins_ns: int) -> FrameResult:
        assert arrival.per_frame is not None, "it answers every frame"
        return arrival.per_frame

    replay.live = live = Live(Mailbox(step), Streaming(model.card, settings))
    replay.per_frame_live = Live(Mailbox(step_per_frame), Streaming(model.card, settings)) if baseline else None

    def go_on(now_ns: int) -> None:
        if replay.per_frame_live is not None:
            replay.per_frame_live.until(now_ns)
        answer = live.until(now_ns)
        if answer is not None:
            arrival = answer.arrival
            answered = AnsweredFrame(arrival.item, answer.result, arrival.per_frame, arrival.truth, answer.latency_ms)
            replay.frames += 1
            for observer in (replay, *observers):
                observer.add(answered)

    for item, at_ns in arrival_times(warmed_up(frames, model, settings)):
        go_on(at_ns)
        arrival = Arrival(item, at_ns, truth.of(item), every.step(item.frame, item.stamp) if baseline else None)
        if replay.per_frame_live is not None:
            replay.per_frame_live.arrives(arrival)
        dropped = live.arrives(arrival)
        if dropped is not None:
            dropped_stamps.append(dropped.item.stamp)
            for observer in (replay, *observers):
                observer.dropped(dropped.item)
    go_on(FOREVER)
    return replay
