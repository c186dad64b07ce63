"""``dff_tune``: what to run on a recording, found by trying; parameters for the node, figures as JSON, and a report."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from dff_ros.core.bundle import Card
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.options import Parser, add_input, add_truth, check_input, count, positive
from dff_ros.evaluation.replay import open_input, open_truth
from dff_ros.tuning.candidates import SIZES
from dff_ros.tuning.outputs import FIGURES, PARAMS, words, write_outputs
from dff_ros.tuning.recommendation import TARGETS, parse_targets
from dff_ros.tuning.tune import NothingMeasured, Tuned, Wish, tune

BUNDLES = ("street", "street_light")

UNREACHED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes beside 0. Where a target is missed the nearest candidate is written all the same: a script must not take it for reached."""


def main(arguments: list[str] | None = None) -> int:
    """Run ``dff_tune``; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        outcome = run(options)
    except (ValueError, OSError) as error:
        print(f"dff_tune: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"\ndff_tune: interrupted, nothing was written to {options.to}", file=sys.stderr)
        return INTERRUPTED
    print("\n".join([*words(outcome), f"written: {options.to / PARAMS}, {options.to / FIGURES}"]))
    if outcome.interrupted:
        return INTERRUPTED
    return 0 if outcome.reached else UNREACHED


def run(options: argparse.Namespace) -> Tuned:
    """Tune and write; raises ValueError or OSError in one line."""
    if options.to.exists() and not options.to.is_dir():
        raise ValueError(f"--to should be a folder, got {options.to}")
    options.to.mkdir(parents=True, exist_ok=True)
    extra = {name: value for name in ("device", "threads") if (value := getattr(options, name)) is not None}
    wish = Wish(
        bundles=tuple(dict.fromkeys(options.model or BUNDLES)),
        sizes=options.sizes,
        targets=parse_targets(options.target),
        minutes=options.minutes,
        verified=options.verify,
        base=EngineSettings().with_values(extra),
    )

    def truth_for(card: Card) -> Truth:
        return open_truth(options, card)

    try:
        tuned = tune(open_input(options), wish, truth_for, say=lambda line: print(line, file=sys.stderr))
    except NothingMeasured:
        raise
    write_outputs(options.to, tuned, extra)
    return tuned
