"""The ablation: what each part of propagation brings, one ``dff_replay`` command for each row and recording.

    python benchmarks/accuracy.py --data $DATA [--reuse] [--only ROW] [--bundle ROW=BUNDLE] [--teacher BUNDLE]

Rows and recordings stand in accuracy.yaml beside this script. Each command's JSON is kept in runs/accuracy; with --reuse those whose
command, bundle and code (all of dff_ros) are still the same are not run again, so that an interrupted run is taken up. Tables go into
docs/accuracy.md, between its two marks, and plots beside it where matplotlib is installed (pip install -c constraints.txt -e ".[plots]").
A row whose bundle is missing is listed there as not measured, with what it would be and what makes it.
"""

from __future__ import annotations

import argparse
import functools
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

from accuracy_report import Absent, Figures, RowFigures, figures_of, merge_into, report
from accuracy_rows import DESCRIPTION, ROOT, Ablation, Measurement, Row, bundle_folder, check_rows, missing, read_description, with_bundles

from dff_ros.core.bundle import PROSE, WEIGHTS_FILE, read_card

PACKAGE = ROOT / "dff_ros"
RESULTS = ROOT / "runs" / "accuracy"
COPIED = "--without propagation"
"""For a teacher, of which only per-frame's figures are wanted: nothing is cheaper."""


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

    def stamp(self) -> dict[str, str]:
        """What the result depends on: command, code, weights, and the card but for its prose, into which figures are written."""
        folder = bundle_folder(self.bundle)
        card = {name: value for name, value in vars(read_card(folder)).items() if name not in PROSE}
        return {
            "command": self.command,
            "code": code_digest(PACKAGE),
            "card": hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest(),
            "weights": hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest(),
        }


@functools.cache
def code_digest(package: Path) -> str:
    """The digest of all Python files of a package, read once: a run's results carry the code that it began with."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _row_and_bundle(text: str) -> tuple[str, str]:
    row, _, bundle = text.partition("=")
    if not (row and bundle):
        raise argparse.ArgumentTypeError(f"should be ROW=BUNDLE, got {text!r}")
    return row, bundle


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
            changed = _changed(run, stamp)
            if not changed:
                print(f"  {run.measurement.name}: kept", flush=True)
                return _read(run.result)
            print(f"  {run.measurement.name}: {changed}", flush=True)
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

    def _carry_out(self, run: Run, stamp: Mapping[str, str]) -> Mapping[str, Any] | None:
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
        _stamp_file(run).write_text(json.dumps(stamp, indent=1))
        print(f"  {run.measurement.name}: {time.perf_counter() - started:.0f} s", flush=True)
        return _read(run.result)


def _stamp_file(run: Run) -> Path:
    return run.result.with_suffix(".stamp")


def _changed(run: Run, stamp: Mapping[str, str]) -> str:
    """Why the result that is kept no longer holds, or that there is none; empty where it holds."""
    if not (run.result.is_file() and _stamp_file(run).is_file()):
        return "no result is kept"
    try:
        kept = json.loads(_stamp_file(run).read_text())
        changed = [name for name, value in stamp.items() if kept.get(name) != value]
    except (ValueError, AttributeError):
        changed = ["stamp"]  # an earlier version's
    return f"measured with another {' and '.join(changed)}" if changed else ""


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
    about = "bundle of a row, in place of the YAML's; given again for the same row it is another seed of the same recipe"
    parser.add_argument("--bundle", action="append", metavar="ROW=BUNDLE", default=[], type=_row_and_bundle, help=about)
    parser.add_argument("--teacher", metavar="BUNDLE", help="the per-frame network before joint training, in place of the YAML's")
    parser.add_argument("--reuse", action="store_true", help="keep results whose command, bundle and code are the same")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", metavar="DIR", help="where accuracy.md and the plots are")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """What ``main`` does; raises ValueError or OSError in one line."""
    ablation = with_bundles(read_description(options.rows), options.bundle)
    check_rows(ablation, options.only or ())
    runner = Runner(options.data.resolve(), reuse=options.reuse)
    teacher_name = ablation.teacher if options.teacher is None else options.teacher
    teacher = teacher_figures(teacher_name, ablation, runner, kept_only=bool(options.only))
    done: list[RowFigures] = []
    absent: list[Absent] = []
    for number, row in enumerate(ablation.rows, start=1):
        print(f"row {number} of {len(ablation.rows)}, {row.name}: {', '.join(row.bundles)} {row.options}".rstrip(), flush=True)
        if reason := missing(row):
            print(f"  skipped: {reason}", flush=True)
            absent.append(Absent(row.name, row.about, row.made_by))
            continue
        kept_only = bool(options.only) and row.name not in options.only
        seeds = runner.figures(row, ablation.measurements, kept_only=kept_only)
        if any(figures.measured for figures in seeds):
            done.append(RowFigures(row.name, row.bundles, row.options, row.made_by, row.per_frame, seeds, row.about))
        else:
            print("  left out: nothing was measured", flush=True)
    if not done:
        raise ValueError("no row could be measured")
    options.docs.mkdir(parents=True, exist_ok=True)
    plots = draw(done, options.docs)
    recordings = {item.name: (item.title, item.options) for item in ablation.measurements}
    merge_into(options.docs / "accuracy.md", report(done, teacher, teacher_name, recordings, plots, absent))
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
