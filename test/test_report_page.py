"""``dff_replay --html``: one page that a browser shows without a network, and in which nothing of the user's becomes code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("plotly", reason="plotly is not installed")

from browser import PlotCounter, open_page
from report_data import frame_table, report, times, unmeasured

from dff_ros.evaluation.replay import main
from dff_ros.report.frame_table import FrameTable
from dff_ros.report.page import About, Setting, render
from dff_ros.report.pictures import Picture, WorstFrame

EVIL = "<script>alert('x')</script>&\"</style>"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


def about(**changes: Any) -> About:
    values: dict[str, Any] = {
        "recording": "video drive.mp4 at 10 Hz",
        "notes": [],
        "model": "street",
        "command": "dff_replay --video drive.mp4",
        "settings": [Setting("schedule", "fixed:4", True, "when to compute a key frame")],
        "label_colours": {"road": (128, 64, 128)},
        "version": "0.1.0",
    }
    return About(**{**values, **changes})


def page(figures: dict[str, Any], frames: FrameTable, worst: list[WorstFrame] | None = None, **changes: Any) -> str:
    return render(figures, frames, worst or [], about(**changes), rule="the rule")


def own_part(text: str) -> str:
    """The page without plotly's script."""
    scripts = sorted(re.findall(r"<script>.*?</script>", text, re.DOTALL), key=len)
    return text.replace(scripts[-1], "")


def counted(dom: str) -> PlotCounter:
    counter = PlotCounter()
    counter.feed(own_part(dom))
    return counter


@pytest.fixture(scope="module")
def replayed(refined_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a real replay of a generated drive."""
    folder = tmp_path_factory.mktemp("report")
    how = ["--drive", "9", "--model", str(refined_bundle), "--schedule", "fixed:5", "--device", "cpu", "--baseline"]
    assert main([*how, "--json", str(folder / "report.json"), "--html", str(folder / "report.html")]) == 0
    return folder / "report.html"


def test_a_browser_draws_every_plot_and_has_nothing_to_complain_of(replayed: Path, tmp_path: Path) -> None:
    opened = open_page(replayed, tmp_path)
    assert opened.console == []
    counter = counted(opened.dom)
    names = ("accuracy-miou", "accuracy-ap50", "times", "timeline", "age-miou", "age-ap50", "age-agreement")
    assert set(counter.marks) == {f"plot-{name}" for name in names}
    assert all(counter.drawings.values()) and all(counter.marks.values()), counter.marks


def test_a_broken_page_would_be_noticed(replayed: Path, tmp_path: Path) -> None:
    """Guards the test above: errors and requests to the network reach its list, and plots that are not drawn are not counted."""
    broken = tmp_path / "broken.html"
    text = replayed.read_text().replace("Plotly.newPlot(place", "Plotly.newPlod(place")
    broken.write_text(text.replace("</body>", '<img src="http://127.0.0.1:9/x.png"></body>'))
    opened = open_page(broken, tmp_path / "profile")
    assert any("newPlod" in line for line in opened.console)
    assert any("Content Security Policy" in line for line in opened.console)
    assert not any(counted(opened.dom).drawings.values())


def test_nothing_of_the_users_becomes_code_and_a_long_recording_opens(tmp_path: Path) -> None:
    segmentation = {"miou": 0.5, "iou": {EVIL: 0.5}, "pixels": {EVIL: 3}, "miou_by_age": [0.5, 0.4]}
    figures = report(frames=20_000, segmentation=segmentation, schedule=EVIL, provenance={EVIL: EVIL})
    worst = [WorstFrame(EVIL, EVIL, [Picture(EVIL, EVIL, PIXEL)])]
    named = {"recording": EVIL, "notes": [EVIL], "model": EVIL, "command": EVIL, "label_colours": {EVIL: (1, 2, 3)}}
    text = page(figures, frame_table(20_000, interval=2, reason=EVIL), worst, **named)
    assert "<script>alert" not in text and own_part(text).count("</script>") == own_part(text).count("<script")
    path = tmp_path / "page.html"
    path.write_text(text)
    assert path.stat().st_size < 9_000_000
    opened = open_page(path, tmp_path / "profile")
    marks = counted(opened.dom).marks
    assert opened.console == [] and all(marks.values()) and marks["plot-timeline"] > 1000


def test_the_page_of_a_replay_holds_everything(replayed: Path) -> None:
    text = replayed.read_text()
    own = own_part(text)
    assert not re.search(r"""\b(src|href)=(?!"data:)""", own)
    assert "url(" not in own and "@import" not in own
    assert own.count("<img ") == own.count(" alt=") > 0
    assert "generated drive 0, 9 frames" in own and "--schedule fixed:5" in own
    assert all('scope="' in cell for cell in re.findall(r"<th\b[^>]*>", own))


def test_what_was_not_measured_is_admitted() -> None:
    text = own_part(page(unmeasured(), FrameTable()))
    for section in ("accuracy", "age", "classes", "worst"):
        (body,) = re.findall(rf'<section id="{section}">(.*?)</section>', text, re.DOTALL)
        assert 'class="none"' in body, section


def test_sections_of_other_modes_are_shown_where_they_are_there() -> None:
    provenance = {"hash": "abc123", "used": {"schedule": "fixed:4", "baseline": True}, "versions": {"torch": "2.13"}}
    clock = {"drops": {"count": 3, "rate": 0.075}, "streaming": {"miou": 0.5123, "lateness_ms": times(50.0)}}
    baseline = {**report()["baseline"], "streaming": {"miou": 0.4}, "latency_ms": {"all": times(200.0)}}
    text = page(report(**clock, latency_ms={"all": times(60.0)}, baseline=baseline, provenance=provenance), frame_table())
    for name, value in {"hash": "abc123", "versions torch": "2.13", "used baseline": "yes"}.items():
        assert f'<th scope="row">{name}</th><td>{value}</td>' in text
    assert "used schedule" not in text  # it has its place among the settings
    live = {"frames dropped": ("7.5%", "–"), "mIoU of what is known": ("0.512", "0.400"), "latency, mean, ms": ("60.0", "200.0")}
    for name, (run, own) in live.items():
        assert f'<th scope="row">{name}</th><td>{run}</td><td>{own}</td>' in text
    assert "mIoU over mean latency: per-frame 0.400 at 200 ms; fixed:4 0.512 at 60.0 ms." in text
    assert "lateness of what is known, p95, ms" in text
    lock_step = page(report(drops={"count": None, "rate": None}, streaming={"miou": None}, provenance=None), frame_table())
    assert 'id="live"' not in lock_step and 'id="motion"' not in lock_step


def test_the_rate_of_a_recording_stands_in_for_stamps() -> None:
    assert "40 frames, 4.0 s at 10 Hz" in page(report(every_offset=True), FrameTable(), rate=10.0)


def test_scores_by_motion_are_shown_where_they_are_there() -> None:
    groups = {"slow": 0.5, "medium": None, "fast": 0.25}
    objects = {"boxes": {"slow": 0, "medium": 0, "fast": 7}, "map50": {"slow": None, "medium": None, "fast": 0.125}, "baseline_map50": None}
    motion = {"frames": {"slow": 30, "medium": 0, "fast": 10}, "miou": groups, "baseline_miou": groups, "map50": None, "objects": objects}
    (body,) = re.findall(r'<section id="motion">(.*?)</section>', page(report(by_motion=motion), frame_table()), re.DOTALL)
    assert re.findall(r'<th scope="row">(\w+)</th><td>([0-9.]+)</td>', body) == [("slow", "0.500"), ("fast", "0.250"), ("fast", "0.125")]


def test_without_plotly_one_line_says_what_to_install(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    arguments = ["--drive", "3", "--model", str(tiny_bundle), "--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    assert main(arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("dff_replay: --html needs plotly, which is not installed: pip install")
    assert not (tmp_path / "a.json").exists()
