"""Gathers what the HTML report of a replay shows, while the replay runs: a row of figures for every frame, and the worst frames."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from dff_ros import __version__
from dff_ros.core.bundle import Card
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.observer import AnsweredFrame, Observer
from dff_ros.evaluation.outputs.trace import TracedFrame, traced
from dff_ros.evaluation.outputs.worst_frames import WorstFrames
from dff_ros.evaluation.score_report import Report
from dff_ros.recording.frames import Recording, StampedFrame
from dff_ros.recording.opening import notes_of
from dff_ros.report.frame_table import FrameTable

APART = 10
"""Least distance of two worst frames, where the schedule has no interval in frames."""


class HtmlReport(Observer):
    """Looks on, and writes the page at the end. Memory grows by about a hundred bytes a frame."""

    def __init__(self, path: Path, *, card: Card, settings: EngineSettings, interval: int | None = None) -> None:
        """``interval`` is l of ``fixed:l``, None for other schedules. Raises ValueError where the libraries of the page are missing."""
        require_libraries()
        self._path = path
        self._card = card
        self._settings = settings
        self._frames = FrameTable()
        apart = interval if interval is not None and interval > 1 else APART
        self._worst = WorstFrames(card, apart=apart, score_threshold=settings.score_threshold)

    def add(self, answered: AnsweredFrame) -> None:
        """Take one answered frame."""
        self._frames.add(vars(traced(answered)))
        self._worst.add(answered)

    def dropped(self, item: StampedFrame) -> None:
        """Take one that was dropped."""
        self._frames.add(vars(TracedFrame(index=item.index, stamp=item.stamp, kind="dropped")))

    def write(self, report: Report, recording: Recording, *, arguments: Sequence[str] | None) -> None:
        """Write the page; ``arguments`` is the command line, None for the process's own. Raises OSError where that is not possible."""
        from dff_ros.report.page import About, Setting, write_page  # not before: plotly is optional

        values = [(item, getattr(self._settings, item.name)) for item in fields(self._settings)]
        settings = [Setting(item.name, value, value != item.default, item.metadata["description"]) for item, value in values]
        card = self._card
        about = About(
            recording=recording.description,
            notes=notes_of(recording),
            model=card.name,
            command=shlex.join(["dff_replay", *(sys.argv[1:] if arguments is None else arguments)]),
            settings=settings,
            label_colours=dict(zip(card.segmentation_classes, card.palette, strict=False)),
            version=__version__,
            rate=recording.rate,
        )
        write_page(self._path, report, self._frames, self._worst.frames(), about, rule=self._worst.rule)


def require_libraries() -> None:
    """Raises ValueError where plotly or Jinja2 cannot be imported, before the work is done in vain."""
    try:
        importlib.import_module("plotly")
        importlib.import_module("jinja2")
    except ModuleNotFoundError as error:
        raise ValueError(f"--html needs {error.name}, which is not installed: pip install 'plotly>=5,<8' 'Jinja2>=3,<4'") from error
