"""The ablation: what each part of propagation brings, one ``dff_replay`` command for each row and recording.

    python benchmarks/accuracy.py --data $DATA [--reuse] [--only ROW] [--teacher BUNDLE]

Rows and recordings stand in accuracy.yaml beside this script. Each command's JSON is kept in runs/accuracy; with --reuse those whose
command and bundle are still the same are not run again, so that an interrupted run is taken up. Tables go into docs/accuracy.md, between
its two marks, and plots beside it where matplotlib is installed (pip install -c constraints.txt -e ".[plots]"). A row whose
bundle is missing is skipped and said to be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from accuracy_report import Figures, RowFigures, figures_of, merge_into, report

from dff_ros.core.bundle import WEIGHTS_FILE, BundleError, find_bundle, read_card

ROOT = Path(__file__).resolve().parent.parent
DESCRIPTION = Path(__file__).with_name("accuracy.yaml")
RESULTS = ROOT / "runs" / "accuracy"
COPIED = "--without propagation"
"""For a teacher, of which only per-frame's figures are wanted: nothing is cheaper."""


@dataclass(frozen=True)
class Measurement:
    """One recording and how it is replayed; ``gives`` says which figures are read from it: miou, ap50, delay or speed."""

    name: str
    title: str
    options: str
    gives: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One line of the tables. Several ``bundles`` are the same recipe with other seeds; ``per_frame`` reads the baseline's figures."""

    name: str
    bundles: tuple[str, ...]
    options: str = ""
    per_frame: bool = False
    made_by: str = ""


@dataclass(frozen=True)
class Ablation:
    """What accuracy.yaml says."""

    measurements: tuple[Measurement, ...]
    rows: tuple[Row, ...]
    teacher: str = ""


@dataclass(frozen=True)
class Run:
    """One ``dff_replay`` command."""

    bundle: str
    options: str
    measurement: Measurement

    @property
    def command(self) -> str:
        """As it is typed; $DATA stands for the folder of the data."""
        return " ".join(filter(None, ("dff_replay", self.measurement.options, "--model", shlex.quote(self.bundle), self.options)))

    @property
    def result(self) -> Path:
        """Where its JSON is kept."""
        digest = hashlib.sha256(self.command.encode()).hexdigest()[:8]
        return RESULTS / f"{self.measurement.name}-{Path(self.bundle).name}-{digest}.json"

    def stamp(self) -> str:
        """What the result depends on: the command, the networks and their weights."""
        folder = bundle_folder(self.bundle)
        card = read_card(folder)
        networks = f"{card.architecture} {card.input_pixels} {card.segmentation_classes} {card.detection_classes}"
        weights = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        return f"{self.command}\n{hashlib.sha256(networks.encode()).hexdigest()}\n{weights}\n"


def read_description(file: Path) -> Ablation:
    """Rows and measurements; raises ValueError with what is wrong."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        measurements = tuple(
            Measurement(name, item["title"], " ".join(item["options"].split()), tuple(item["gives"]))
            for name, item in content["measurements"].items()
        )
        rows = tuple(_row(**item) for item in content["rows"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: {type(error).__name__} {error}") from error
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"{file}: a row's name should stand once, got {', '.join(names)}")
    return Ablation(measurements, rows, content.get("teacher") or "")


def _row(name: str, bundle: str | Sequence[str], **more: Any) -> Row:
    return Row(name, (bundle,) if isinstance(bundle, str) else tuple(bundle), **more)


def bundle_folder(name: str) -> Path:
    """A bundle by name, or by its path from the repository's root; raises BundleError where there is none."""
    return find_bundle(str(ROOT / name) if "/" in name else name)


def missing(row: Row) -> str:
    """Why a row cannot be measured; empty where it can. All its bundles have to be there: a spread over some seeds would be another."""
    for bundle in row.bundles:
        try:
            folder = bundle_folder(bundle)
        except BundleError:
            return f"no bundle {bundle}" + (f" (made by: {row.made_by})" if row.made_by else "")
        if not (folder / WEIGHTS_FILE).is_file():
            return f"bundle {bundle} has no {WEIGHTS_FILE}"
    return ""


class Runner:
    """Carries out commands, each once; ``kept`` ones are those whose results of an earlier time still hold."""

    def __init__(self, data: Path, *, reuse: bool) -> None:
        self._data = data
        self._reuse = reuse
        self._done: set[str] = set()

    def result(self, run: Run, *, kept_only: bool) -> Mapping[str, Any] | None:
        """A command's JSON; None where it failed, which is said, or where with ``kept_only`` there is none yet."""
        stamp = run.stamp()
        if self._reuse or kept_only or run.command in self._done:
            if _is_kept(run, stamp):
                print(f"  {run.measurement.name}: kept", flush=True)
                return _read(run.result)
            if kept_only or run.command in self._done:
                return None
        self._done.add(run.command)
        return self._carry_out(run, stamp)

    def figures(self, row: Row, measurements: Sequence[Measurement], *, kept_only: bool = False) -> list[Figures]:
        """A row's figures from each of its bundles; what failed is missing in them."""
        found = []
        for bundle in row.bundles:
            runs = [Run(bundle, row.options, item) for item in measurements]
            results = [(run.measurement, self.result(run, kept_only=kept_only)) for run in runs]
            given = [(item.name, item.gives, content) for item, content in results if content is not None]
            found.append(figures_of(given, per_frame=row.per_frame))
        return found

    def _carry_out(self, run: Run, stamp: str) -> Mapping[str, Any] | None:
        run.result.parent.mkdir(parents=True, exist_ok=True)
        _stamp_file(run).unlink(missing_ok=True)
        words = [word.replace("$DATA", str(self._data)) for word in shlex.split(run.command)[1:]]
        command = [sys.executable, "-m", "dff_ros.evaluation.dff_replay", *words, "--json", str(run.result)]
        print(f"  {run.measurement.name}: {run.command}", flush=True)
        started, log = time.perf_counter(), run.result.with_suffix(".log")
        with log.open("w") as output:
            code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT).returncode
        if code:
            lines = log.read_text().strip().splitlines() or ["no message"]
            print(f"  {run.measurement.name}: failed with exit code {code}: {lines[-1]} (all of it: {log})", flush=True)
            return None
        _stamp_file(run).write_text(stamp)
        print(f"  {run.measurement.name}: {time.perf_counter() - started:.0f} s", flush=True)
        return _read(run.result)


def _stamp_file(run: Run) -> Path:
    return run.result.with_suffix(".stamp")


def _is_kept(run: Run, stamp: str) -> bool:
    return run.result.is_file() and _stamp_file(run).is_file() and _stamp_file(run).read_text() == stamp


def _read(file: Path) -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(file.read_text())
    return content


def teacher_figures(teacher: str, ablation: Ablation, runner: Runner, *, kept_only: bool) -> Figures | None:
    """Per-frame's figures of the network before joint training; None without one."""
    if not teacher:
        return None
    row = Row("teacher", (teacher,), COPIED, per_frame=True)
    if reason := missing(row):
        print(f"teacher: {reason}; losses are taken against each bundle's own per-frame", flush=True)
        return None
    print(f"teacher: {teacher}", flush=True)
    scored = [item for item in ablation.measurements if {"miou", "ap50"} & set(item.gives)]
    return runner.figures(row, scored, kept_only=kept_only)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then write tables and plots; 1 where a command failed, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data, laid out as docs/data.md says; $DATA in the commands")
    parser.add_argument("--rows", type=Path, default=DESCRIPTION, metavar="FILE.yaml", help="rows and recordings")
    parser.add_argument("--only", action="append", metavar="ROW", help="run only this row; may be given again. Others as they were")
    parser.add_argument("--teacher", metavar="BUNDLE", help="the per-frame network before joint training, in place of the YAML's")
    parser.add_argument("--reuse", action="store_true", help="keep results whose command and bundle are the same")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", metavar="DIR", help="where accuracy.md and the plots are")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """What ``main`` does; raises ValueError or OSError in one line."""
    ablation = read_description(options.rows)
    unknown = set(options.only or ()) - {row.name for row in ablation.rows}
    if unknown:
        raise ValueError(f"rows are {', '.join(row.name for row in ablation.rows)}; got {', '.join(sorted(unknown))}")
    runner = Runner(options.data.resolve(), reuse=options.reuse)
    teacher_name = ablation.teacher if options.teacher is None else options.teacher
    teacher = teacher_figures(teacher_name, ablation, runner, kept_only=bool(options.only))
    done: list[RowFigures] = []
    for number, row in enumerate(ablation.rows, start=1):
        print(f"row {number} of {len(ablation.rows)}, {row.name}: {', '.join(row.bundles)} {row.options}".rstrip(), flush=True)
        if reason := missing(row):
            print(f"  skipped: {reason}", flush=True)
            continue
        kept_only = bool(options.only) and row.name not in options.only
        seeds = runner.figures(row, ablation.measurements, kept_only=kept_only)
        if any(figures.measured for figures in seeds):
            done.append(RowFigures(row.name, row.bundles, row.options, row.made_by, row.per_frame, seeds))
        else:
            print("  left out: nothing was measured", flush=True)
    if not done:
        raise ValueError("no row could be measured")
    options.docs.mkdir(parents=True, exist_ok=True)
    plots = draw(done, options.docs)
    recordings = {item.name: (item.title, item.options) for item in ablation.measurements}
    merge_into(options.docs / "accuracy.md", report(done, teacher, teacher_name, recordings, plots))
    print(f"wrote {', '.join(str(options.docs / name) for name in ('accuracy.md', *plots))}")
    return _said_to_be_complete(done, {item.name for item in ablation.measurements})


def _said_to_be_complete(rows: Sequence[RowFigures], wanted: set[str]) -> int:
    """1 where something of a row is missing, which is said."""
    incomplete = {row.name: sorted(set().union(*(wanted - figures.measured for figures in row.seeds))) for row in rows}
    for name, names in incomplete.items():
        if names:
            print(f"accuracy: {name} lacks {', '.join(names)}; --reuse tries only what is missing again", file=sys.stderr)
    return int(any(incomplete.values()))


def draw(rows: Sequence[RowFigures], folder: Path) -> list[str]:
    """The names of the plots drawn; none without matplotlib, which is said."""
    try:
        import accuracy_plots
    except ImportError as error:
        print(f'no plots: {error} (pip install -c constraints.txt -e ".[plots]")', flush=True)
        return []
    return accuracy_plots.draw(rows, folder)


if __name__ == "__main__":
    sys.exit(main())
