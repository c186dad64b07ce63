"""Key frame schedules at equal key rate, against fixed, random and the oracle: docs/schedules.md.

    python benchmarks/schedules.py --data $DATA [--model street] [--only warp]

For every recording the agreement of propagated answers with per-frame's is computed once, at every age up to 50 (16 with the
branch), and kept in runs/schedules with what a schedule sees (see ``schedules_tables``); all schedules and the oracle are then run on
these tables. The estimator is fitted by ``dff_train schedule`` on recordings that are not among those. Tables and plots go into
docs/schedules.md, between its marks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from accuracy_report import merge_into
from schedules_contenders import Study, curves
from schedules_report import TITLES, report
from schedules_tables import LEARNED_FROM, LEARNING, MEASURED, OLDEST, ROOT, code_digest, digest, measured

from dff_ros.core.bundle import find_bundle, read_card
from dff_ros.core.signals import Estimator
from dff_ros.engine.loading import load_model
from dff_ros.engine.settings import EngineSettings

RESULTS = ROOT / "runs" / "schedules"
MARKS = ("<!-- schedules: begin (benchmarks/schedules.py writes what follows) -->", "<!-- schedules: end -->")


def learn(bundle: Path, data: Path, *, without_branch: bool, most: int) -> tuple[Estimator, float]:
    """The estimator that ``dff_train schedule`` fits, and what share it explains; from the folder where it is there."""
    made = RESULTS / "bundles" / digest(bundle, without_branch, most, LEARNED_FROM, code_digest(LEARNING))
    if not made.is_dir():
        given = [option for source in LEARNED_FROM for option in source.option(data)]
        branch = ["--without-branch"] if without_branch else []
        words = ["schedule", "--model", str(bundle), *given, "--most", str(most), *branch, "--to", str(made)]
        started = time.perf_counter()
        outcome = subprocess.run([sys.executable, "-m", "dff_train.cli", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        if outcome.returncode:
            raise ValueError((outcome.stderr.strip().splitlines() or ["dff_train schedule failed without a word"])[-1])
        print(f"  estimator: {time.perf_counter() - started:.0f} s", flush=True)
    card = read_card(made)
    assert card.estimator is not None
    return card.estimator, float(card.disagreement["explained"])


def studied(name: str, bundle: Path, data: Path, most: int) -> Study:
    """Tables and estimator of one way of propagating, ``warp`` or ``branch``."""
    print(f"{bundle.name}, {name}", flush=True)
    model = load_model(EngineSettings(model=str(bundle)), without={"refine"} if name == "warp" else frozenset())
    folder = RESULTS / f"{bundle.name}-{name}"
    oldest = OLDEST[name]
    parts = {title: measured(title, source, data, bundle, model, folder, oldest=oldest) for title, source in MEASURED.items()}
    return Study(name, parts, *learn(bundle, data, without_branch=name == "warp", most=most))


def draw(study: Study, bundle: Path, folder: Path) -> str:
    """The name of the plot drawn, a panel for each score; empty without matplotlib, which is said."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        print(f'no plot: {error} (pip install -c constraints.txt -e ".[plots]")', flush=True)
        return ""
    panels = curves(study)
    figure, grid = plt.subplots(4, 3, figsize=(11, 12), layout="constrained")
    styles = {"fixed": "k--", "random": "k:", "oracle": "k-"}
    for axes, (title, found) in zip(grid.flat, panels.items(), strict=False):
        for name, points in found.items():
            axes.plot(*zip(*points, strict=True), styles.get(name, "o-"), markersize=2.5, linewidth=1.1, label=name)
        axes.set(title=title, xscale="log", xticks=(0.02, 0.05, 0.1, 0.2, 0.5))
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.xaxis.set_minor_formatter("")
        axes.grid(alpha=0.3)
    grid.flat[0].legend(fontsize="small")
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    figure.suptitle(f"{bundle.name}, {TITLES[study.name]}: score, %, over key rate")
    name = f"schedules_{study.name}.png"
    figure.savefig(folder / name, dpi=75, metadata={"Software": None})
    plt.close(figure)
    return name


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then write tables and plots; 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data, laid out as docs/data.md says")
    parser.add_argument("--model", default="street", help="bundle with a segmentation head (%(default)s)")
    parser.add_argument("--only", choices=("warp", "branch"), help="one way of propagating; both where the bundle has a branch")
    parser.add_argument("--most", type=int, default=240, help="frames of a recording that the estimator learns from (%(default)s)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", metavar="DIR", help="where schedules.md and the plots are")
    options = parser.parse_args(arguments)
    try:
        bundle = find_bundle(options.model).resolve()
        ways = ["warp", "branch"] if "refine_network" in read_card(bundle).architecture else ["warp"]
        texts = []
        for name in [options.only] if options.only else ways:
            study = studied(name, bundle, options.data.resolve(), options.most)
            texts.append("\n".join(report(study, bundle, draw(study, bundle, options.docs))))
            print(texts[-1], flush=True)
        merge_into(options.docs / "schedules.md", "\n\n".join(texts), MARKS)
    except (ValueError, OSError) as error:
        print(f"schedules: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
