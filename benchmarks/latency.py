"""How late answers come and how good they are by then: key frames that block, key frames aside, and per-frame, in one run.

    GOMP_SPINCOUNT=1000 python benchmarks/latency.py [--model street] [--schedule fixed:10] [--count 300] [--json OUT.json]
        [--video FILE | --frames DIR --rate HZ [--labels DIR]]

Frames arrive by the clock; like the node, the engine takes the newest and what it had no time for is dropped. First each way of running
is driven at whole rates until its sustainable one is found: the highest at which ``--count`` frames cause no drop. Then all of them run
at 15 Hz, at twice per-frame's sustainable rate and at the sustainable rate of each.

Every run goes on from frames that came before the clock started, so that it begins with a key frame and warm. Latency counts from a
frame's arrival to its result. Streaming accuracy: at each frame's arrival the newest finished result is scored
against that frame, by mIoU where ``--labels`` are given, else by its share of pixels in agreement with per-frame's answer to that frame.
Without a recording a generated drive is used. A recording shorter than ``--count`` is played back and forth, so that nothing jumps.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from throughput import arrivals

from dff_ros.engine.host import keep_freed_memory
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream
from dff_ros.evaluation.ground_truth.image_truth import LabelImages
from dff_ros.evaluation.measures.metrics import Agreement, SegmentationScore, mean_or_none
from dff_ros.recording.frames import StampedFrame
from dff_ros.recording.opening import open_recording

Labels = NDArray[np.uint8]
NAMES = ("blocking", "aside", "per-frame")
WARM_UP = 14
FASTEST = 500
FREE_RATE = 30
"""Hz by the stamps of frames that come without a clock."""


@dataclass(frozen=True)
class Result:
    """One answered frame: which, when its image came and when its result was there (seconds), and what it says."""

    index: int
    arrived: float
    finished: float
    made_key: bool
    labels: Labels | None

    @property
    def latency_ms(self) -> float:
        """Arrival to result."""
        return (self.finished - self.arrived) * 1e3


@dataclass(frozen=True)
class Row:
    """One way of running at one rate; times in milliseconds, shares as fractions."""

    name: str
    rate: float
    answered_hz: float
    dropped: int
    key_rate: float
    p50: float
    p95: float
    p99: float
    max: float
    accuracy: float | None

    def line(self, count: int) -> str:
        """As a row of the table."""
        accuracy = "-" if self.accuracy is None else f"{self.accuracy:.3f}"
        return (
            f"| {self.name} | {self.rate:g} | {self.answered_hz:.1f} | {self.dropped} of {count} | {self.key_rate:.2f} "
            f"| {self.p50:.1f} | {self.p95:.1f} | {self.p99:.1f} | {self.max:.1f} | {self.p99 / self.p50:.2f} | {accuracy} |"
        )


HEADER = """| key frames | arriving Hz | answered Hz | dropped | key rate | p50 ms | p95 | p99 | max | p99 / p50 | streaming accuracy |
|---|---|---|---|---|---|---|---|---|---|---|"""


class Bench:
    """A recording played by the clock to one model, whichever way it runs."""

    def __init__(self, model: LoadedModel, ways: dict[str, EngineSettings], items: Sequence[StampedFrame], count: int) -> None:
        self.model, self.ways, self.count = model, ways, count
        self._items = items

    def item(self, index: int) -> StampedFrame:
        """The ``index``-th frame by the clock (those before it are negative): the recording forwards, then backwards, and so on."""
        turn = max(1, 2 * (len(self._items) - 1))
        place = (index + WARM_UP) % turn
        return self._items[min(place, turn - place)]

    def play(self, name: str, rate: float | None, count: int) -> list[Result]:
        """The answers to ``count`` frames arriving at ``rate``, by an engine that is warm."""
        stream = FeatureFlowStream(self.model, self.ways[name])
        interval_ns = 1e9 / (rate or FREE_RATE)
        for index in range(-WARM_UP, 0):
            stream.step(self.item(index).frame, round((WARM_UP + index + 1) * interval_ns))
        results = []
        for index, _, arrived in arrivals(rate, count):
            answer = stream.step(self.item(index).frame, round((WARM_UP + index + 1) * interval_ns))
            labels = None if answer.label_map is None else answer.label_map.labels
            results.append(Result(index, arrived, perf_counter(), answer.made_key, labels))
        stream.close()
        return results

    def sustainable(self, name: str) -> int:
        """The highest whole rate in Hz at which no frame is dropped: a guess from the mean, a bracket around it, then bisection."""
        free = self.play(name, None, max(30, self.count // 5))
        guess = len(free) / (free[-1].finished - free[0].arrived)
        low, high = 0, max(1, round(guess))
        while high <= FASTEST and self._keeps_up(name, high):
            low, high = high, high + max(1, high // 4)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._keeps_up(name, middle) else (low, middle)
        return low

    def _keeps_up(self, name: str, rate: int) -> bool:
        return len(self.play(name, rate, self.count)) == self.count

    def row(self, name: str, rate: float, accuracy: Callable[[list[Result], float], float | None]) -> Row:
        """One row of the table."""
        results = self.play(name, rate, self.count)
        latency = [result.latency_ms for result in results]
        p50, p95, p99 = np.percentile(latency, [50, 95, 99]).tolist()
        return Row(
            name=name,
            rate=rate,
            answered_hz=len(results) / (results[-1].finished - results[0].arrived),
            dropped=self.count - len(results),
            key_rate=sum(result.made_key for result in results) / len(results),
            p50=p50,
            p95=p95,
            p99=p99,
            max=max(latency),
            accuracy=accuracy(results, rate),
        )


def newest_finished(results: list[Result], rate: float, count: int) -> list[tuple[int, Result]]:
    """(index, newest result that was finished when that frame arrived), for the frames that find one."""
    start = results[0].arrived - results[0].index / rate
    pairs, newest = [], -1
    for index in range(count):
        while newest + 1 < len(results) and results[newest + 1].finished <= start + index / rate:
            newest += 1
        if newest >= 0:
            pairs.append((index, results[newest]))
    return pairs


class StreamingAccuracy:
    """Scores what is known at each frame's arrival: mIoU against label images, else agreement with per-frame's own answers."""

    def __init__(self, bench: Bench, labels: LabelImages | None, classes: tuple[str, ...]) -> None:
        self._bench, self._labels, self._classes = bench, labels, classes
        self._per_frame: dict[int, Labels] = {}

    def __call__(self, results: list[Result], rate: float) -> float | None:
        """One run's score; None where no frame has a truth or an answer."""
        pairs = [(index, each.labels) for index, each in newest_finished(results, rate, self._bench.count) if each.labels is not None]
        if self._labels is None:
            agreement = Agreement()
            for index, answered in pairs:
                agreement.add(answered, self._own_answer(index))
            return agreement.share
        score = SegmentationScore(self._classes)
        for index, answered in pairs:
            truth = self._labels.labels_of(self._bench.item(index))
            if truth is not None:
                score.add(0, truth, answered)
        return mean_or_none(score.iou(average_ages=False).values()) if score else None

    def _own_answer(self, index: int) -> Labels:
        item = self._bench.item(index)
        if item.index not in self._per_frame:
            stream = FeatureFlowStream(self._bench.model, self._bench.ways["per-frame"])
            answer = stream.step(item.frame, 0)
            assert answer.label_map is not None
            self._per_frame[item.index] = answer.label_map.labels
        return self._per_frame[item.index]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="street")
    parser.add_argument("--schedule", default="fixed:10", help="of blocking and aside alike")
    parser.add_argument("--key-share", type=float, default=EngineSettings.key_share, help="as the parameter key_share")
    parser.add_argument("--count", type=int, default=300, help="frames of each run")
    parser.add_argument("--rates", default="15", help="further arrival rates in Hz, with commas between")
    parser.add_argument("--video", type=Path)
    parser.add_argument("--frames", type=Path)
    parser.add_argument("--rate", type=float, help="frames per second of --frames")
    parser.add_argument("--labels", type=Path, help="images of class ids, as dff_replay reads them")
    parser.add_argument("--json", type=Path, help="the figures")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    options = parse_arguments()
    keep_freed_memory()  # as the node does
    common = EngineSettings(model=options.model, max_key_age=0.0, max_gap=0.0, schedule=options.schedule, key_share=options.key_share)
    ways = {
        "blocking": common.with_values({"key_frames": "blocking"}),
        "aside": common.with_values({"key_frames": "aside"}),
        "per-frame": common.with_values({"schedule": "per-frame", "key_frames": "blocking"}),
    }
    model = load_model(common)
    drive = 0 if options.video or options.frames else options.count
    recording = open_recording(video=options.video, frames=options.frames, drive=drive, rate=options.rate)
    items = list(itertools.islice(recording, options.count))
    card = model.card
    labels = None if options.labels is None else LabelImages(options.labels, card.segmentation_classes, card.ignored_labels)
    bench = Bench(model, ways, items, options.count)
    accuracy = StreamingAccuracy(bench, labels, card.segmentation_classes)
    height, width = items[0].frame.shape[:2]
    precision = str(model.precision).removeprefix("torch.")
    print(f"{recording.description}: {width}x{height}, bundle {card.name}, {options.schedule}, {model.device} {precision}\n")
    sustainable = {name: bench.sustainable(name) for name in NAMES}
    print("| key frames | sustainable Hz |\n|---|---|")
    print("\n".join(f"| {name} | {rate} |" for name, rate in sustainable.items()), flush=True)
    wanted = {float(text) for text in options.rates.split(",") if text}
    wanted |= {2.0 * sustainable["per-frame"], *map(float, sustainable.values())}
    scored_by = "agreement with per-frame" if labels is None else "mIoU"
    print(f"\nStreaming accuracy is {scored_by}.\n\n{HEADER}")
    rows = []
    for rate in sorted(wanted - {0.0}):
        for name in NAMES:
            rows.append(bench.row(name, rate, accuracy))
            print(rows[-1].line(options.count), flush=True)
    if options.json is not None:
        figures = {"count": options.count, "scored_by": scored_by, "sustainable_hz": sustainable, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
