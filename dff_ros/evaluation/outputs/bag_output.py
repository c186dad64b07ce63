"""A bag of what the live node would have published, with the stamps of the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from dff_ros.core.bundle import Card
from dff_ros.core.results import Detections
from dff_ros.engine.stream import FrameResult
from dff_ros.evaluation.observer import AnsweredFrame, Observer
from dff_ros.image_encoding import Frame
from dff_ros.message_fields import caption, centre_and_size, frame_info_values, label_names
from dff_ros.overlay import OVERLAY_JPEG_QUALITY, draw_results
from dff_ros.recording.bag_types import DETECTIONS, DIAGNOSTICS, LABEL_INFO
from dff_ros.recording.bags import BagWriter

NODE = "dff"
"""Name of the node whose topics these are."""


class BagOutput:
    """A new bag, written as a context manager; ``camera`` gives the observer that writes one camera's topics.

    Messages are recorded at the time at which the bag of the images recorded theirs, so that both can be played together.
    """

    def __init__(self, path: Path, *, storage: Literal["sqlite3", "mcap"]) -> None:
        """Raises RecordingError where ``path`` exists: nothing is ever written over."""
        self._writer = BagWriter(path, storage=storage)

    def __enter__(self) -> BagOutput:
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, trace)

    def camera(self, name: str, card: Card, score_threshold: float) -> CameraTopics:
        """The topics /dff/detections and so on; /dff/NAME/detections where ``name`` is not empty."""
        return CameraTopics(self._writer, f"/{NODE}/{name}" if name else f"/{NODE}", card, score_threshold)


class CameraTopics(Observer):
    """Writes the answers of one camera."""

    def __init__(self, writer: BagWriter, prefix: str, card: Card, score_threshold: float) -> None:
        self._writer, self._prefix, self._card, self._threshold = writer, prefix, card, score_threshold
        self._begun = False

    def add(self, answered: AnsweredFrame) -> None:
        """Write what is known about one frame."""
        item, result = answered.item, answered.result
        at = item.received or item.stamp
        header = self._writer.header(item.stamp, item.frame_id)
        if not self._begun:
            self._begun = True
            self._write_label_info(header, at)
        shown = None if result.detections is None else result.detections.above(self._threshold)
        if shown is not None:
            message = detections_message(self._writer.types, header, shown, self._card.detection_classes)
            self._writer.write(f"{self._prefix}/detections", DETECTIONS, message, at)
        if result.label_map is not None:
            labels = result.label_map.labels
            self._writer.write_image(f"{self._prefix}/segmentation", labels, item.stamp, encoding="mono8", frame_id=item.frame_id, at=at)
        times = {"latency_ms": answered.latency_ms, "wait_ms": None, "step_ms": result.step_ms}
        self._writer.write(f"{self._prefix}/frame_info", DIAGNOSTICS, self._frame_info(header, result, times), at)
        picture = self._overlay(item.frame, result, shown)
        self._writer.write_compressed(
            f"{self._prefix}/overlay/compressed", picture, item.stamp, quality=OVERLAY_JPEG_QUALITY, frame_id=item.frame_id, at=at
        )

    def _write_label_info(self, header: Any, at: int) -> None:
        info, name_of = self._writer.types[LABEL_INFO], self._writer.types["vision_msgs/msg/VisionClass"]
        # The threshold of pixels is 0: each has its best class.
        for task, names, threshold in (
            ("segmentation", self._card.segmentation_classes, 0.0),
            ("detections", self._card.detection_classes, self._threshold),
        ):
            if names:
                classes = [name_of(class_id=index, class_name=name) for index, name in label_names(names)]
                message = info(header=header, class_map=classes, threshold=threshold)
                self._writer.write(f"{self._prefix}/{task}/label_info", LABEL_INFO, message, at, latched=True)

    def _frame_info(self, header: Any, result: FrameResult, times: dict[str, float | None]) -> Any:
        types = self._writer.types
        values = [
            types["diagnostic_msgs/msg/KeyValue"](key=key, value=value) for key, value in frame_info_values(result, times).items()
        ]
        status = types["diagnostic_msgs/msg/DiagnosticStatus"](level=0, name=NODE, message=result.kind, hardware_id="", values=values)
        return types[DIAGNOSTICS](header=header, status=[status])

    def _overlay(self, frame: Frame, result: FrameResult, shown: Detections | None) -> Frame:
        return draw_results(
            frame,
            shown,
            result.label_map,
            class_names=self._card.detection_classes,
            palette=self._card.palette,
            caption=caption(result.kind, result.key_age_frames, result.key_age_ms),
        )


def detections_message(types: Any, header: Any, detections: Detections, class_ids: Sequence[str]) -> Any:
    """A Detection2DArray with boxes in source pixels; ``class_ids[label]`` is what a detection carries as its class."""

    def new(name: str) -> Callable[..., Any]:
        kind: Callable[..., Any] = types[f"vision_msgs/msg/{name}"]
        return kind

    # The hypothesis' pose in space is not known: all zeros, as in a new message.
    point, turn = types["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0), types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
    pose = types["geometry_msgs/msg/PoseWithCovariance"](
        pose=types["geometry_msgs/msg/Pose"](position=point, orientation=turn), covariance=np.zeros(36)
    )
    found = []
    for box, score, label in zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True):
        x, y, width, height = centre_and_size(box)
        centre = new("Pose2D")(position=new("Point2D")(x=x, y=y), theta=0.0)
        hypothesis = new("ObjectHypothesis")(class_id=class_ids[label], score=score)
        found.append(
            new("Detection2D")(
                header=header,
                results=[new("ObjectHypothesisWithPose")(hypothesis=hypothesis, pose=pose)],
                bbox=new("BoundingBox2D")(center=centre, size_x=width, size_y=height),
                id="",
            )
        )
    return new("Detection2DArray")(header=header, detections=found)
