"""The key decisions of a live run made once more: key frames at the same frames, and those made aside in use from the same frames on.

What is known of the live run is its ``frame_info``. A frame without one was dropped. One that says ``key`` was made a key frame at once; a
propagated one with a reason had its key made aside; and where the key's age falls to the distance of that frame, that key took over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dff_ros.engine.frame_pair import Decision, FramePair
from dff_ros.engine.key_worker import DelayedKeyWorker
from dff_ros.engine.loading import LoadedModel
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.step_times import Timing
from dff_ros.recording.frame_info import FrameInfo

SCHEDULE = "recorded"
"""What reports call it."""

_ROUNDED_NS = 1000
"""frame_info tells a key's age to the microsecond."""


@dataclass(frozen=True)
class Decided:
    """What the live run decided at one frame that it answered."""

    info: FrameInfo
    takes_over: bool
    """The key frame made aside is in use from this frame on."""
    known: bool
    """The frame that the key was made of is in the record: where it is not, the answer cannot be made again."""


@dataclass(frozen=True)
class _Key:
    """A key frame's place among the frames answered."""

    index: int
    stamp: int

    def is_of(self, info: FrameInfo, index: int) -> bool:
        """Whether frame ``index`` says that this is its key."""
        age_ns = round(info.key_age_ms * 1e6)
        return info.key_age_frames == index - self.index and abs(info.stamp - self.stamp - age_ns) <= _ROUNDED_NS


def decisions(infos: Sequence[FrameInfo]) -> list[Decided]:
    """Follow the keys from frame to frame, in the order of the live run.

    A frame whose key is neither the one in use nor the one ordered shows that messages are missing between them, or before the first: from
    there to the next key frame that is made at once nothing is known.
    """
    decided: list[Decided] = []
    in_use: _Key | None = None
    ordered: _Key | None = None
    for index, info in enumerate(infos):
        takes_over = in_use is not None and ordered is not None and ordered.is_of(info, index)
        if info.is_key:
            in_use, ordered = _Key(index, info.stamp), None
        elif takes_over:
            in_use, ordered = ordered, None
        elif in_use is None or not in_use.is_of(info, index) or (info.reason and ordered is not None):
            in_use = ordered = None
        if info.reason and not info.is_key and in_use is not None:
            ordered = _Key(index, info.stamp)
        decided.append(Decided(info, takes_over, known=in_use is not None))
    return decided


class RecordedKeys:
    """The decisions of a live run, as a schedule that has to be told with ``turn_to`` which frame comes next."""

    def __init__(self, infos: Sequence[FrameInfo]) -> None:
        """Raises ValueError for a record with two frames of one stamp, or without a key frame to begin with."""
        self._decisions = decisions(infos)
        self._index = {info.stamp: index for index, info in enumerate(infos)}
        self._last: int | None = None
        self._begun = False
        self.replayed = 0
        """Frames that the live run answered and the replay answers too."""
        self.unknown = 0
        """Frames that the live run answered and the replay does not, as their key frame is not known."""
        if len(self._index) < len(infos):
            raise ValueError("frame_info should have each stamp once, got some twice: record one run, not a recording played in a loop")
        if not any(info.is_key for info in infos):
            expected = "frame_info should hold a frame of kind key to begin with"
            remedy = "begin to record before the node gets images, or call ~/reset while recording"
            raise ValueError(f"{expected}, got {len(infos)} propagated ones: {remedy}")

    def turn_to(self, stamp: int) -> bool:
        """Go on to the recording's next frame; False where it is not to be answered: dropped live, or its key frame not known.

        Raises ValueError where the live run answered others in between, or in another order: the recording is not what it saw.
        """
        index = self._index.get(stamp)
        if index is None or index == self._last:  # of two frames with one stamp the node skips the second
            return False
        if self._last is not None and index != self._last + 1:
            expected = self._decisions[self._last + 1].info.stamp if self._last + 1 < len(self._decisions) else "none"
            raise ValueError(f"frames should be those that the live run answered, in its order: got stamp {stamp}, {expected} was next")
        self._last = index
        decided = self._decisions[index]
        self._begun = self._begun or decided.info.is_key
        answerable = self._begun and decided.known
        self.replayed += answerable
        self.unknown += not answerable
        return answerable

    def is_key_frame(self, pair: FramePair) -> Decision:
        """As at this frame in the live run."""
        info = self._current.info
        return Decision(info.is_key or bool(info.reason), info.reason, info.disagreement, hard=info.is_key)

    def reset(self) -> None:
        """The record stays what it is."""

    @property
    def takes_over(self) -> bool:
        """Whether the key frame made aside is in use from this frame on."""
        return self._current.takes_over

    @property
    def _current(self) -> Decided:
        assert self._last is not None, "turn_to comes first"
        return self._decisions[self._last]

    def outcome(self) -> str:
        """One line on what was replayed. Raises ValueError where nothing was."""
        if not self.replayed:
            first, last = self._decisions[0].info.stamp, self._decisions[-1].info.stamp
            reason = "their key frames come before it" if self.unknown else f"frame_info goes from stamp {first} to {last}"
            raise ValueError(f"the recording should hold frames that the live run answered, got none that can be answered again: {reason}")
        left_out = f", {self.unknown} left out as their key frames are not in frame_info" if self.unknown else ""
        return f"{self.replayed} of {len(self._decisions)} frames that the live run answered{left_out}"


class RecordedKeyWorker(DelayedKeyWorker):
    """Ready when the live run's was."""

    def __init__(self, model: LoadedModel, keys: RecordedKeys, timing: Timing | None = None) -> None:
        super().__init__(model, 1, timing=timing)
        self._keys = keys

    def finished(self, frames: int) -> bool:
        """As recorded, whatever the count of ``frames``, which :func:`decisions` has compared."""
        return self._keys.takes_over


def as_recorded(settings: EngineSettings) -> EngineSettings:
    """Settings with which the record alone decides: both kinds of key frames can be made, and no limit on age or gap makes any."""
    return settings.with_values({"schedule": EngineSettings.schedule, "key_frames": "aside", "max_key_age": 0.0, "max_gap": 0.0})
