"""What the node says: rclpy takes one severity for each line of code that logs, so what may be said in two ways has two lines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import rclpy.logging

from dff_ros.engine.loading import load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.node import lifecycle_node
from dff_ros.node.camera import ThrottledLog


@pytest.mark.parametrize("levels", [("warning", "error"), ("error", "warning")])
def test_an_error_may_follow_a_warning(levels: tuple[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    log = ThrottledLog(rclpy.logging.get_logger("camera"))
    for level in levels:
        log(level, f"{level} of {levels}")
    said = _without_times(capfd.readouterr().err)
    assert f"[WARN] [camera]: warning of {levels}" in said and f"[ERROR] [camera]: error of {levels}" in said


def test_a_node_that_is_configured_again_may_find_its_machine_slower(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    settings, logger = EngineSettings(model=str(tiny_bundle), device="cpu"), rclpy.logging.get_logger("node")
    node = SimpleNamespace(get_logger=lambda: logger, _engine_settings=settings, _settings=SimpleNamespace(report_cost=True))
    for ratio in (0.1, 0.9, 0.2):
        cost = SimpleNamespace(cost_ratio=ratio, advice=f"cost ratio {ratio}")
        monkeypatch.setattr(lifecycle_node, "measure_cost", lambda *_, cost=cost: cost)
        lifecycle_node.DeepFeatureFlowNode._report_model(node, load_model(settings))  # type: ignore[arg-type]
    said = _without_times(capfd.readouterr().err)
    assert "[INFO] [node]: cost ratio 0.1" in said and "[WARN] [node]: cost ratio 0.9" in said and "[INFO] [node]: cost ratio 0.2" in said


def _without_times(lines: str) -> str:
    """Of ``[INFO] [123.4] [name]: text`` all but the time."""
    return "\n".join(" ".join(word for word in line.split(" ") if not word[1:2].isdigit()) for line in lines.splitlines())
