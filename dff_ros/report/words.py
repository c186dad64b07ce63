"""The summary in words: what was replayed, lost, gained, whether it keeps up, and what to look at next. Built from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dff_ros.report.advice import suggestions
from dff_ros.report.measures import Report, Score, at, class_tables, has_baseline, pace, scores, streaming_scores
from dff_ros.report.phrases import frames, ms, points, sentence

SLIGHT = 0.002
"""Losses below this are called none: they are within what one frame more or less changes."""


@dataclass(frozen=True)
class Tile:
    """One large figure at the top of the page."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """The first screen of the page: paragraphs under headings, and suggestions."""

    tiles: Sequence[Tile]
    paragraphs: Mapping[str, str]
    suggestions: Sequence[str]


def summarise(report: Report, *, description: str, model: str, period_ms: float | None, notes: Sequence[str] = ()) -> Summary:
    """``period_ms`` is the time from frame to frame in the recording, None where nobody knows; ``notes`` say what could not be read."""
    paragraphs = {
        "What was replayed": " ".join([replayed(report, description, model, period_ms), *map(sentence, notes)]),
        "What is lost": lost(report),
        "What is gained": gained(report),
        "Does it keep up?": keeps_up(report, period_ms),
    }
    return Summary(tiles(report, period_ms), paragraphs, suggestions(report, period_ms))


def replayed(report: Report, description: str, model: str, period_ms: float | None) -> str:
    """Recording, settings and key frames."""
    count = report["frames"]
    length = f", {count * period_ms / 1e3:.1f} s at {1e3 / period_ms:.3g} Hz" if period_ms else ""
    said = f"{frames(count)}{length}, from {description}. The bundle {model} ran on {report['device']}"
    if report["every_offset"]:
        return f"{said}; every frame was scored with its key frame at each age that {report['schedule']} has."
    said += f" with the schedule {report['schedule']}"
    if at(report, "key_delay"):
        said += f", key frames made aside and ready {frames(report['key_delay'])} after their own"
    return f"{said}. {sentence_of_keys(report)}"


def sentence_of_keys(report: Report) -> str:
    """How many frames were made key frames."""
    rate = at(report, "key_rate")
    if rate is None:
        return ""
    every = f", one in {1 / rate:.3g}" if 0 < rate < 1 else ""
    return f"{rate:.1%} of the frames were key frames{every}."


def lost(report: Report) -> str:
    """Scores beside per-frame's, and where the loss is."""
    measured = scores(report)
    if not measured:
        return "Not measured: neither ground truth was given nor per-frame run on the same frames (--baseline)."
    said = [score_sentence(score) for score in measured]
    if measured[0].against_truth and at(report, "agreement") is not None:
        said.append(f"{report['agreement']:.1%} of the pixels get the class that per-frame gives them.")
    if not measured[0].against_truth:
        said.append("No ground truth was given: this tells how far the answers are per-frame's, not how right they are.")
    elif not has_baseline(report):
        said.append("What per-frame reaches on these frames was not measured (--baseline), so the loss is not known.")
    said += [age_sentence(score) for score in measured]
    said += [class_sentence(report), flicker_sentence(report)]
    return " ".join(filter(None, said))


def score_sentence(score: Score) -> str:
    """One score in words."""
    if not score.against_truth:
        return f"{score.run:.1%} of the pixels get the class that per-frame gives them."
    if score.loss is None or score.per_frame is None:
        return f"{score.name} is {score.run:.3f}."
    beside = f"{score.name} is {score.run:.3f}, per-frame's {score.per_frame:.3f} on the same frames"
    if abs(score.loss) < SLIGHT:
        return f"{beside}: no loss to speak of."
    return f"{beside}: {points(abs(score.loss))} {'lost' if score.loss > 0 else 'gained'}."


def age_sentence(score: Score) -> str:
    """What is lost soon after a key frame, and what later."""
    pairs = list(zip(score.by_age, score.per_frame_by_age, strict=False))
    losses = {age: own - run for age, (run, own) in enumerate(pairs) if age and run is not None and own is not None}
    if len(losses) < 3 or max(map(abs, losses.values())) < SLIGHT:
        return ""
    ages = sorted(losses)
    young, old = ages[: len(ages) // 2], ages[len(ages) // 2 :]
    means = [f"{100 * sum(losses[age] for age in part) / len(part):+.1f} points at {age_range(part)}" for part in (young, old)]
    return f"By age of the key frame, the loss of {score.name} is {means[0]} and {means[1]}."


def age_range(ages: Sequence[int]) -> str:
    """``age 1``, ``ages 2 to 5``."""
    return f"age {ages[0]}" if len(ages) == 1 else f"ages {ages[0]} to {ages[-1]}"


def class_sentence(report: Report) -> str:
    """The classes that lose most."""
    tables = [table for table in class_tables(report) if len(table.rows) > 1]
    losses = [(row.loss, f"{table.score} of {row.name}") for table in tables for row in table.rows if row.loss is not None]
    worst = sorted((item for item in losses if item[0] > 0.01), reverse=True)[:3]
    return f"Most is lost on {', '.join(f'{name} ({points(loss)})' for loss, name in worst)}." if worst else ""


def delay_sentences(report: Report) -> list[str]:
    """How much later than per-frame new objects are found: those of the truth, and those that per-frame tracks."""
    said = []
    sources = {"New objects": report, "Objects that per-frame begins to track": at(report, "against_per_frame")}
    for what, source in sources.items():
        delay = at(source, "detection_delay")
        if at(delay, "mean") is None:
            continue
        found = f"{what} are found {delay['mean']:.1f} frames after per-frame finds them, nine of ten within {delay['p90']:.1f}"
        said.append(f"{found}; of {delay['appearances']} appearances {delay['missed']:.1%} are missed.")
    return said


def flicker_sentence(report: Report) -> str:
    """How steady class maps are."""
    run, own = at(report, "temporal_consistency", "flicker"), at(report, "temporal_consistency", "per_frame", "flicker")
    if run is None:
        return ""
    beside = "" if own is None else f", with per-frame {own:.1%}"
    return f"From one frame to the next {run:.1%} of the pixels change their class though motion does not explain it{beside}."


def gained(report: Report) -> str:
    """Time, beside per-frame's."""
    steps = at(report, "step_ms") or {}
    mean, per_frame, speedup = at(steps, "all", "mean"), at(report, "baseline", "step_ms", "all", "mean"), at(report, "speedup")
    if mean is None:
        return "Not measured: there are no step times."
    key, propagated = at(steps, "key", "mean"), at(steps, "propagated", "mean")
    given = " These times were given (--latencies), not measured in this run." if at(report, "provenance", "latencies") else ""
    split = f" ({ms(key)} for a key frame, {ms(propagated)} for a propagated one)" if key is not None and propagated is not None else ""
    said = f"A frame takes {ms(mean)} on average{split}.{given}"
    if speedup is None or per_frame is None:
        return f"{said} What per-frame takes was not measured in this run."
    if speedup < 1.05:
        return f"{said} Per-frame takes {ms(per_frame)}: propagation does not pay here (speed-up {speedup:.2f})."
    return f"{said} Per-frame takes {ms(per_frame)} on the same frames: {speedup:.1f} times as long."


def keeps_up(report: Report, period_ms: float | None) -> str:
    """Step times against the recording's rate, or what really-timed arrival showed."""
    if sentence := drops_sentence(report):
        return sentence
    times = pace(report)[1]
    mean, p95, key = at(times, "all", "mean"), at(times, "all", "p95"), at(times, "key", "mean")
    if mean is None or p95 is None:
        return "Not measured: there are no step times."
    if period_ms is None:
        return f"The recording's stamps give no rate to compare with. This machine answers {1e3 / mean:.3g} frames a second on average."
    said = f"A frame comes every {ms(period_ms)} ({1e3 / period_ms:.3g} Hz)"
    if mean > period_ms:
        return f"{said} and takes {ms(mean)} on average: no, on this machine frames would be dropped all the time."
    if at(times, "all", "max") <= period_ms:
        return f"{said}, and the slowest took {ms(times['all']['max'])}: yes, every frame is answered before the next one comes."
    if key is not None and key > period_ms:
        late = f"a key frame takes {ms(key)}, and {frames(round(key / period_ms))} come meanwhile"
        return f"{said} and takes {ms(mean)} on average, so it keeps up on the whole; but {late}: they wait or are dropped."
    return f"{said} and takes {ms(mean)} on average, {ms(p95)} at the 95th percentile: yes, but for single slow frames."


def drops_sentence(report: Report) -> str:
    """What a replay by the clock dropped."""
    dropped, rate = at(report, "drops", "count"), at(report, "drops", "rate")
    name, times = pace(report)
    if dropped is None or rate is None or name != "latency":
        return ""
    mean, p95 = ms(at(times, "all", "mean")), ms(at(times, "all", "p95"))
    late = f"Latency, from arrival to answer, is {mean} on average and {p95} at the 95th percentile."
    own = at(report, "baseline", "drops", "rate")
    beside = "" if own is None else f"; per-frame would drop {own:.1%}"
    said = f"Not quite: with frames arriving by their stamps {frames(dropped)} ({rate:.1%}) were dropped" if dropped else ""
    said = said or "Yes: with frames arriving by their stamps none was dropped"
    return " ".join([f"{said}{beside}.", late, *map(known_sentence, streaming_scores(report))])


def known_sentence(score: Score) -> str:
    """A score of what is known when a frame comes."""
    beside = "" if score.per_frame is None else f", with per-frame by the clock {score.per_frame:.3f}"
    return f"What is known when a frame comes has {'an' if score.name[0] in 'Aa' else 'a'} {score.name} of {score.run:.3f}{beside}."


def tiles(report: Report, period_ms: float | None) -> list[Tile]:
    """The figures worth seeing first."""
    shown = []
    for score in scores(report):
        note = ""
        if score.against_truth:
            note = "per-frame was not run" if score.per_frame is None else f"per-frame {score.per_frame:.3f}"
        shown.append(Tile(f"{score.run:.3f}" if score.against_truth else f"{score.run:.1%}", score.name, note))
    if scores(report) and scores(report)[0].against_truth and at(report, "agreement") is not None:
        shown.append(Tile(f"{report['agreement']:.1%}", "agreement", "pixels with per-frame's class"))
    if at(report, "speedup") is not None:
        shown.append(Tile(f"{report['speedup']:.2f}×", "speed-up", "over per-frame, same frames"))
    name, times = pace(report)
    if at(times, "all", "mean") is not None:
        note = f"p95 {ms(times['all']['p95'])}" + (f", a frame comes every {ms(period_ms)}" if period_ms else "")
        shown.append(Tile(ms(times["all"]["mean"]), f"mean {name}", note))
    if at(report, "key_rate") is not None:
        shown.append(Tile(f"{report['key_rate']:.1%}", "key frames", str(report["schedule"])))
    return shown
