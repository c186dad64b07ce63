"""What a replay was made of, so that a figure can be told from another: hashes of its input, bundle and settings, versions, the machine.

A hash is the same wherever the files lie. Two replays in lock-step, or in real time with ``--latencies``, with the same hash on the same
machine and versions give the same report but for its timings; what answers are scored by, the truth, is not in it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from dff_ros import __version__
from dff_ros.core.bundle import find_bundle
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.latencies import Latencies
from dff_ros.recording.frames import Frame, StampedFrame

TIMINGS = frozenset({"step_ms", "latency_ms", "lateness_ms", "cost_ratio", "speedup"})
"""Keys of a report under which stands what the clock measured; everything else is the same in each run."""

COLUMNS = 1024
"""Words of 8 bytes that a picture is folded to before it is hashed."""

DIGEST_BYTES = 16


def without_timings(report: Any) -> Any:
    """A report, or a part of it, without what depends on how fast the machine was."""
    if isinstance(report, Mapping):
        return {key: without_timings(value) for key, value in report.items() if key not in TIMINGS}
    return [without_timings(value) for value in report] if isinstance(report, list) else report


class InputHash:
    """Hash of the frames of a recording, as decoded, and of their stamps, taken as they are read.

    A cryptographic hash of every byte takes as long as a twentieth of a light bundle's step. So each picture is first folded to 8 KiB, by a
    sum of its rows of words times fixed odd weights modulo 2^64: any change in one place changes the sum. That tells recordings apart, not
    forgeries.
    """

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=DIGEST_BYTES)
        self._weights = np.zeros(0, np.uint64)

    def over(self, frames: Iterable[StampedFrame]) -> Iterator[StampedFrame]:
        """The same frames, each hashed before it is handed on."""
        for item in frames:
            self.add(item)
            yield item

    def add(self, item: StampedFrame) -> None:
        """Hash one frame."""
        pixels = _in_order(item.frame).reshape(-1)
        rows = pixels.size // (8 * COLUMNS)
        folded, rest = pixels[: rows * 8 * COLUMNS].view(np.uint64).reshape(rows, COLUMNS), pixels[rows * 8 * COLUMNS :]
        if len(self._weights) < rows:
            self._weights = np.random.PCG64(0).random_raw(rows) | np.uint64(1)  # of one seed a longer row begins with the shorter
        self._hash.update(repr((item.frame.shape, item.stamp)).encode())
        self._hash.update(np.einsum("r,rc->c", self._weights[:rows], folded).tobytes())
        self._hash.update(rest.tobytes())

    def hexdigest(self) -> str:
        """Of all frames so far."""
        return self._hash.hexdigest()


def _in_order(frame: Frame) -> Frame:
    """The same picture, contiguous. Decoders give views of BGR pictures, which numpy would copy ten times slower."""
    if frame.strides[-1] < 0 and frame[..., ::-1].flags.c_contiguous:
        turned: Frame = cv2.cvtColor(frame[..., ::-1], cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
        return turned
    return np.ascontiguousarray(frame)


def digest(value: object) -> str:
    """Hash of anything that JSON can say."""
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=DIGEST_BYTES).hexdigest()


def bundle_hash(folder: Path) -> str:
    """Hash of a bundle's files and of their names in the folder."""
    files = {file.name: blake2b(file.read_bytes(), digest_size=DIGEST_BYTES).hexdigest() for file in folder.iterdir() if file.is_file()}
    return digest(files)


def provenance(
    frames: InputHash,
    model: LoadedModel,
    settings: EngineSettings,
    evaluation: Mapping[str, object],
    *,
    latencies: Latencies | None,
    repeatable: bool,
) -> dict[str, Any]:
    """The section of the report; ``evaluation`` is what was asked of the replay besides the engine's ``settings``."""
    used = {**asdict(settings), "model": model.card.name, **evaluation}
    hashes = {
        "input": frames.hexdigest(),
        "bundle": bundle_hash(find_bundle(settings.model)),
        "settings": digest(used),
        "latencies": None if latencies is None else digest(asdict(latencies)),
    }
    return {
        "hash": digest(hashes),
        **hashes,
        "repeatable": repeatable,
        "used": used,
        "versions": versions(),
        "machine": {
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "device": model.device.type,
            "precision": str(model.precision).removeprefix("torch."),
        },
    }


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {
        "dff_ros": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """As the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
