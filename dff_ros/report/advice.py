"""What to try or look at next, told from the figures of a replay."""

from __future__ import annotations

from dff_ros.report.measures import Report, at, has_baseline, scores
from dff_ros.report.phrases import frames, points

FEW_FRAMES = 150
"""Below this a score moves by points when another minute is replayed."""

COSTLY = 0.6
"""A propagated frame at more than this share of a key frame's time saves little."""

NOTABLE = 0.01
"""A loss of one point."""


def suggestions(report: Report, period_ms: float | None) -> list[str]:
    """The most useful first; ``period_ms`` is the time from frame to frame in the recording, None where nobody knows."""
    said = [*_about_time(report, period_ms), *_about_loss(report)]
    if not has_baseline(report):
        said.insert(0, "Run again with --baseline: it shows what per-frame reaches and takes on the same frames.")
    if not any(score.against_truth for score in scores(report)):
        said.append("Labels for a few dozen frames (--labels, --boxes) tell how right the answers are, not only how much they differ.")
    if report["frames"] < FEW_FRAMES:
        said.append(f"{frames(report['frames'])} are few: differences of a point or so may vanish on a longer recording.")
    said.append("dff_tune compares schedules and settings over this recording and writes parameters for the node.")
    return said


def _about_time(report: Report, period_ms: float | None) -> list[str]:
    said = []
    mean, key, ratio = at(report, "step_ms", "all", "mean"), at(report, "step_ms", "key", "mean"), at(report, "cost_ratio")
    some_propagated = (at(report, "key_rate") or 0) < 1
    if period_ms and mean is not None and mean > period_ms:
        said.append("Fewer key frames, a smaller input (input_pixels) or a lighter bundle bring the mean below the time between frames.")
    elif period_ms and key is not None and key > period_ms and some_propagated and not at(report, "key_delay"):
        said.append("key_frames: aside computes key frames beside the stream, so that no frame waits for one: try it with --key-delay.")
    if ratio is not None and ratio > COSTLY:
        better = "a heavier feature network, or per-frame, suits this machine better"
        said.append(f"A propagated frame costs {ratio:.0%} of a key frame, so little is saved: {better}.")
    return said


def _about_loss(report: Report) -> list[str]:
    lossy = [score for score in scores(report) if score.loss is not None and score.loss > NOTABLE]
    rate = at(report, "key_rate")
    if not lossy or report["every_offset"] or not rate or rate == 1:
        return []
    losses = " and ".join(f"{score.name} ({points(score.loss or 0)})" for score in lossy)
    said = f"To lose less of {losses}, compare a shorter interval"
    if "adaptive" not in report["schedule"]:
        said += f", and adaptive:rate={rate:.2g}, which spends as many key frames where they help most"
    return [f"{said}."]
