"""One way to open any recording."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dff_ros.recording.drive import GeneratedDrive
from dff_ros.recording.frames import FrameFolder, RecordingError
from dff_ros.recording.opening import open_recording


def test_each_kind_of_input_is_opened_by_its_name(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((16, 16, 3), np.uint8))
    folder = open_recording(frames=tmp_path, rate=5.0)
    assert isinstance(folder, FrameFolder) and folder.rate == 5.0
    drive = open_recording(drive=3, seed=4)
    assert isinstance(drive, GeneratedDrive) and len(drive) == 3 and drive.rate == 15.0


@pytest.mark.parametrize("named", [{}, {"video": "", "drive": 0}, {"video": "a.mp4", "bag": "b"}])
def test_nothing_and_several_are_refused_with_what_was_given(named: dict[str, object]) -> None:
    with pytest.raises(RecordingError, match="exactly one of video, frames, bag and drive should be given, got (none|video, bag)"):
        open_recording(**named)  # type: ignore[arg-type]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    for kind in ("video", "frames", "bag"):
        with pytest.raises(RecordingError, match="nowhere"):
            open_recording(**{kind: tmp_path / "nowhere"})
