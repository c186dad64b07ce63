"""What /diagnostics says once a second: is there input, is it answered, how fast, and what to do where not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus

from dff_ros.engine.memory import gpu_memory_mib
from dff_ros.node.counters import Counters, Statistics, percentiles
from dff_ros.node.messages import key_values

SILENT_AFTER = 5.0
"""Seconds without an image after which the input is said to be silent."""

USE_SIM_TIME = "every image is dropped as too old (max_image_age): does use_sim_time match the images' clock?"


@dataclass(frozen=True)
class Verdict:
    """A level of diagnostic_msgs and one line."""

    level: bytes
    message: str


OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def judge_input(statistics: Statistics, since: Counters, *, why_silent: Callable[[], str], mismatch: str, enabled: bool) -> Verdict:
    """How the input fares; ``since`` holds what was counted since the last verdict."""
    if not enabled:
        return Verdict(OK, "disabled by ~/enable")
    if mismatch:
        return Verdict(ERROR, mismatch)
    if statistics.silence > SILENT_AFTER:
        return Verdict(WARN, f"no image for {statistics.silence:.0f} s: {why_silent()}")
    if since.stale and not since.processed:
        return Verdict(WARN, USE_SIM_TIME)
    if since.bad:
        return Verdict(WARN, f"{since.bad} unreadable images in the last second")
    return Verdict(OK, f"{statistics.input_rate:.1f} Hz")


def input_values(statistics: Statistics, topic: str) -> dict[str, str]:
    """Rate and counts of the input."""
    counters = statistics.counters
    return {
        "topic": topic,
        "input_rate_hz": f"{statistics.input_rate:.2f}",
        "seconds_since_last_image": f"{statistics.silence:.1f}",
        "received": str(counters.received),
        "dropped": str(counters.dropped),
        "processed": str(counters.processed),
        "duplicate": str(counters.duplicate),
        "stale": str(counters.stale),
        "bad": str(counters.bad),
        "failed": str(counters.failed),
    }


def judge_engine(since: Counters) -> Verdict:
    """Whether frames get answered."""
    if since.failed:
        return Verdict(ERROR, f"{since.failed} frames failed in the last second: see the log")
    if since.dropped and not since.processed:
        return Verdict(WARN, f"no frame answered in the last second, {since.dropped} images dropped: one takes longer than that")
    return Verdict(OK, f"{since.processed} frames in the last second")


def engine_values(statistics: Statistics, facts: Mapping[str, str]) -> dict[str, str]:
    """Key rate, percentiles and memory over the window; empty where there was no frame."""
    frames = statistics.recent_frames
    values = {
        **facts,
        "key_rate": f"{sum(frame.made_key for frame in frames) / len(frames):.4f}" if frames else "",
        "output_rate_hz": f"{statistics.output_rate:.2f}",
    }
    for name in ("latency_ms", "step_ms", "overhead_ms"):
        shares = percentiles([getattr(frame, name) for frame in frames])
        values.update({f"{name}_{share}": f"{shares[share]:.2f}" if shares else "" for share in ("p50", "p95", "p99")})
    values["memory_mib"] = _number(resident_mib())
    values["gpu_memory_mib"] = _number(gpu_memory_mib())
    return values


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def resident_mib() -> float | None:
    """MiB of main memory this process holds; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), None)


def status(name: str, verdict: Verdict, values: Mapping[str, str]) -> DiagnosticStatus:
    """One status message."""
    return DiagnosticStatus(level=verdict.level, name=name, message=verdict.message, hardware_id="", values=key_values(values))
