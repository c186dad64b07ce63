"""Does a recommendation hold on what it was not tuned on? ``dff_tune`` on the first half of a recording, its choice run on the second.

    GOMP_SPINCOUNT=1000 python benchmarks/tuning.py --video $DATA/pets09/video.mp4 --range 470:579
    GOMP_SPINCOUNT=1000 python benchmarks/tuning.py --frames $DATA/unlabelled/kitti_drive --rate 10 [--target latency_ms=50]

All options of ``dff_tune`` but ``--to`` are taken. Both halves are run by the clock, so run it on a machine that is otherwise quiet. A
recommendation holds where its loss is within half a point and its p95 latency within a tenth of what was promised. Exit code 1
where it does not.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from dff_ros.engine.host import keep_freed_memory
from dff_ros.evaluation.cameras import open_input
from dff_ros.recording.frames import Recording, Selection, select
from dff_ros.tuning.command import parse_arguments, say, truth_of, wish_of
from dff_ros.tuning.figures import Figures
from dff_ros.tuning.outputs import words
from dff_ros.tuning.sampling import frames_of, taken
from dff_ros.tuning.tune import Tuning, tune

MOST_LOSS, MOST_LATENCY = 0.005, 0.1


@dataclass(frozen=True)
class HeldOut:
    """What was promised, and what the second half showed."""

    name: str
    promised: Figures
    found: Figures

    @property
    def loss_off(self) -> float:
        """Found minus promised, a fraction."""
        return self.found.loss - self.promised.loss

    @property
    def latency_off(self) -> float:
        """The same of p95, as a share of what was promised."""
        return self.found.p95_ms / self.promised.p95_ms - 1.0

    @property
    def holds(self) -> bool:
        """Whether both are near."""
        return abs(self.loss_off) <= MOST_LOSS and abs(self.latency_off) <= MOST_LATENCY

    def table(self) -> str:
        """Both halves."""
        rows = [
            f"| {half} | {figures.frames} | {100 * figures.loss:.2f} | {figures.p50_ms:.1f} | {figures.p95_ms:.1f} "
            f"| {figures.key_rate:.1%} | {figures.dropped} |"
            for half, figures in (("first half, promised", self.promised), ("second half", self.found))
        ]
        off = f"loss {100 * self.loss_off:+.2f} points, p95 {self.latency_off:+.1%}: {'holds' if self.holds else 'DOES NOT HOLD'}"
        head = f"{self.name}\n\n| | frames | loss, points | p50 ms | p95 ms | key rate | dropped |\n|---|---|---|---|---|---|---|"
        return "\n".join([head, *rows, "", off])


def halves(recording: Recording) -> tuple[Recording, Recording]:
    """The first and the second half, also of a range: ranges count the frames of the source."""
    whole, start = (recording.recording, recording.first) if isinstance(recording, Selection) else (recording, 0)
    total = frames_of(recording)
    return select(whole, start, start + total // 2 - 1), select(whole, start + total // 2, start + total - 1)


def held_out(arguments: list[str] | None = None) -> HeldOut:
    """Tune on the first half, run on the second; raises ValueError or OSError in one line."""
    options = parse_arguments([*(sys.argv[1:] if arguments is None else arguments), "--to", "unused"])
    recording, wish = open_input(options), wish_of(options)
    first, second = halves(recording)
    tuned = tune(first, wish, lambda card: truth_of(options, card), say=say)
    print("\n".join(words(tuned)), flush=True)
    chosen = tuned.recommended.candidate
    again = Tuning(second, wish, lambda card: truth_of(options, card))
    found = again.run(chosen, taken(second, [(0, frames_of(second))]))
    return HeldOut(f"{recording.description}: {chosen.name}", tuned.recommended.figures, found)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit code."""
    keep_freed_memory()  # as dff_tune does
    try:
        outcome = held_out(arguments)
    except (ValueError, OSError) as error:
        print(f"tuning: {error}", file=sys.stderr)
        return 2
    print(f"\n{outcome.table()}")
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
