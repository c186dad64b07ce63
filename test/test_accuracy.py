"""The ablation's script: which commands it runs, which results it keeps, and what it makes of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import accuracy
import pytest
from accuracy import Run, Runner, code_digest, main
from accuracy_report import BEGIN, END, Figures, RowFigures, better, cost_table, curve_table, figures_of, losses, merge_into, spread
from accuracy_rows import DESCRIPTION, ROOT, Measurement, Row, missing, read_description

from dff_ros.core.bundle import CARD_FILE, WEIGHTS_FILE, load_bundle, save_bundle
from dff_ros.evaluation.options import parse_arguments

CAMVID = Measurement("camvid", "a drive", "--frames $DATA/a --schedule fixed:2 --every-offset", ("miou",))
SPEED = Measurement("speed_5", "times", "--video $DATA/v.mp4 --schedule fixed:5 --baseline", ("speed",))


def content(**changes: Any) -> dict[str, Any]:
    """What dff_replay might have written."""
    return {
        "schedule": "fixed:5",
        "segmentation": {"miou_by_age": [0.6, 0.55]},
        "detection": {"map50_by_age": [0.9, 0.8]},
        "detection_delay": {"appearances": 2, "missed": 0.25, "histogram": {"-1": 1, "0": 2, "5": 1}},
        "step_ms": {"key": {"mean": 100.0}, "propagated": {"mean": 10.0}},
        "baseline": {
            "segmentation": {"miou_by_age": [0.6, 0.6]},
            "detection": {"map50_by_age": [0.9, 0.9]},
            "step_ms": {"key": {"mean": 98.0}, "propagated": {"mean": None}},
        },
        "agreement": 0.95,
        "speedup": 3.5,
        **changes,
    }


class Replays:
    """Stands in for dff_replay: notes the commands and writes ``content``; fails where a word of the command is ``failing``."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.failing = "none"

    def run(self, command: list[str], **rest: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command[3:])
        if self.failing in command:
            rest["stdout"].write("dff_replay: no such folder\n")
            return subprocess.CompletedProcess(command, 2)
        Path(command[command.index("--json") + 1]).write_text(json.dumps(content()))
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Replays:
    stand_in = Replays()
    monkeypatch.setattr(accuracy.subprocess, "run", stand_in.run)
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path / "results")
    return stand_in


# ---- the description


def test_every_command_of_the_shipped_description_is_one_that_dff_replay_takes() -> None:
    ablation = read_description(DESCRIPTION)
    assert {gives for item in ablation.measurements for gives in item.gives} == {"miou", "ap50", "delay", "speed"}
    for row in ablation.rows:
        for item in ablation.measurements:
            words = Run(row.bundles[0], row.options, item).command.split()
            options = parse_arguments([*words[1:], "--json", "o.json"])
            assert options.every_offset or options.baseline


def test_what_makes_a_bundle_that_is_not_shipped_names_a_recipe_of_ours_and_puts_the_bundle_in_its_place() -> None:
    optional = [row for row in read_description(DESCRIPTION).rows if row.made_by.startswith("dff_train")]
    names = {"light network, warp, flow trained", "half-cost network, per-frame", "light network split earlier, warp"}
    assert names <= {row.name for row in optional}
    for row in optional:
        train, export = ([*part.split(), ""] for part in row.made_by.split(" && "))
        recipes, runs = ({words[words.index(option) + 1] for words in (train, export)} for option in ("--recipe", "--run"))
        assert len(recipes) == len(runs) == 1 and (ROOT / recipes.pop()).is_file(), row.name
        assert export[export.index("--to") + 1] == row.bundles[0] == f"{runs.pop()}/bundle"
        assert row.about


def test_several_bundles_are_several_seeds(tmp_path: Path) -> None:
    file = tmp_path / "rows.yaml"
    file.write_text("measurements: {}\nrows:\n- {name: a, bundle: x}\n- {name: b, bundle: [x, y], options: --flow dis}\n")
    assert read_description(file).rows == (Row("a", ("x",)), Row("b", ("x", "y"), "--flow dis"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("- {name: a, bundle: x}\n- {name: a, bundle: y}", "a row's name should stand once, got a, a"),
        ("- {name: a}", "bundle"),
        ("- {name: a, bundle: x, colour: red}", "colour"),
        ("- {name: a", "rows.yaml: while parsing"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    file = tmp_path / "rows.yaml"
    file.write_text(f"measurements: {{}}\nrows:\n{rows}\n")
    with pytest.raises(ValueError, match=message):
        read_description(file)


# ---- running and keeping


def test_a_command_names_the_recording_the_bundle_and_the_rows_options() -> None:
    run = Run("runs/a b/bundle", "--without flow", CAMVID)
    assert run.command == "dff_replay --frames $DATA/a --schedule fixed:2 --every-offset --model 'runs/a b/bundle' --without flow"


def test_each_command_runs_once_and_finds_the_data(replays: Replays, tiny_bundle: Path) -> None:
    runner = Runner(Path("/my data"), reuse=False)
    rows = [Row("all", (str(tiny_bundle),)), Row("per-frame", (str(tiny_bundle),), per_frame=True)]
    (run,), (per_frame,) = (runner.figures(row, [CAMVID]) for row in rows)
    assert len(replays.commands) == 1
    assert replays.commands[0][:3] == ["--frames", "/my data/a", "--schedule"]
    assert (run.miou, per_frame.miou) == ([0.6, 0.55], [0.6, 0.6])


def test_results_are_kept_while_command_and_bundle_are_the_same(replays: Replays, tiny_bundle: Path, tmp_path: Path) -> None:
    card, model = load_bundle(str(tiny_bundle))
    save_bundle(tmp_path / "b", card, model)
    row = Row("all", (str(tmp_path / "b"),))

    def commands_of(row: Row, *, reuse: bool = True) -> int:
        replays.commands.clear()
        Runner(tmp_path, reuse=reuse).figures(row, [CAMVID])
        return len(replays.commands)

    assert [commands_of(row), commands_of(row), commands_of(row, reuse=False)] == [1, 0, 1]
    assert commands_of(Row("all", row.bundles, "--without refine")) == 1
    weights = tmp_path / "b" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert [commands_of(row), commands_of(row)] == [1, 0]
    card = tmp_path / "b" / CARD_FILE
    for changed, commands in (("figures: {miou: 0.7}", 0), ("ignored_labels: [10]", 1), ("input_pixels: 20000", 1)):
        card.write_text(card.read_text() + changed + "\n")  # the last of a key that stands twice counts
        assert [commands_of(row), commands_of(row)] == [commands, 0], changed


def test_results_are_not_kept_when_the_code_is_another(
    replays: Replays, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def commands_of(package: Path, **options: bool) -> int:
        monkeypatch.setattr(accuracy, "PACKAGE", package)
        replays.commands.clear()
        (figures,) = Runner(tmp_path, reuse=True).figures(Row("all", (str(tiny_bundle),)), [CAMVID], **options)
        assert bool(figures.measured) == (bool(replays.commands) or "kept\n" in capsys.readouterr().out)
        return len(replays.commands)

    packages = [tmp_path / name for name in ("first", "same", "another")]
    for package, line in zip(packages, ("a = 1", "a = 1", "a = 2"), strict=True):
        (package / "core").mkdir(parents=True)
        (package / "core" / "warp.py").write_text(line)
    (packages[1] / "notes.txt").write_text("no code")
    assert [commands_of(package) for package in packages] == [1, 0, 1]
    assert commands_of(packages[0], kept_only=True) == 0
    Runner(tmp_path, reuse=True).figures(Row("all", (str(tiny_bundle),)), [CAMVID])
    assert "camvid: measured with another code" in capsys.readouterr().out
    (tmp_path / "results").joinpath(next((tmp_path / "results").glob("*.stamp")).name).write_text("of an earlier version")
    assert commands_of(packages[0]) == 1


def test_the_code_is_every_python_file_of_the_package(tmp_path: Path) -> None:
    package, before = tmp_path / "dff_ros", set()
    for name, text in (("a.py", ""), ("b/c.py", ""), ("b/c.py", "x = 1"), ("b/d.py", "x = 1")):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
        before.add(code_digest.__wrapped__(package))
    assert len(before) == 4
    assert accuracy.PACKAGE.joinpath("core", "propagate.py").is_file()


def test_a_failed_command_is_said_and_tried_again(replays: Replays, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("all", (str(tiny_bundle),))
    replays.failing = "--baseline"
    (figures,) = Runner(Path("/data"), reuse=True).figures(row, [CAMVID, SPEED])
    assert figures.measured == {"camvid"}
    assert figures.key_ms is None
    assert "speed_5: failed with exit code 2: dff_replay: no such folder" in capsys.readouterr().out
    replays.failing = "none"
    replays.commands.clear()
    (figures,) = Runner(Path("/data"), reuse=True).figures(row, [CAMVID, SPEED])
    assert (len(replays.commands), figures.key_ms) == (1, 100.0)


def test_a_failure_leaves_no_result_of_an_earlier_time(replays: Replays, tiny_bundle: Path) -> None:
    row = Row("all", (str(tiny_bundle),))
    Runner(Path("/data"), reuse=False).figures(row, [CAMVID])
    replays.failing = "--every-offset"
    for reuse in (False, True):
        (figures,) = Runner(Path("/data"), reuse=reuse).figures(row, [CAMVID])
        assert not figures.measured


def test_a_missing_bundle_is_named_with_what_makes_it(tiny_bundle: Path) -> None:
    assert missing(Row("all", (str(tiny_bundle),))) == ""
    assert missing(Row("all", (str(tiny_bundle), "runs/none"), made_by="dff_train x")) == "no bundle runs/none (made by: dff_train x)"


def described(tmp_path: Path, bundle: Path) -> list[str]:
    """Arguments for a small ablation."""
    measurements = "".join(
        f"  {item.name}:\n    {{title: {item.title}, options: {item.options}, gives: {list(item.gives)}}}\n" for item in (CAMVID, SPEED)
    )
    names = {"per-frame": "per_frame: true", "copy": "options: --without flow", "all": "made_by: ''"}
    rows = "".join(f"- {{name: {name}, bundle: {bundle}, {more}}}\n" for name, more in names.items())
    other = "{name: other, bundle: runs/none, about: a bundle to be made, made_by: dff_train x}"
    (tmp_path / "rows.yaml").write_text(f"measurements:\n{measurements}rows:\n{rows}- {other}\n")
    return ["--data", str(tmp_path), "--rows", str(tmp_path / "rows.yaml"), "--docs", str(tmp_path / "docs")]


def test_the_document_has_a_row_for_each_bundle_that_is_there(
    replays: Replays, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*described(tmp_path, tiny_bundle), "--teacher", "runs/none"]) == 0
    written = (tmp_path / "docs" / "accuracy.md").read_text()
    assert "| per-frame | 0.600 | 0.600 | +0.000 | +0.000 |" in written
    assert "| all | 0.600 | 0.550 | +0.025 | +0.050 |" in written
    assert "| all | 95.0 | - | - | - | 100.0 | 10.0 | 0.10 | 3.5 |" in written
    assert f"`dff_replay $CAMVID --model {tiny_bundle} --without flow --json out.json`" in written
    assert 'CAMVID="--frames $DATA/a --schedule fixed:2 --every-offset"' in written
    figures, _, absent = written.partition("### Not measured")
    assert "| other |" not in figures
    assert "| other | a bundle to be made | `dff_train x` |" in absent
    printed = capsys.readouterr().out
    assert "teacher: no bundle runs/none; losses are taken against each bundle's own per-frame" in printed
    assert "skipped: no bundle runs/none" in printed


def test_only_one_row_runs_and_the_others_stay(replays: Replays, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = described(tmp_path, tiny_bundle)
    assert main([*arguments, "--only", "copy"]) == 0
    assert len(replays.commands) == 2
    assert "| all |" not in (tmp_path / "docs" / "accuracy.md").read_text()
    assert main(arguments) == 0
    replays.commands.clear()
    assert main([*arguments, "--only", "copy"]) == 0
    assert len(replays.commands) == 2
    assert "| all |" in (tmp_path / "docs" / "accuracy.md").read_text()


def test_what_failed_is_summed_up(replays: Replays, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replays.failing = "--baseline"
    assert main(described(tmp_path, tiny_bundle)) == 1
    assert "accuracy: all lacks speed_5" in capsys.readouterr().err


def test_a_row_is_measured_with_the_bundle_given_for_it(replays: Replays, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = described(tmp_path, tiny_bundle)
    assert main([*arguments, "--bundle", f"other={tiny_bundle}", "--bundle", "copy=runs/a=b"]) == 0
    written = (tmp_path / "docs" / "accuracy.md").read_text()
    assert f"| other | a bundle to be made: `dff_replay $CAMVID --model {tiny_bundle} --json out.json`; made by `dff_train x` |" in written
    assert "| copy | - | - |" in written.partition("### Not measured")[2]
    assert main([*arguments, "--bundle", f"other={tiny_bundle}", "--bundle", f"other={tiny_bundle}"]) == 0
    assert f"; other seeds: {tiny_bundle}" in (tmp_path / "docs" / "accuracy.md").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "alll"], "rows are per-frame; copy; all; other; got alll"),
        (["--bundle", "alll=runs/x"], "rows are per-frame; copy; all; other; got alll"),
    ],
)
def test_bad_input_is_refused(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    assert main([*described(tmp_path, tiny_bundle), *more]) == 2
    assert f"accuracy: {message}" in capsys.readouterr().err


# ---- figures


def test_figures_are_read_of_the_run_or_of_its_baseline() -> None:
    results = [("camvid", ["miou"], content()), ("pets", ["ap50", "delay"], content()), ("speed", ["speed"], content())]
    run, per_frame = (figures_of(results, per_frame=per_frame) for per_frame in (False, True))
    assert (run.miou, run.ap50, run.agreement) == ([0.6, 0.55], {"pets": [0.9, 0.8]}, 0.95)
    assert (run.key_ms, run.propagated_ms, run.cost_ratio, run.speedup) == (100.0, 10.0, 0.1, {5: 3.5})
    assert (per_frame.miou, per_frame.ap50, per_frame.agreement) == ([0.6, 0.6], {"pets": [0.9, 0.9]}, 1.0)
    assert (per_frame.key_ms, per_frame.propagated_ms, per_frame.cost_ratio, per_frame.speedup) == (98.0, None, None, {5: 1.0})


def test_delays_of_several_recordings_are_pooled() -> None:
    nothing = {"appearances": 0, "missed": None, "histogram": {}}
    delays = [content(), content(detection_delay=nothing), content()]
    figures = figures_of([(str(index), ["delay"], item) for index, item in enumerate(delays)], per_frame=False)
    assert (figures.delays, figures.appearances, figures.missed) == ({-1: 2, 0: 4, 5: 2}, 4, 2.0)
    (head, _, line) = cost_table([RowFigures("all", ["a"], "", "", False, [figures])])
    assert "new objects: mean frames late | p90 | missed %" in head
    assert "| +1.00 | +5.0 | 25.0 |" in line


def test_losses_are_taken_against_the_better_per_frame() -> None:
    assert better([0.6, 0.5], [0.62, 0.62]) == 0.62
    assert better([0.6, 0.5], [0.55, 0.55]) == 0.6
    assert better([0.6, 0.5], None) == 0.6
    assert better(None, None) is None
    assert losses([0.6, 0.5, 0.65], 0.62, 2) == pytest.approx([0.02, 0.12])
    assert losses([0.6, None, 0.65], 0.62, 3) == pytest.approx([0.02, -0.03])


def test_a_spread_is_half_the_range() -> None:
    assert spread([0.6, 0.62, 0.604], 3) == "0.608 ± 0.010"
    assert spread([0.6], 3) == "0.600"
    assert spread([None], 3) == "-"
    assert spread([-0.0001], 3, signed=True) == "+0.000"
    assert spread([0.012], 3, signed=True) == "+0.012"
    assert spread([0.9512], 1, scale=100) == "95.1"


def test_a_rows_losses_are_means_over_ages_and_spread_over_seeds() -> None:
    """Two seeds, whose per-frame scores are .60 and .62; the teacher's is .61."""
    curves = [[0.60, 0.60, 0.59, 0.59, 0.57, 0.55], [0.62, 0.62, 0.61, 0.61, 0.59, 0.57]]
    row = RowFigures("all", ["a", "b"], "", "", False, [Figures(miou=curve) for curve in curves])
    head, _, line = curve_table([row], lambda figures: figures.miou, [0.61] * 6)
    assert head == "| age | 0 | 1 | 2 | 3 | 4 | 5 | loss 0-4 | loss 0-5 | worst |"
    # .61 less the first curve: .01 .01 .02 .02 .04 .06; .62 less the second: 0 0 .01 .01 .03 .05
    by_age, loss = "0.610 | 0.610 | 0.600 | 0.600 | 0.580 | 0.560", "+0.015 ± 0.005 | +0.022 ± 0.005 | +0.055 ± 0.005"
    assert line == f"| all | {by_age} | {loss} |"


def test_rows_without_the_figure_are_left_out() -> None:
    rows = [RowFigures("all", ["a"], "", "", False, [Figures()])]
    assert curve_table(rows, lambda figures: figures.miou, None) == []
    assert cost_table(rows)[2] == "| all | - | - | - | - | - | - | - |"


def test_figures_replace_what_stands_between_the_marks(tmp_path: Path) -> None:
    file = tmp_path / "accuracy.md"
    file.write_text(f"# Accuracy\n\n{BEGIN}\nold\n{END}\n\nmore\n")
    for text in ("first", "second"):
        merge_into(file, text)
    assert file.read_text() == f"# Accuracy\n\n{BEGIN}\n\nsecond\n\n{END}\n\nmore\n"
    file.write_text("# Accuracy\n")
    with pytest.raises(ValueError, match="should have the lines"):
        merge_into(file, "text")


# ---- plots


def test_accuracy_over_time_follows_the_interval() -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra plots")
    from accuracy_plots import over_time

    assert over_time([0.6, 0.5, 0.4], 90.0, 9.0) == [(90.0, 0.6), (49.5, pytest.approx(0.55)), (36.0, pytest.approx(0.5))]


def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra plots")
    from accuracy_plots import draw

    seeds = [Figures(miou=[score, score - 0.05, None], key_ms=90.0, propagated_ms=9.0) for score in (0.6, 0.61)]
    rows = [RowFigures("all", ["a", "b"], "", "", False, seeds), RowFigures("none", ["a"], "", "", False, [Figures()])]
    assert draw(rows, tmp_path) == ["accuracy_by_age.png", "accuracy_by_time.png"]
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("accuracy_by_age.png", "accuracy_by_time.png"))
    assert draw(rows[1:], tmp_path / "none") == []
