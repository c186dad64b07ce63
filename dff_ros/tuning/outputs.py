"""What tuning leaves behind: the node's parameters with their reasons, all figures as JSON, and the recommendation in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import yaml

from dff_ros import __version__
from dff_ros.evaluation.fingerprint import cpu_name, versions
from dff_ros.evaluation.report import write_report
from dff_ros.tuning.candidates import Candidate
from dff_ros.tuning.figures import Figures
from dff_ros.tuning.losses import __doc__ as loss_definition
from dff_ros.tuning.recommendation import Tried, reasons, rule
from dff_ros.tuning.tune import Tuned

PARAMS, FIGURES, PAGE = "params.yaml", "tune.json", "report.html"


def write_outputs(folder: Path, tuned: Tuned, extra: dict[str, object], *, command: str) -> list[Path]:
    """Write parameters, figures and, where the libraries for it are installed, the page; returns the files.

    ``extra`` are parameters that the user gave and that belong to the recommendation, ``command`` is the command line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters, found = parameter_file(tuned, extra), as_json(tuned)
    (folder / PARAMS).write_text(parameters, encoding="utf-8")
    write_report(folder / FIGURES, found)
    try:
        from dff_ros.report.tuning_page import write_tuning_page  # not before: plotly is optional
    except ModuleNotFoundError:
        return [folder / PARAMS, folder / FIGURES]
    write_tuning_page(folder / PAGE, found, parameters=parameters, command=command)
    return [folder / PARAMS, folder / FIGURES, folder / PAGE]


def parameter_file(tuned: Tuned, extra: dict[str, object]) -> str:
    """For ``dff_node --ros-args --params-file`` and ``dff_replay --params``."""
    values = {**node_parameters(tuned.recommended.candidate), **extra}
    body = yaml.safe_dump({"/**": {"ros__parameters": values}}, sort_keys=False, allow_unicode=True)
    comments = [f"Written by dff_tune {__version__}: {' '.join(tuned.recording.split())}", *words(tuned)]
    return "".join(f"# {line}\n" for line in comments) + body


def node_parameters(candidate: Candidate) -> dict[str, object]:
    """The candidate's parameters as they hold wherever the node is started: the folder of a bundle in full."""
    values = dict(candidate.parameters)
    model = str(values["model"])
    if os.path.isdir(model) and os.sep in model:
        values["model"] = str(Path(model).resolve())
    return values


def words(tuned: Tuned) -> list[str]:
    """The recommendation, what it promises and why; a line each."""
    chosen = tuned.recommended
    lines = [f"{chosen.candidate.name}: {rule(tuned.goal)}."]
    run = sum(one.verified is not None for one in tuned.tried)
    nothing = f"NONE OF THE {run} THAT WERE RUN" if run else "NOTHING"
    if not tuned.reached:
        missed = f"misses it {tuned.goal.excess(chosen.figures):.2f} times over"
        lines.append(f"{nothing} REACHES THE TARGET: this comes nearest, and {missed}.")
    if not tuned.goal.targets and not tuned.goal.keeps_up(chosen.figures):
        lines.append(f"{nothing} KEEPS UP WITH THE RECORDING: this comes nearest.")
    lines.append(promise(chosen, 1e3 / tuned.goal.interval_ms))
    lines += reasons(chosen, tuned.tried, tuned.goal)
    if tuned.interrupted:
        wanted = sum(after - first for first, after in tuned.segments)
        lines.append(f"Interrupted: {tuned.looked_at} of {wanted} frames had been looked at.")
    return lines


def promise(chosen: Tried, rate: float) -> str:
    """The figures of the recommendation."""
    figures = chosen.figures
    how = "run by the clock on this machine" if chosen.verified is not None else "simulated, not yet run"
    return (
        f"Promise ({how}, {figures.frames} frames at {rate:.3g} Hz): loss {points(figures)}; latency p50 {figures.p50_ms:.1f} ms, "
        f"p95 {figures.p95_ms:.1f} ms; {figures.key_rate:.1%} key frames; {figures.dropped} frames dropped."
    )


def points(figures: Figures) -> str:
    """The loss, with its tasks."""
    parts = [("segmentation", figures.losses.segmentation), ("detection", figures.losses.detection)]
    named = ", ".join(f"{name} {100 * loss:.2f}" for name, loss in parts if loss is not None)
    return f"{100 * figures.loss:.2f} points ({named})"


def as_json(tuned: Tuned) -> dict[str, Any]:
    """Everything that was found."""
    ahead = {one.candidate.name for one in tuned.front}
    return {
        "recording": tuned.recording,
        "frames": tuned.total,
        "frames_looked_at": tuned.looked_at,
        "segments": [[first, after - 1] for first, after in tuned.segments],
        "interrupted": tuned.interrupted,
        "frame_interval_ms": tuned.goal.interval_ms,
        "targets": dict(tuned.goal.targets),
        "loss": " ".join((loss_definition or "").split()),
        "recommended": tuned.recommended.candidate.name,
        "target_reached": tuned.reached if tuned.goal.targets else None,
        "rule": rule(tuned.goal),
        "reasons": words(tuned),
        "parameters": node_parameters(tuned.recommended.candidate),
        "promise": tuned.recommended.figures.as_json(),
        "front": [one.candidate.name for one in tuned.front],
        "candidates": [candidate_json(one, on_front=one.candidate.name in ahead) for one in tuned.tried],
        "step_ms": {
            name: {
                f"{'adaptive' if adaptive else 'fixed'}, {'aside' if aside else 'blocking'}": steps.as_json()
                for (adaptive, aside), steps in times.items()
            }
            for name, times in tuned.step_times.items()
        },
        "versions": versions(),
        "machine": {"cpu": cpu_name(), "threads": torch.get_num_threads()},
    }


def candidate_json(one: Tried, *, on_front: bool) -> dict[str, Any]:
    """One candidate with its figures."""
    return {
        "name": one.candidate.name,
        "parameters": node_parameters(one.candidate),
        "on_front": on_front,
        "simulated": one.simulated.as_json(),
        "verified": None if one.verified is None else one.verified.as_json(),
    }
