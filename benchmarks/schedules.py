"""Key frame schedules at equal key rate, against fixed, random and the oracle: docs/schedules.md.

    python benchmarks/schedules.py --data $DATA [--model street] [--only warp]

For every recording the agreement of propagated answers with per-frame's is computed once, at every age up to 16, and kept in
runs/schedules with what a schedule sees (it is computed anew where the bundle's networks or weights are others); all schedules
and the oracle are then run on these tables in seconds. The estimator is fitted by ``dff_train schedule`` on recordings that are
not among those. Tables and plots go into docs/schedules.md, between its marks.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accuracy_report import merge_into
from schedules_report import Study, curves, report

from dff_ros.core.bundle import WEIGHTS_FILE, find_bundle, read_card
from dff_ros.core.signals import Estimator
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.agreement import AgreementTable, join_tables, load_table, measure_table
from dff_ros.evaluation.every_age import OLDEST
from dff_ros.evaluation.image_truth import LabelImages
from dff_ros.recording.frames import Recording, select
from dff_ros.recording.opening import open_recording

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "runs" / "schedules"
MARKS = ("<!-- schedules: begin (benchmarks/schedules.py writes what follows) -->", "<!-- schedules: end -->")

@dataclass(frozen=True)
class Source:
    """A recording as ``open_recording`` takes it, by its place in the folder of the data; ``frames`` first and last of a range."""

    kind: str
    path: str
    rate: float | None = None
    frames: tuple[int, int] | None = None
    labels: str = ""

    def open(self, data: Path) -> Recording:
        """The recording, cut to its range."""
        recording = open_recording(**{self.kind: data / self.path}, rate=self.rate)  # type: ignore[arg-type]
        return select(recording, *self.frames) if self.frames else recording

    def option(self, data: Path) -> list[str]:
        """As ``dff_train schedule`` takes it."""
        ranged = "" if self.frames is None else f"@{self.frames[0]}:{self.frames[1]}"
        return [f"--{self.kind}", f"{data / self.path}{ranged}"]


MEASURED = {
    "camvid": Source("frames", "camvid/dense_tune/images", 15, labels="camvid/dense_tune/labels"),
    "pets": Source("video", "pets09/video.mp4", frames=(470, 579)),
    "highway": Source("frames", "highway/images", 30, (630, 779)),
    "kitti_drive": Source("frames", "unlabelled/kitti_drive", 10),
    **{f"davis {name}": Source("frames", f"davis/{name}/images", 24) for name in ("blackswan", "bmx-trees", "camel", "car-roundabout")},
}

LEARNED_FROM = (
    Source("video", "pets09/video.mp4", frames=(0, 449)),
    Source("frames", "highway/images", 30, (0, 599)),
    Source("frames", "unlabelled/traffic", 25),
    Source("frames", "unlabelled/imagenet_vid_00007010", 25),
)


def digest(bundle: Path, without: frozenset[str]) -> str:
    """What tables depend on: the networks and their weights, and what is left out."""
    card = read_card(bundle)
    content = f"{card.architecture} {card.input_pixels} {sorted(without)} {OLDEST}".encode() + (bundle / WEIGHTS_FILE).read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


def measured(name: str, source: Source, data: Path, model: LoadedModel, settings: EngineSettings, folder: Path) -> AgreementTable:
    """A recording's table, from the folder where it is there."""
    file = folder / f"{name.replace(' ', '_')}.npz"
    if not file.is_file():
        started = time.perf_counter()
        card = model.card
        truth = LabelImages(data / source.labels, card.segmentation_classes, card.ignored_labels) if source.labels else None
        measure_table(source.open(data), model, settings, truth=truth).save(file)
        print(f"  {name}: {time.perf_counter() - started:.0f} s", flush=True)
    return load_table(file)


def learn(bundle: Path, data: Path, folder: Path, *, without_branch: bool, most: int) -> tuple[Estimator, float]:
    """The estimator that ``dff_train schedule`` fits, and what share it explains; from the folder where it is there."""
    made = folder / "bundle"
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
    without = frozenset({"refine"}) if name == "warp" else frozenset[str]()
    folder = RESULTS / f"{bundle.name}-{name}-{digest(bundle, without)}"
    print(f"{bundle.name}, {name}: {folder}", flush=True)
    settings = EngineSettings(model=str(bundle))
    model = load_model(settings, without=without)
    parts = {title: measured(title, source, data, model, settings, folder) for title, source in MEASURED.items()}
    learned, explained = learn(bundle, data, folder, without_branch=name == "warp", most=most)
    return Study(name, parts, join_tables(list(parts.values())), learned, explained)


def draw(study: Study, bundle: Path, folder: Path) -> str:
    """The name of the plot drawn; empty without matplotlib, which is said."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        print(f'no plot: {error} (pip install -c constraints.txt -e ".[plots]")', flush=True)
        return ""
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    styles = {"fixed": "k--", "random": "k:", "oracle": "k-"}
    for name, points in curves(study).items():
        axes.plot(*zip(*points, strict=True), styles.get(name, "o-"), markersize=3, label=name)
    axes.set(xlabel="key rate", ylabel="agreement with per-frame, %", title=f"{bundle.name}, {study.name}")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    name = f"schedules_{study.name}.png"
    figure.savefig(folder / name, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return name


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then write tables and plots; 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data, laid out as docs/data.md says")
    parser.add_argument("--model", default="street", help="bundle with a segmentation head (%(default)s)")
    parser.add_argument("--only", choices=("warp", "branch"), help="one way of propagating; both where the bundle has a branch")
    parser.add_argument("--most", type=int, default=240, help="frames of each recording that the estimator learns from (%(default)s)")
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
