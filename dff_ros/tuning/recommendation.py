"""Which candidate to run: the Pareto front, the rule that chooses from all, and the reason in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dff_ros.tuning.candidates import Candidate
from dff_ros.tuning.figures import Figures

TIE = 0.001
"""Losses this near to each other (a tenth of a point) are the same: noise decides between them."""

HEADROOM = 0.9
"""Who keeps up drops no frame, and has p95 latency below this share of the frame interval: other programs want some time too."""

TARGETS = {"latency_ms": "p95 latency in ms", "loss": "loss as a fraction (0.01 is one point)", "key_rate": "key frames a processed frame"}


@dataclass(frozen=True)
class Tried:
    """A candidate and its figures: those of a real run where it has been verified, else the simulated ones."""

    candidate: Candidate
    simulated: Figures
    verified: Figures | None = None

    @property
    def figures(self) -> Figures:
        """The best known."""
        return self.verified or self.simulated


@dataclass(frozen=True)
class Goal:
    """What the recommendation has to reach."""

    interval_ms: float
    """Between frames of the recording."""
    targets: tuple[tuple[str, float], ...] = ()
    """Upper bounds by the names of ``TARGETS``."""

    def excess(self, figures: Figures) -> float:
        """By what factor the worst target is missed; at most 1 where all are met."""
        values = {"latency_ms": figures.p95_ms, "loss": figures.loss, "key_rate": figures.key_rate}
        return max((values[name] / bound for name, bound in self.targets), default=0.0)

    def keeps_up(self, figures: Figures) -> bool:
        """Whether every frame is answered, and nearly always before the next one comes."""
        return not figures.dropped and figures.p95_ms <= HEADROOM * self.interval_ms

    def failings(self, figures: Figures) -> tuple[float, float, bool]:
        """What is wrong with a candidate, the worst thing first: targets missed, frames dropped, later than the frame interval."""
        return max(self.excess(figures), 1.0), figures.drop_rate, not self.keeps_up(figures)


def best(tried: Sequence[Tried], goal: Goal) -> Tried:
    """The one to recommend: of those with the least failings the one that loses least or, where a loss is the target, the fastest."""
    least = min(goal.failings(one.figures) for one in tried)
    left = [one for one in tried if goal.failings(one.figures) == least]
    if any(name == "loss" for name, _ in goal.targets):
        return min(left, key=lambda one: (one.figures.p95_ms, one.figures.loss))
    tied = min(one.figures.loss for one in left) + TIE
    return min((one for one in left if one.figures.loss <= tied), key=lambda one: (one.figures.p95_ms, one.figures.key_rate))


def front(tried: Sequence[Tried]) -> list[Tried]:
    """Those that no other beats: none is at least as good in loss, p95 latency and drops and better in one. Fastest first.

    All by the simulation, so that like is held against like.
    """
    kept = [one for one in tried if not any(_beats(other.simulated, one.simulated) for other in tried)]
    return sorted(kept, key=lambda one: (one.simulated.p95_ms, one.simulated.loss))


def _beats(one: Figures, other: Figures) -> bool:
    mine, others = ((figures.loss, figures.p95_ms, figures.drop_rate) for figures in (one, other))
    return mine != others and all(a <= b for a, b in zip(mine, others, strict=True))


def rule(goal: Goal) -> str:
    """What was looked for."""
    wanted = " and ".join(f"{name} at most {bound:g}" for name, bound in goal.targets)
    if any(name == "loss" for name, _ in goal.targets):
        return f"least p95 latency with {wanted}, without drops where possible"
    within = f"{HEADROOM:.0%} of the frame interval ({HEADROOM * goal.interval_ms:.0f} ms)"
    return f"least loss with {wanted or f'no drops and p95 latency within {within}'}" + (", without drops where possible" if wanted else "")


def reasons(chosen: Tried, tried: Sequence[Tried], goal: Goal) -> list[str]:
    """Why it beat its neighbours on the front: the next more accurate one, the next faster one, and per-frame."""
    mine = chosen.simulated
    others = [one for one in front(tried) if one.candidate != chosen.candidate]
    nearer = max((one for one in others if one.simulated.loss < mine.loss - TIE), key=lambda one: one.simulated.loss, default=None)
    faster = max((one for one in others if one.simulated.p95_ms < mine.p95_ms), key=lambda one: one.simulated.p95_ms, default=None)
    reference = next((one for one in tried if one.candidate.schedule == "per-frame"), None)
    neighbours: dict[str, tuple[str, Tried]] = {}
    for title, other in (("The next more accurate", nearer), ("The next faster", faster), ("The reference", reference)):
        if other is not None and other.candidate != chosen.candidate:
            neighbours.setdefault(other.candidate.name, (title, other))
    return [_against(other, mine, goal, title) for title, other in neighbours.values()]


def _against(other: Tried, mine: Figures, goal: Goal, title: str) -> str:
    """Both as they were simulated; and what a real run of the other showed, where there was one."""
    theirs = other.simulated
    points = 100.0 * (theirs.loss - mine.loss)
    facts = [f"loses {abs(points):.1f} points {'less' if points < 0 else 'more'}"]
    facts.append(f"p95 latency {theirs.p95_ms:.0f} ms against {mine.p95_ms:.0f}")
    if theirs.dropped or mine.dropped:
        facts.append(f"{theirs.dropped} frames dropped against {mine.dropped}")
    facts += [f"misses {name}={bound:g}" for name, bound in goal.targets if Goal(goal.interval_ms, ((name, bound),)).excess(theirs) > 1.0]
    if not goal.targets and not goal.keeps_up(theirs):
        facts.append("does not keep up")
    told, run = f"{title}, simulated: {other.candidate.name}: {', '.join(facts)}.", other.verified
    if run is not None:
        told += f" Run by the clock it had p95 latency {run.p95_ms:.0f} ms and dropped {run.dropped} of {run.frames} frames."
    return told


def parse_targets(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """``latency_ms=50`` and the like, several with commas; raises ValueError with what was expected and what came."""
    found: dict[str, float] = {}
    for text in (part for whole in texts for part in whole.split(",")):
        name, _, value = text.partition("=")
        try:
            bound = float(value)
        except ValueError:
            bound = math.nan
        if name not in TARGETS or not 0 < bound < math.inf or name in found:
            known = ", ".join(f"{name}=..." for name in TARGETS)
            raise ValueError(f"target should be one of {known}, each once and with a number above 0, got {text!r}")
        found[name] = bound
    return tuple(found.items())
