"""``dff_tune``: what to run on a recording, found by trying; parameters for the node, figures as JSON, and a report."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from dff_ros.core.bundle import Card
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.cameras import open_input
from dff_ros.evaluation.ground_truth.given_truth import open_truth
from dff_ros.evaluation.ground_truth.truth import Truth
from dff_ros.evaluation.options import Parser, add_input, add_truth, check_input, count, positive
from dff_ros.recording.opening import notes_of
from dff_ros.tuning.candidates import SIZES
from dff_ros.tuning.outputs import FIGURES, PAGE, PARAMS, words, write_outputs
from dff_ros.tuning.recommendation import TARGETS, parse_targets
from dff_ros.tuning.tune import MOST_VERIFIED, Tuned, Wish, tune

BUNDLES = ("street", "street_light")

UNREACHED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes beside 0. Where a target is missed the nearest candidate is written all the same: a script must not take it for reached."""


def main(arguments: list[str] | None = None) -> int:
    """Run ``dff_tune``; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        outcome, files = run(options, shlex.join(["dff_tune", *(sys.argv[1:] if arguments is None else arguments)]))
    except (ValueError, OSError) as error:
        print(f"dff_tune: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"\ndff_tune: interrupted, nothing was written to {options.to}", file=sys.stderr)
        return INTERRUPTED
    print("\n".join([*words(outcome), f"written: {', '.join(map(str, files))}"]))
    if files[-1].name != PAGE:
        print(f"dff_tune: {PAGE} needs plotly and Jinja2: pip install 'plotly>=5,<8' 'Jinja2>=3,<4'", file=sys.stderr)
    if outcome.interrupted:
        return INTERRUPTED
    return 0 if outcome.reached else UNREACHED


def run(options: argparse.Namespace, command: str) -> tuple[Tuned, list[Path]]:
    """Tune and write; returns the files too. Raises ValueError or OSError in one line."""
    if options.to.exists() and not options.to.is_dir():
        raise ValueError(f"--to should be a folder, got {options.to}")
    options.to.mkdir(parents=True, exist_ok=True)
    recording = open_input(options)
    tuned = tune(recording, wish_of(options), lambda card: truth_of(options, card), say=say)
    say(*notes_of(recording))
    return tuned, write_outputs(options.to, tuned, given_settings(options), command=command)


def given_settings(options: argparse.Namespace) -> dict[str, object]:
    """Settings that are not tuned but given."""
    return {name: value for name in ("device", "threads") if (value := getattr(options, name)) is not None}


def wish_of(options: argparse.Namespace) -> Wish:
    """What the command line asks for; raises ValueError in one line."""
    return Wish(
        bundles=tuple(dict.fromkeys(options.model or BUNDLES)),
        sizes=options.sizes,
        targets=parse_targets(options.target),
        minutes=options.minutes,
        verified=options.verify,
        base=EngineSettings().with_values(given_settings(options)),
    )


def truth_of(options: argparse.Namespace, card: Card) -> Truth:
    """The truth that the command line names; what of it is left out is said."""
    truth = open_truth(options, card)
    say(*truth.notes)
    return truth


def say(*lines: str) -> None:
    """Beside the progress, which is on stderr too."""
    for line in lines:
        tqdm.write(f"dff_tune: {line}", file=sys.stderr)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; exits with code 2 and one line where it is wrong."""
    description = f"Try out what to run on a recording. Exit code {UNREACHED} where no candidate reaches the target."
    parser = Parser(prog="dff_tune", description=description, allow_abbrev=False)
    add_input(parser)
    add_truth(parser)
    group = parser.add_argument_group("tuning")
    written = f"folder for {PARAMS} (for dff_node and dff_replay), {FIGURES} and {PAGE}"
    group.add_argument("--to", type=Path, required=True, metavar="DIR", help=written)
    target = "; ".join(f"{name}: {meaning}" for name, meaning in TARGETS.items())
    group.add_argument("--target", action="append", default=[], metavar="NAME=VALUE,...", help=f"upper bounds ({target})")
    bundles = f"bundle, can be given several times ({', '.join(BUNDLES)}); per-frame of the first is what losses are counted from"
    group.add_argument("--model", action="append", help=bundles)
    sizes = "input sizes to try, as shares of the bundle's pixels (%(default)s)"
    group.add_argument("--sizes", type=shares, default=",".join(f"{size:g}" for size in SIZES), metavar="1,0.8,...", help=sizes)
    group.add_argument("--minutes", type=positive, default=10.0, metavar="M", help="about how long this may take (%(default)g)")
    verify = "run so many of the best by the clock at most, until the best is one of them (%(default)s); 0 promises what was simulated"
    group.add_argument("--verify", type=count, default=MOST_VERIFIED, metavar="N", help=verify)
    group.add_argument("--device", choices=("auto", "cpu", "cuda"))
    group.add_argument("--threads", type=count, metavar="N", help="CPU threads, as the node's parameter")
    options = parser.parse_args(arguments)
    check_input(parser, options)
    return options


def shares(text: str) -> tuple[float, ...]:
    """Shares of the bundle's pixels, with commas between."""
    values = tuple(positive(part) for part in text.split(","))
    if not all(0.05 <= value <= 4.0 for value in values):
        raise argparse.ArgumentTypeError(f"sizes should lie in 0.05..4, got {text!r}")
    return values


if __name__ == "__main__":
    sys.exit(main())
