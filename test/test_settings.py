"""Settings: every field says what it is, and refuses what it is not."""

from __future__ import annotations

from dataclasses import fields

import pytest

from dff_ros.engine.settings import EngineSettings


def test_every_setting_has_a_description_and_a_default_that_it_accepts() -> None:
    for item in fields(EngineSettings):
        assert item.metadata["description"], item.name
    EngineSettings()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"score_threshold": 1.5}, r"score_threshold should lie in 0.05..1.0, got 1.5"),
        ({"score_threshold": float("nan")}, "score_threshold should lie in"),
        ({"threads": -1}, "threads should lie in 0..256, got -1"),
        ({"threads": True}, "threads should be of type int, got True"),
        ({"device": "tpu"}, "device should be one of auto, cpu, cuda, got 'tpu'"),
        ({"segmentation": 1}, "segmentation should be of type bool, got 1"),
        ({"colour": "red"}, "unknown settings colour; known are"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_what_came(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineSettings().with_values(values)


def test_whole_numbers_are_fine_where_fractions_are() -> None:
    assert EngineSettings().with_values({"max_gap": 2}).max_gap == 2
