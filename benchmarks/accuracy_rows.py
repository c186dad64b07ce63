"""What the ablation measures: the rows and recordings of accuracy.yaml, and the bundles that the rows name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dff_ros.core.bundle import WEIGHTS_FILE, BundleError, find_bundle

ROOT = Path(__file__).resolve().parent.parent
DESCRIPTION = Path(__file__).with_name("accuracy.yaml")


@dataclass(frozen=True)
class Measurement:
    """One recording and how it is replayed; ``gives`` says which figures are read from it: miou, ap50, delay or speed."""

    name: str
    title: str
    options: str
    gives: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One line of the tables. Several ``bundles`` are the same recipe with other seeds; ``per_frame`` reads the baseline's figures.

    ``about`` says what it is of a bundle that may be missing, and ``made_by`` the command that makes one that is not shipped.
    """

    name: str
    bundles: tuple[str, ...]
    options: str = ""
    per_frame: bool = False
    about: str = ""
    made_by: str = ""


@dataclass(frozen=True)
class Ablation:
    """What accuracy.yaml says."""

    measurements: tuple[Measurement, ...]
    rows: tuple[Row, ...]
    teacher: str = ""


def read_description(file: Path) -> Ablation:
    """Rows and measurements; raises ValueError with what is wrong."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        measurements = tuple(
            Measurement(name, item["title"], " ".join(item["options"].split()), tuple(item["gives"]))
            for name, item in content["measurements"].items()
        )
        rows = tuple(_row(**item) for item in content["rows"])
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: {type(error).__name__} {error}") from error
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"{file}: a row's name should stand once, got {', '.join(names)}")
    return Ablation(measurements, rows, content.get("teacher") or "")


def _row(name: str, bundle: str | Sequence[str], **more: Any) -> Row:
    return Row(name, (bundle,) if isinstance(bundle, str) else tuple(bundle), **more)


def with_bundles(ablation: Ablation, given: Sequence[tuple[str, str]]) -> Ablation:
    """The ablation with other bundles for the rows named in ``given``; raises ValueError where there is no such row."""
    bundles: dict[str, tuple[str, ...]] = {}
    for row, bundle in given:
        bundles[row] = (*bundles.get(row, ()), bundle)
    check_rows(ablation, bundles)
    rows = tuple(replace(row, bundles=bundles.get(row.name, row.bundles)) for row in ablation.rows)
    return replace(ablation, rows=rows)


def check_rows(ablation: Ablation, names: Iterable[str]) -> None:
    known = [row.name for row in ablation.rows]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"rows are {'; '.join(known)}; got {'; '.join(unknown)}")


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
