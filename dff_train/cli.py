"""``dff_train``: train a bundle from a recipe and write it out, or distil one on recordings."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dff_train.anchors import cluster_anchors, nominal_boxes
from dff_train.datasets import open_sources
from dff_train.distill import Given, Settings, distill
from dff_train.recipe import read_recipe
from dff_train.schedule import schedule
from dff_train.train import fit_new_fusion, train
from dff_train.training import Training


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when it did what was asked, 2 with one line on standard error when it could not."""
    options = _parser().parse_args(arguments)
    try:
        options.run_command(options)
    except (OSError, ValueError) as error:
        print(f"dff_train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dff_train: interrupted; the same command takes a run up again at its last checkpoint", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dff_train", description="Train Deep Feature Flow bundles.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train a recipe; the same command goes on where it was interrupted")
    run.add_argument("--minutes", type=float, default=math.inf, help="stop after this long; the checkpoint stays")
    run.add_argument("--workers", type=int, default=1, help="processes that prepare samples")
    run.add_argument("--init", metavar="BUNDLE", help="bundle whose weights a new run starts from, instead of the recipe's")
    run.set_defaults(run_command=_run)
    export = commands.add_parser("export", help="write a run's weights as a bundle")
    export.add_argument("--to", type=Path, required=True, help="folder of the bundle, for example models/street")
    export.set_defaults(run_command=_export)
    anchors = commands.add_parser("anchors", help="cluster the boxes of a recipe's sources into anchor shapes for its card")
    anchors.add_argument("--count", type=int, default=9, help="number of shapes")
    anchors.set_defaults(run_command=_anchors)
    distilling = _add_distill(commands)
    scheduling = _add_schedule(commands)
    for command in (run, anchors):
        command.add_argument("--data", type=Path, required=True, help="folder of the data sets (see docs/data.md)")
    for command in (run, export, anchors):
        command.add_argument("--recipe", type=Path, required=True, help="YAML file, for example dff_train/recipes/street.yaml")
    for command in (run, export):
        command.add_argument("--run", type=Path, required=True, help="folder of checkpoint and log")
    for command in (run, export, distilling, scheduling):
        best = "cuda" if torch.cuda.is_available() else "cpu"
        command.add_argument("--device", type=_device, default=best, metavar="DEVICE", help="cpu or cuda (%(default)s)")
    return parser


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise argparse.ArgumentTypeError(f"should be cpu or cuda, where there is one, got {name}")
    return torch.device(name)


def _add_distill(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "distill",
        help="make a video network of a bundle on recordings without labels; the same command goes on where it was interrupted",
        description="Freeze a bundle's per-frame network; train flow, scale and branch on your recordings to give its answers.",
    )
    command.add_argument("--model", required=True, metavar="BUNDLE", help="bundle to start from: a name under models/ or a folder")
    command.add_argument("--to", type=Path, required=True, help="folder of the new bundle, for example models/mine")
    _add_recordings(command)
    command.add_argument("--interval", type=int, default=Settings.interval, help="key frame interval to train for (%(default)s)")
    branch = "branch to add where the bundle has none (%(default)s)"
    command.add_argument("--refine", choices=("light", "none"), default=Settings.refine, help=branch)
    about = "about how long to train (%(default)g), beside decoding and measuring"
    command.add_argument("--minutes", type=float, default=Settings.minutes, help=about)
    command.add_argument("--steps", type=int, default=Settings.steps, help="train so many steps instead, whatever time they take")
    command.add_argument("--run", type=Path, help="folder of checkpoint and log (runs/ and the name of --to)")
    command.add_argument("--workers", type=int, default=1, help="processes that prepare samples")
    command.set_defaults(run_command=_distill)
    return command


def _add_schedule(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "schedule",
        help="fit what an adaptive key frame schedule goes by, on recordings without labels",
        description="Learn to tell from what is there before a frame is answered how far a propagated answer is from per-frame's.",
    )
    command.add_argument("--model", required=True, metavar="BUNDLE", help="bundle to fit it for: a name under models/ or a folder")
    command.add_argument("--to", type=Path, required=True, help="folder of the new bundle")
    _add_recordings(command, "; PATH@A:B takes its frames A to B alone")
    command.add_argument("--most", type=int, default=240, metavar="N", help="about so many frames of each recording (%(default)s)")
    command.add_argument("--without-branch", action="store_true", help="for propagation without the branch on the current frame")
    command.set_defaults(run_command=_schedule)
    return command


def _add_recordings(command: argparse.ArgumentParser, more: str = "") -> None:
    for kind, what in (("video", "video file"), ("frames", "folder of images"), ("bag", "ROS 2 bag")):
        about = f"{what} to learn from; may be given several times{more}"
        command.add_argument(f"--{kind}", type=Path, action="append", default=[], help=about)
    command.add_argument("--rate", type=float, help="frames per second of --frames")
    command.add_argument("--topic", help="image topic of --bag, where it has several")


def _given(options: argparse.Namespace) -> list[Given]:
    return [Given(kind, path, options.rate, options.topic) for kind in ("video", "frames", "bag") for path in getattr(options, kind)]


def _schedule(options: argparse.Namespace) -> None:
    schedule(
        options.model, _given(options), to=options.to, device=options.device, frames=options.most, without_branch=options.without_branch
    )


def _distill(options: argparse.Namespace) -> None:
    given = _given(options)
    chosen = {name: getattr(options, name) for name in ("model", "interval", "refine", "minutes", "steps")}
    run = options.run or Path("runs") / options.to.name
    distill(Settings(recordings=tuple(given), **chosen), run=run, to=options.to, device=options.device, workers=options.workers)


def _training(options: argparse.Namespace) -> tuple[Training, bool]:
    training = Training(read_recipe(options.recipe), options.run, options.device)
    resumed = training.resume()
    if training.recipe_changed:
        about = f"what {options.run} holds was trained with another recipe than {options.recipe} as it is now"
        print(f"dff_train: note: {about}", file=sys.stderr)
    return training, resumed


def _run(options: argparse.Namespace) -> None:
    training, resumed = _training(options)
    if resumed and not training.finished:
        print(f"dff_train: going on with {training.stage.name} at step {training.step}")
    elif (init := options.init or training.recipe.init) and not resumed:
        fresh = training.start_from(init)
        print(f"dff_train: started from {init}; {len(fresh)} tensors are new{': ' if fresh else ''}{', '.join(fresh[:8])}")
        fit_new_fusion(training, options.data, fresh)
    train(training, options.data, workers=options.workers, time_limit_s=options.minutes * 60)


def _export(options: argparse.Namespace) -> None:
    training, resumed = _training(options)
    if not resumed:
        raise ValueError(f"no checkpoint in {options.run}: expected one written by dff_train run")
    if not training.finished:
        done = f"step {training.step} of {training.stage.steps} of stage {training.stage.name!r}"
        print(f"dff_train: note: the run is not done: {done}", file=sys.stderr)
    training.export(options.to)
    print(f"dff_train: wrote {options.to}")


def _anchors(options: argparse.Namespace) -> None:
    recipe = read_recipe(options.recipe)
    boxes = nominal_boxes(open_sources(options.data, list(recipe.sources)), recipe.card.input_pixels)
    for width, height in cluster_anchors(boxes, options.count):
        print(f"- [{width:.0f}, {height:.0f}]")


if __name__ == "__main__":
    sys.exit(main())
