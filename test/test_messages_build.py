"""Our own build of vision_msgs: the official types, usable over real DDS. Under a ROS installation its own is used instead."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

build_message_package = pytest.importorskip("build_message_package")
ROOT = Path(__file__).resolve().parent.parent
DEFINITIONS = ROOT / "tools" / "vision_msgs"
# The hashes of vision_msgs 4.1.1 as ROS 2 Jazzy ships it. A peer with another hash is never connected.
TYPE_HASHES = {
    "BoundingBox2D": "RIHS01_008eacbb0cf8f26e83795547bed013eec3675485ef386ec056d80eaaf1c1ce2f",
    "Detection2D": "RIHS01_0d12b69df5c593b3455b7346fac8205437a7d4bcb09b9e0e0b2dde787ded38ea",
    "Detection2DArray": "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "LabelInfo": "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
    "ObjectHypothesis": "RIHS01_51da43cec11c01957a64d1e05a24acd18aae7745ec30b74348ad5f6d634f7f90",
    "ObjectHypothesisWithPose": "RIHS01_41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc",
    "Point2D": "RIHS01_eab0e83f44ab4de92ceaf76dd7d0e7638f2bdd1d16ffbe16c7a136c48e407247",
    "Pose2D": "RIHS01_b0b5d1d7b4c20dd4fcde3ed1d4b289a919290572007d67a97043814db25d3648",
    "VisionClass": "RIHS01_1e4a11f0fed50b5623cb8ff26ca0e37952a48a9c074d16f804b44e9164c2037a",
    "VisionInfo": "RIHS01_95d3116a17484ad91c9a2686e1d54890bbfc3ff6c6a2de137738c4950d45d284",
}
# Runs in a process of its own: it publishes one of each message, waits for both and prints what came, with the hash on the wire.
ROUND_TRIP = """
import json, time
import rclpy
from vision_msgs.msg import Detection2D, Detection2DArray, LabelInfo, ObjectHypothesisWithPose, VisionClass

rclpy.init()
node = rclpy.create_node("round_trip")
received = {}
node.create_subscription(Detection2DArray, "detections", lambda message: received.update(detections=message), 1)
node.create_subscription(LabelInfo, "labels", lambda message: received.update(labels=message), 1)
hypothesis = ObjectHypothesisWithPose()
hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = "car", 0.75
detection = Detection2D(results=[hypothesis], id="7")
detection.bbox.center.position.x, detection.bbox.size_x = 12.5, 30.0
labels = LabelInfo(class_map=[VisionClass(class_id=65535, class_name="UNLABELED")], threshold=0.5)
publishers = {
    node.create_publisher(Detection2DArray, "detections", 1): Detection2DArray(detections=[detection]),
    node.create_publisher(LabelInfo, "labels", 1): labels,
}
deadline = time.monotonic() + 20
while len(received) < 2 and time.monotonic() < deadline:
    for publisher, message in publishers.items():
        publisher.publish(message)
    rclpy.spin_once(node, timeout_sec=0.05)
box = received["detections"].detections[0]
on_wire = node.get_publishers_info_by_topic("/detections")[0]
print(json.dumps({
    "class": box.results[0].hypothesis.class_id, "score": box.results[0].hypothesis.score, "id": box.id,
    "x": box.bbox.center.position.x, "width": box.bbox.size_x,
    "label": received["labels"].class_map[0].class_name, "label_id": received["labels"].class_map[0].class_id,
    "hash": str(getattr(on_wire, "topic_type_hash", "")),
}))
node.destroy_node()
rclpy.shutdown()
"""


def is_our_build() -> bool:
    manifest = Path(sys.prefix, "share", "vision_msgs", "package.xml")
    return manifest.is_file() and manifest.read_text() == (DEFINITIONS / "package.xml").read_text()


ours_only = pytest.mark.skipif(not is_our_build(), reason="a ROS installation brings its own vision_msgs")


@ours_only
@pytest.mark.parametrize("name", TYPE_HASHES)
def test_the_built_type_is_the_official_one(name: str) -> None:
    description = json.loads(Path(sys.prefix, "share", "vision_msgs", "msg", f"{name}.json").read_text())
    hashes = {item["type_name"]: item["hash_string"] for item in description["type_hashes"]}
    assert hashes[f"vision_msgs/msg/{name}"] == TYPE_HASHES[name]


@ours_only
def test_every_definition_is_built_and_pinned() -> None:
    built = {file.stem for file in Path(sys.prefix, "share", "vision_msgs", "msg").glob("*.json")}
    assert {file.stem for file in DEFINITIONS.glob("msg/*.msg")} == built == set(TYPE_HASHES)


def test_messages_travel_over_dds() -> None:
    pytest.importorskip("vision_msgs.msg")
    environment = {**os.environ, "ROS_DOMAIN_ID": str(random.randint(1, 100))}
    outcome = subprocess.run([sys.executable, "-c", ROUND_TRIP], env=environment, capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    came = json.loads(outcome.stdout.splitlines()[-1])
    assert (came["class"], came["score"], came["id"], came["x"], came["width"]) == ("car", 0.75, "7", 12.5, 30.0)
    assert (came["label"], came["label_id"]) == ("UNLABELED", 65535)
    if is_our_build():
        assert TYPE_HASHES["Detection2DArray"].removeprefix("RIHS01_") in came["hash"].lower()


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build_message_package.BuildError, match=r"a C\+\+ compiler .* sudo apt install g\+\+"):
        build_message_package.require_compiler()


def test_a_folder_without_definitions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "package.xml").write_text("<package format='3'><name>empty_msgs</name></package>")
    with pytest.raises(build_message_package.BuildError, match=r"holds no \.msg file"):
        build_message_package.read_package(tmp_path)


def test_a_failing_compiler_says_why(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    source = tmp_path / "broken.c"
    source.write_text("int broken(void) { return nonsense; }")
    with pytest.raises(build_message_package.BuildError, match="nonsense"):
        build_message_package._compile(source, tmp_path / "broken.o", tmp_path)
