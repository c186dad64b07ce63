"""How many frames a second the engine answers, and how many it drops, beside per-frame in the same run.

    GOMP_SPINCOUNT=1000 python benchmarks/throughput.py [--model street] [--video FILE | --frames DIR] [--rates 15,30]

Frames arrive by the clock at each rate; like the node, the engine takes the newest and what it had no time for is dropped.
The last row of each schedule has no clock: frames as fast as they are answered. Threads wait as the node's do (GOMP_SPINCOUNT).
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dff_ros.engine.host import keep_freed_memory
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream
from dff_ros.recording.opening import open_recording

Frames = Sequence[NDArray[np.uint8]]


def arrivals(rate: float | None, count: int) -> Iterator[tuple[int, int, float]]:
    """(index of the newest frame, frames dropped before it, ``time.perf_counter`` of its arrival); waits for the clock.

    Without a rate every frame, at once.
    """
    if rate is None:
        yield from ((index, 0, time.perf_counter()) for index in range(count))
        return
    start, last = time.perf_counter(), -1
    while last < count - 1:
        newest = min(int((time.perf_counter() - start) * rate), count - 1)
        if newest == last:
            time.sleep(max(0.0, start + (last + 1) / rate - time.perf_counter()))
            continue
        yield newest, newest - last - 1, start + newest / rate
        last = newest


def run(model: LoadedModel, settings: EngineSettings, frames: Frames, rate: float | None, count: int) -> str:
    """One row of the table."""
    stream = FeatureFlowStream(model, settings)
    for frame in frames[:12]:  # warm-up
        stream.step(frame, 0)
    stream.reset()
    dropped, steps, keys = 0, [], 0
    begun = time.perf_counter()
    for index, missed, _ in arrivals(rate, count):
        result = stream.step(frames[index % len(frames)], 0)
        dropped += missed
        steps.append(result.step_ms)
        keys += result.made_key
    seconds = time.perf_counter() - begun
    p50, p95, p99 = np.percentile(steps, [50, 95, 99])
    return (
        f"| {settings.schedule} | {'-' if rate is None else f'{rate:g}'} | {len(steps) / seconds:.1f} | {dropped} of {count} "
        f"| {keys / len(steps):.2f} | {np.mean(steps):.1f} | {p50:.1f} | {p95:.1f} | {p99:.1f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="street")
    parser.add_argument("--video", type=Path)
    parser.add_argument("--frames", type=Path)
    parser.add_argument("--rates", default="15,30", help="arrival rates in Hz, with commas between")
    parser.add_argument("--count", type=int, default=300, help="frames of each row")
    parser.add_argument("--schedules", default="fixed:10,per-frame", help="with commas between")
    options = parser.parse_args()
    drive = 0 if options.video or options.frames else options.count
    recording = open_recording(video=options.video, frames=options.frames, drive=drive)
    frames = [np.ascontiguousarray(item.frame) for item in itertools.islice(recording, options.count)]
    keep_freed_memory()  # as the node does
    settings = EngineSettings(model=options.model, max_key_age=0.0, key_frames="blocking")
    model = load_model(settings)
    height, width = frames[0].shape[:2]
    print(f"{recording.description}: {width}x{height}, both heads, {model.device} {str(model.precision).removeprefix('torch.')}\n")
    print("| schedule | arriving Hz | answered Hz | dropped | key rate | step mean ms | p50 | p95 | p99 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for rate in [*(float(text) for text in options.rates.split(",") if text), None]:
        for schedule in options.schedules.split(","):
            print(run(model, settings.with_values({"schedule": schedule}), frames, rate, options.count), flush=True)


if __name__ == "__main__":
    main()
