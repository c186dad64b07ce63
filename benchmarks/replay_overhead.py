"""What ``dff_replay`` adds to the engine's own time in lock-step, and how its memory grows with the length of a bag.

    python benchmarks/replay_overhead.py [--model street] [--video FILE] [--count 150] [--lengths 300,3000]

Bags of both formats are made from the video or from a generated drive, in a temporary folder. Every row is a process of its own; what
``dff_replay`` takes for the first frame alone (loading, warm-up) is taken off. The overhead is what is left beside the engine's steps:
reading, decoding, scoring, writing. By the clock it is what a user waits for; CPU seconds, of all threads, tell more on a busy machine.
Aims: 10 % at most, and memory that does not grow with the bag.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dff_ros.engine.host import keep_freed_memory, spin_briefly

MEASURE = "--measure"
"""First argument of a child: what follows is the command line of ``dff_replay``."""
FORMATS = ("sqlite3", "mcap")
JPEG = "mcap, jpeg"
TOPIC = "/camera/image_raw"
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Spent:
    """Seconds of one replay, and how much of them within the engine's steps."""

    wall: float
    cpu: float
    step_wall: float
    step_cpu: float

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu, self.step_wall - other.step_wall, self.step_cpu - other.step_cpu)


def replay(arguments: Sequence[str]) -> Spent:
    """Run ``dff_replay`` in this process and time the steps of all its streams."""
    from dff_ros.engine.stream import FeatureFlowStream
    from dff_ros.evaluation.replay import main as run

    original, wall, cpu = FeatureFlowStream.step, 0.0, 0.0

    def step(*values: Any, **named: Any) -> Any:
        nonlocal wall, cpu
        began = time.perf_counter(), time.process_time()
        try:
            return original(*values, **named)
        finally:
            wall, cpu = wall + time.perf_counter() - began[0], cpu + time.process_time() - began[1]

    FeatureFlowStream.step = step  # type: ignore[method-assign]
    began = time.perf_counter(), time.process_time()
    try:
        code = run(list(arguments))
    finally:
        FeatureFlowStream.step = original  # type: ignore[method-assign]
    if code:
        raise SystemExit(code)
    return Spent(time.perf_counter() - began[0], time.process_time() - began[1], wall, cpu)


def measure(arguments: Sequence[str]) -> None:
    """In a child: replay the first frame, then all, and print what the others took and the peak of memory in bytes."""
    keep_freed_memory()  # as the command does
    spin_briefly()
    first = [replay([*arguments, "--range", "0:0"]) for _ in range(2)][-1]  # imports are paid for once
    spent = replay(arguments) - first
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    print(json.dumps({**vars(spent), "peak": peak}))


def child(folder: Path, arguments: Sequence[object]) -> dict[str, float]:
    """Measure ``dff_replay`` with ``arguments`` in a process of its own."""
    command = [sys.executable, __file__, MEASURE, *map(str, arguments), "--json", str(folder / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"dff_replay failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def overhead_row(name: str, figures: dict[str, float], count: int) -> str:
    """One row of the first table."""
    shares = [(figures[kind] - figures[f"step_{kind}"]) / figures[f"step_{kind}"] for kind in ("wall", "cpu")]
    engine, rest = figures["step_wall"], figures["wall"] - figures["step_wall"]
    return f"| {name} | {engine / (count - 1) * 1e3:.2f} | {rest / (count - 1) * 1e3:.2f} | {shares[0]:.1%} | {shares[1]:.1%} |"


def write_bags(folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """The recording as bags of both formats, and one of JPEGs; the labels of a generated drive are written beside them."""
    from dff_ros.recording.bags import BagWriter
    from dff_ros.recording.drive import DriveFrame
    from dff_ros.recording.opening import open_recording

    recording = open_recording(video=options.video, drive=0 if options.video else options.count)
    bags = {name: folder / name.replace(", ", "_") for name in (*FORMATS, JPEG)}
    (folder / "labels").mkdir()
    with ExitStack() as closing:
        writers = {name: closing.enter_context(BagWriter(bag, storage=storage_of(name))) for name, bag in bags.items()}
        for item in itertools.islice(recording, options.count):
            for name, writer in writers.items():
                write = writer.write_compressed if name == JPEG else writer.write_image
                write(TOPIC, item.frame, item.stamp)
            if isinstance(item, DriveFrame):
                cv2.imwrite(str(folder / "labels" / f"{item.index:06d}.png"), item.labels.astype(np.uint8))
    return bags


def storage_of(name: str) -> Any:
    """The storage of a bag of :func:`write_bags`."""
    return name.partition(",")[0]


def overheads(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """The rows of the first table: each bag, and what is done with the answers."""
    labels = [] if options.video else ["--labels", folder / "labels"]
    written = ["--trace", folder / "trace.jsonl", *labels]
    outputs = {"figures": [], "scores, trace": written, "scores, trace, per-frame beside": [*written, "--baseline"]}
    for name, bag in write_bags(folder, options).items():
        for output, more in outputs.items():
            arguments = ["--bag", bag, "--model", options.model, "--schedule", options.schedule, *more]
            yield overhead_row(f"{name} | {output}", child(folder, arguments), options.count)


def peaks(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """The rows of the second table: the peak of memory for each format and length."""
    parameters = folder / "tiny_step.yaml"
    parameters.write_text("input_pixels: 20000\nschedule: fixed:30\n", encoding="utf-8")
    for storage in FORMATS:
        for count in options.lengths:
            bag = folder / f"{storage}_{count}"
            write_long(bag, storage, count)
            size = sum(file.stat().st_size for file in bag.iterdir())
            arguments = ["--bag", bag, "--model", options.model, "--params", parameters, "--trace", folder / "trace.jsonl"]
            alone, beside = (child(folder, [*arguments, *more])["peak"] / MEBIBYTE for more in ([], ["--baseline"]))
            shutil.rmtree(bag)
            yield f"| {storage} | {count} | {size / MEBIBYTE:.0f} | {alone:.0f} | {beside:.0f} |"


def write_long(path: Path, storage: Any, count: int) -> None:
    """``count`` images of 640x480, a texture that moves: nothing about them matters but their size."""
    from dff_ros.recording.bags import BagWriter

    coarse = np.random.default_rng(0).integers(0, 256, (60, 88, 3), np.uint8)
    texture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    with BagWriter(path, storage=storage) as writer:
        for index in range(count):
            writer.write_image(TOPIC, texture[:, index % 64 : index % 64 + 640], 1_000_000_000 + index * 33_333_333)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="street")
    parser.add_argument("--schedule", default="fixed:10")
    parser.add_argument("--video", type=Path)
    parser.add_argument("--count", type=int, default=150, help="frames of the first table")
    lengths = "frames of the second table, with commas between; empty leaves it out"
    parser.add_argument("--lengths", type=lambda text: [int(part) for part in text.split(",") if part], default="300,3000", help=lengths)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("| bag | what is made of it | engine ms a frame | the rest ms a frame | overhead by the clock | in CPU time |")
        print("|---|---|---|---|---|---|")
        for row in overheads(Path(folder), options):
            print(row, flush=True)
        print("\n| bag of 640x480 raw | frames | MiB on disk | peak memory MiB | beside per-frame |\n|---|---|---|---|---|")
        for row in peaks(Path(folder), options):
            print(row, flush=True)


if __name__ == "__main__":
    measure(sys.argv[2:]) if sys.argv[1:2] == [MEASURE] else main()
