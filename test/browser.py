"""A real browser without a window, and without a network: what a page becomes in it, and what its console says."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Firefox cannot print the page that its scripts have made."""

NO_NETWORK = ("--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>", "--disable-background-networking")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", *NO_NETWORK)
CONSOLE = re.compile(r":CONSOLE[:(]\d+\)?\]\s*(.*)")


@dataclass(frozen=True)
class OpenedPage:
    """A page after its scripts have run."""

    dom: str
    console: list[str]
    """Everything that was logged: errors of scripts, and requests that failed."""


def open_page(path: Path, profile: Path) -> OpenedPage:
    """Open a file in the browser that is installed; skips the test where there is none. ``profile`` is a folder for its own files."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS)}")
    command = [browser, *OPTIONS, f"--user-data-dir={profile}", "--virtual-time-budget=10000", "--dump-dom", path.as_uri()]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert outcome.returncode == 0 and "<html" in outcome.stdout, outcome.stderr[-2000:]
    return OpenedPage(outcome.stdout, CONSOLE.findall(outcome.stderr))


class PlotCounter(HTMLParser):
    """Counts, within each plot's place, plotly's drawings, and the marks (points, bars, lines) in them."""

    def __init__(self) -> None:
        super().__init__()
        self.drawings: dict[str, int] = {}
        self.marks: dict[str, int] = {}
        self._place = ""
        self._depth = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        classes = values.get("class", "").split()
        if tag == "div":
            if self._depth:
                self._depth += 1
            elif "plot" in classes:
                self._place, self._depth = values["id"], 1
                self.drawings[self._place] = self.marks[self._place] = 0
        if self._depth:
            self.drawings[self._place] += tag == "svg" and "main-svg" in classes
            self.marks[self._place] += bool({"point", "js-line"} & {*classes})

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self._depth:
            self._depth -= 1
