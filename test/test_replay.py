"""``dff_replay`` on a tiny folder of frames with truth: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from dff_ros.core.bundle import load_bundle, save_bundle
from dff_ros.core.results import Detections, Task
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream, FrameResult
from dff_ros.evaluation.fingerprint import without_timings
from dff_ros.evaluation.ground_truth.truth import FrameTruth, Truth
from dff_ros.evaluation.observer import AnsweredFrame
from dff_ros.evaluation.parameter_files import NODE_ONLY, read_parameters
from dff_ros.evaluation.replay import main
from dff_ros.evaluation.run import KEY_DELAY, Tally, lock_step
from dff_ros.recording.bags import BagWriter
from dff_ros.recording.frames import open_frames

FRAMES = 7
HEIGHT, WIDTH = 96, 128
ON_CPU: dict[str, Any] = {"device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A textured scene that shifts by three pixels a frame; labels for all frames but the first, boxes and masks."""
    folder = tmp_path_factory.mktemp("scene")
    texture = cv2.resize(np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8), (2 * WIDTH, HEIGHT))
    rows = ["frame,id,left,top,width,height"]
    for part in ("frames", "labels", "masks"):
        (folder / part).mkdir()
    for index in range(FRAMES):
        left = 3 * index
        frame = texture[:, left : left + WIDTH].copy()
        frame[30:70, 40 + left : 70 + left] = (200, 30, 30)
        labels = np.full((HEIGHT, WIDTH), 3, np.uint8)
        labels[:30] = 0
        labels[30:70, 40 + left : 70 + left] = 8
        labels[90:] = 11
        cv2.imwrite(str(folder / "frames" / f"in{index + 10:04d}.png"), frame)
        cv2.imwrite(str(folder / "masks" / f"gt{index + 10:04d}.png"), np.where(labels == 8, 255, 0).astype(np.uint8))
        rows.append(f"{index},1,{40 + left},30,30,40")
        if index:
            cv2.imwrite(str(folder / "labels" / f"in{index + 10:04d}.png"), labels)
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def fitted_bundle(tiny_bundle: Path, scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with its segmentation head fitted to the scene by least squares, so that its class maps say something."""
    card, model = load_bundle(str(tiny_bundle))
    stream = FeatureFlowStream(load_model(EngineSettings(model=str(tiny_bundle), **ON_CPU)), EngineSettings(**ON_CPU))
    rows, targets = [], []
    for index in range(1, FRAMES):
        frame = cv2.imread(str(scene / "frames" / f"in{index + 10:04d}.png"))[..., ::-1]
        labels = cv2.imread(str(scene / "labels" / f"in{index + 10:04d}.png"), cv2.IMREAD_UNCHANGED)
        feature = stream.start_track(frame, 0)[0].key.feature[0].double()
        cells = cv2.resize(labels, feature.shape[:0:-1], interpolation=cv2.INTER_NEAREST)
        rows.append(feature.flatten(1).T)
        targets.append(torch.from_numpy(cells).flatten())
    features, target = torch.cat(rows), torch.cat(targets).long()
    mean = features.mean(dim=0)
    wanted = torch.nn.functional.one_hot(target.clamp(max=10), 11).double()
    weight = torch.linalg.lstsq(features - mean, wanted - wanted.mean(dim=0)).solution.T
    score = model.head(Task.SEGMENTATION).score
    score.weight.data = weight.float()[:, :, None, None]
    score.bias.data = (wanted.mean(dim=0) - weight @ mean).float()
    folder = tmp_path_factory.mktemp("bundles") / "fitted"
    save_bundle(folder, card, model)
    return folder


def replayed(tmp_path: Path, bundle: Path, scene: Path, *options: str) -> dict[str, Any]:
    """The JSON of one run over the scene, on the CPU in float32."""
    params = tmp_path / "params.yaml"
    params.write_text("precision: float32\nthreads: 1\nkey_frames: blocking\n")
    source = () if {"--video", "--bag", "--drive"} & set(options) else ("--frames", str(scene / "frames"))
    fixed = [*source, "--model", str(bundle), "--device", "cpu", "--params", str(params)]
    output = tmp_path / "out" / "figures.json"
    assert main([*fixed, *options, "--json", str(output)]) == 0
    report: dict[str, Any] = json.loads(output.read_text())
    return report


def all_truth(scene: Path) -> list[str]:
    return ["--labels", str(scene / "labels"), "--boxes", f"{scene / 'boxes.csv'}:person", "--box-masks", f"{scene / 'masks'}:car"]


def without_origin(report: dict[str, Any]) -> dict[str, Any]:
    """The figures alone: no timings, and not what they were made of."""
    return {key: value for key, value in without_timings(report).items() if key != "provenance"}


NO_SEGMENTATION = dict.fromkeys(("miou", "iou", "pixels", "miou_by_age"))
NO_CONSISTENCY = dict.fromkeys(("miou", "flicker", "iou"))
NO_DELAY = dict.fromkeys(("mean", "p90", "appearances", "missed", "by_age", "histogram"))
NO_DETECTION = dict.fromkeys(("map50", "map", "ap50", "boxes", "map50_by_age"))
TIMES = {kind: dict.fromkeys(("mean", "p50", "p95", "p99", "max")) for kind in ("all", "key", "propagated")}


def test_every_key_stands_in_the_report_and_what_was_not_measured_is_null(tmp_path: Path, tiny_bundle: Path, scene: Path) -> None:
    report = replayed(tmp_path, tiny_bundle, scene, "--schedule", "per-frame")
    steps, origin = report.pop("step_ms"), report.pop("provenance")
    assert (origin["latencies"], origin["repeatable"]) == (None, True)
    nothing_live = {
        "latency_ms": TIMES,
        "drops": {"count": None, "rate": None},
        "streaming": {
            **dict.fromkeys(("frames", "miou", "map50", "map", "agreement")),
            "against_per_frame": dict.fromkeys(("miou", "map50", "map")),
            "lateness_ms": TIMES["all"],
        },
    }
    assert report == {
        "frames": FRAMES,
        "mode": "lock-step",
        "schedule": "per-frame",
        "device": "cpu",
        "every_offset": False,
        "key_delay": None,
        "key_rate": 1.0,
        "segmentation": NO_SEGMENTATION,
        "detection": NO_DETECTION,
        "detection_delay": NO_DELAY,
        **nothing_live,
        "cost_ratio": None,
        "baseline": {
            "segmentation": NO_SEGMENTATION,
            "detection": NO_DETECTION,
            "step_ms": TIMES,
            **nothing_live,
        },
        "loss_by_age": None,
        "agreement": None,
        "against_per_frame": {
            **dict.fromkeys(("agreement", "agreement_by_age", "agreement_by_class", *NO_SEGMENTATION, *NO_DETECTION)),
            "by_motion": {**dict.fromkeys(("miou", "agreement", "map50")), "objects": dict.fromkeys(("boxes", "map50"))},
            "detection_delay": NO_DELAY,
        },
        "speedup": None,
        "by_motion": {
            **dict.fromkeys(("frames", "miou", "map50", "baseline_miou", "baseline_map50")),
            "objects": dict.fromkeys(("boxes", "map50", "baseline_map50")),
        },
        "temporal_consistency": {**NO_CONSISTENCY, "per_frame": NO_CONSISTENCY},
        "input": dict.fromkeys(("topic", "damaged_images", "late_images", "lost")),
    }
    assert steps["propagated"] == TIMES["propagated"]
    assert 0 < steps["key"]["p50"] <= steps["key"]["p95"] <= steps["key"]["max"]
    assert steps["all"] == steps["key"]


def test_a_fixed_interval_is_scored_by_age(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    report = replayed(tmp_path, fitted_bundle, scene, "--schedule", "fixed:3", "--baseline", *all_truth(scene))
    assert report["key_rate"] == 3 / 7  # frames 0, 3 and 6
    segmentation, detection = report["segmentation"], report["detection"]
    assert len(segmentation["miou_by_age"]) == len(detection["map50_by_age"]) == len(report["loss_by_age"]) == 3
    present = {name for name, iou in segmentation["iou"].items() if iou is not None}
    assert present == {"sky", "road", "car"}
    assert segmentation["miou"] == pytest.approx(np.mean([segmentation["iou"][name] for name in present]))
    assert report["loss_by_age"][0] == 0
    baseline = report["baseline"]["segmentation"]["miou_by_age"]
    assert report["loss_by_age"] == pytest.approx(np.subtract(baseline, segmentation["miou_by_age"]))
    assert segmentation["miou"] > 0.5
    assert 0.5 < report["agreement"] < 1
    assert report["baseline"]["step_ms"]["propagated"]["mean"] is None
    assert report["speedup"] > 0
    step = report["step_ms"]
    assert report["cost_ratio"] == pytest.approx(step["propagated"]["mean"] / step["key"]["mean"])


@pytest.mark.parametrize(("params", "keys"), [(None, 1), ("precision: float32\n", 2)])
def test_the_schedule_alone_decides_unless_the_nodes_parameters_are_given(
    tmp_path: Path, tiny_bundle: Path, scene: Path, params: str | None, keys: int
) -> None:
    output = tmp_path / "o.json"
    arguments = ["--frames", str(scene / "frames"), "--rate", "2", "--model", str(tiny_bundle), "--json", str(output)]
    if params is not None:
        (tmp_path / "params.yaml").write_text(params)
        arguments += ["--params", str(tmp_path / "params.yaml")]
    assert main([*arguments, "--schedule", "fixed:7"]) == 0
    assert json.loads(output.read_text())["key_rate"] == keys / FRAMES  # the node renews keys older than two seconds


def test_boxes_score_the_same_from_a_table_of_classes_and_from_a_coco_file(
    tmp_path: Path, fitted_bundle: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (scene / "boxes.csv").read_text().splitlines()
    table, coco = tmp_path / "boxes.csv", tmp_path / "boxes.json"
    others = [f"{row.replace(',1,', ',2,')},{name}" for name in ("tram", "car") for row in rows[1:]]
    table.write_text("\n".join([f"{rows[0]},class", *(f"{row},person" for row in rows[1:]), *others]))
    images = [{"id": 1 + index, "file_name": f"in{index + 10:04d}.png"} for index in range(FRAMES)]
    categories = [{"id": number, "name": name} for number, name in enumerate(("Person", "tram", "car"))]
    boxes = [(category["id"], 1 + index, [40 + 3 * index, 30, 30, 40]) for index in range(FRAMES) for category in categories]
    annotations = [
        {"id": number, "category_id": label, "image_id": image, "bbox": box} for number, (label, image, box) in enumerate(boxes, start=1)
    ]
    coco.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    truths = (["--boxes", str(table)], ["--coco", str(coco)], [*("--boxes", f"{table}:person"), *("--boxes", f"{table}:car")])
    reports = [replayed(tmp_path, fitted_bundle, scene, "--schedule", "fixed:3", *truth)["detection"] for truth in truths]
    assert reports[0] == reports[1] == reports[2]
    assert reports[0]["boxes"] == {"person": FRAMES, "car": FRAMES, "bicyclist": None}
    assert capsys.readouterr().err.count("boxes of 'tram' are left out: the model's detection classes are person, car, bicyclist") == 2


def test_frames_and_objects_are_scored_by_how_fast_they_move(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    """The picture shifts by 3 of 128 pixels a frame: 2 % of its width. Of a person 30 wide that leaves .82, .67, ... of the box."""
    options = ("--schedule", "fixed:3", *all_truth(scene))
    for rate, group in (("0.5", "slow"), ("2", "medium"), ("15", "fast")):
        report = replayed(tmp_path, fitted_bundle, scene, *options, "--baseline", "--rate", rate)
        moving = report["by_motion"]
        assert moving["frames"] == {"slow": 0, "medium": 0, "fast": 0, group: FRAMES - 1}, "the first frame has none before it"
        for figure in ("miou", "map50", "baseline_miou", "baseline_map50"):
            assert [name for name, value in moving[figure].items() if value is not None] == [group]
        assert [name for name, value in report["against_per_frame"]["by_motion"]["agreement"].items() if value is not None] == [group]
        assert moving["objects"]["boxes"] == {"slow": 0, "medium": 0, "fast": FRAMES}
    offsets = replayed(tmp_path, fitted_bundle, scene, *options, "--every-offset")
    assert offsets["by_motion"]["frames"] == {"slow": 0, "medium": 0, "fast": FRAMES - 3}, "frame 2 is the first that is scored"
    assert sum(offsets["by_motion"]["objects"]["boxes"].values()) == FRAMES - 2, "each frame once, not at every age"
    assert offsets["temporal_consistency"]["flicker"] is None, "answers at every age do not follow one another"


def test_the_per_frame_schedule_equals_its_baseline(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    report = replayed(tmp_path, fitted_bundle, scene, "--schedule", "per-frame", "--baseline", *all_truth(scene))
    assert report["agreement"] == 1.0
    assert report["loss_by_age"] == [0]
    assert report["segmentation"] == report["baseline"]["segmentation"]
    assert report["detection"] == report["baseline"]["detection"]
    assert report["by_motion"]["miou"] == report["by_motion"]["baseline_miou"]
    steady = report["temporal_consistency"]
    assert steady["per_frame"] == {name: steady[name] for name in ("miou", "flicker", "iou")}
    assert 0 < steady["flicker"] < 0.5 < steady["miou"] < 1
    against = report["against_per_frame"]
    assert (against["miou"], against["agreement_by_age"], set(against["agreement_by_class"].values())) == (1.0, [1.0], {1.0, None})


def test_without_truth_per_frame_is_the_truth(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    report = replayed(tmp_path, fitted_bundle, scene, "--schedule", "fixed:3", "--baseline")
    assert report["segmentation"]["miou"] is None
    against = report["against_per_frame"]
    assert against["agreement"] == report["agreement"] == pytest.approx(np.average(against["agreement_by_age"], weights=(3, 2, 2)))
    assert (against["agreement_by_age"][0], against["miou_by_age"][0]) == (1.0, 1.0)
    assert sum(against["pixels"].values()) == FRAMES * HEIGHT * WIDTH
    offsets = replayed(tmp_path, fitted_bundle, scene, "--schedule", "fixed:3", "--every-offset")["against_per_frame"]
    assert offsets["miou_by_age"][0] == 1.0 > offsets["miou_by_age"][1]
    assert sum(offsets["pixels"].values()) == (FRAMES - 2) * HEIGHT * WIDTH, "each frame once, not at every age"


def test_every_offset_scores_the_same_frames_at_each_age(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    report = replayed(tmp_path, fitted_bundle, scene, "--schedule", "fixed:3", "--every-offset", *all_truth(scene))
    per_frame = replayed(tmp_path, fitted_bundle, scene, "--schedule", "per-frame", "--range", "2:6", *all_truth(scene))
    assert (report["key_rate"], report["speedup"], report["frames"]) == (None, None, FRAMES)
    for task, figure in (("segmentation", "miou"), ("detection", "map50")):
        by_age = report[task][f"{figure}_by_age"]
        assert len(by_age) == 3
        assert by_age[0] == per_frame[task][figure]
        assert report[task][figure] == pytest.approx(np.mean(by_age))
        assert report["baseline"][task][figure] == pytest.approx(per_frame[task][figure])
        assert report["baseline"][task][f"{figure}_by_age"] == [per_frame[task][figure]] * 3
    assert report["loss_by_age"][0] == 0
    assert report["cost_ratio"] > 0


def test_ids_that_tell_no_object_apart_are_said_to_be_useless(
    tmp_path: Path, tiny_bundle: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("frame,id,left,top,width,height\n0,1,0,0,9,9\n2,1,0,0,9,9\n2,1,20,20,9,9\n")
    options = ["--schedule", "fixed:2", "--boxes", f"{boxes}:person", "--range", "0:2"]
    report = replayed(tmp_path, tiny_bundle, scene, *options, "--every-offset")
    assert report["detection_delay"]["appearances"] is None
    assert "detection delay leaves out 'person': frame 2 has an id twice" in capsys.readouterr().err
    replayed(tmp_path, tiny_bundle, scene, *options)
    assert "delay" not in capsys.readouterr().err, "it is not measured in a single run"


def test_every_offset_propagates_as_the_run_does(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    """With as many frames as the interval, the last frame at the greatest age is the schedule's own last frame."""
    truth = ("--labels", str(scene / "labels"))
    offsets = replayed(tmp_path, fitted_bundle, scene, "--schedule", "fixed:4", "--every-offset", "--range", "1:4", *truth)
    run = replayed(tmp_path, fitted_bundle, scene, "--schedule", "fixed:4", "--range", "1:4", *truth)
    assert offsets["segmentation"]["miou_by_age"][3] == run["segmentation"]["miou_by_age"][3]


def test_two_runs_give_the_same_figures(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    options = ("--schedule", "random:0.4", "--baseline", *all_truth(scene))
    first, second = (replayed(tmp_path, fitted_bundle, scene, *options) for _ in range(2))
    assert without_timings(first) == without_timings(second)


def test_key_frames_made_aside_are_ready_after_so_many_frames(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    options = ("--schedule", "fixed:2", "--key-delay", "1", "--baseline", *all_truth(scene))
    first, second = (replayed(tmp_path, fitted_bundle, scene, *options) for _ in range(2))
    assert without_timings(first) == without_timings(second)
    assert (first["key_delay"], first["key_rate"]) == (1, 4 / 7)  # keys 0, 2, 4 and 6; the answers' ages are 0 1 2 1 2 1 2
    blocking = replayed(tmp_path, fitted_bundle, scene, "--schedule", "fixed:2", "--baseline", *all_truth(scene))
    assert [len(report["segmentation"]["miou_by_age"]) for report in (first, blocking)] == [3, 2]
    assert first["agreement"] < blocking["agreement"] < 1.0
    assert min(first["speedup"], first["cost_ratio"]) > 0 and first["step_ms"]["key"]["mean"] > 0


def test_without_a_delay_the_nodes_setting_has_a_default_one(tmp_path: Path, tiny_bundle: Path, scene: Path) -> None:
    output, params = tmp_path / "o.json", tmp_path / "params.yaml"
    params.write_text("key_frames: aside\n")
    arguments = ["--frames", str(scene / "frames"), "--model", str(tiny_bundle), "--json", str(output), "--params", str(params)]
    for schedule, delay in (("fixed:2", KEY_DELAY), ("per-frame", None)):
        assert main([*arguments, "--schedule", schedule]) == 0
        assert json.loads(output.read_text())["key_delay"] == delay


@pytest.mark.parametrize("is_key", [True, False])
def test_steps_that_make_a_key_are_timed_as_blocking_ones(is_key: bool) -> None:
    result = FrameResult(
        stamp=0, is_key=is_key, reason="interval", key_age_frames=0 if is_key else 5, key_age_ms=0.0, key_ms=50.0, motion_px=None,
        disagreement=None, detections=None, label_map=None, step_ms=70.0, feature_ms=50.0, flow_ms=8.0, refine_ms=4.0, head_ms=8.0,
    )  # fmt: skip
    tally = Tally((), ())
    tally.add(result, FrameTruth(None, ()), age=result.key_age_frames)
    assert (tally.key_ms, tally.propagated_ms) == ([70.0 if is_key else 58.0], [])


def test_ignored_classes_are_not_scored(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    report = replayed(tmp_path, fitted_bundle, scene, "--labels", str(scene / "labels"), "--ignore", "3,8")
    assert {name for name, iou in report["segmentation"]["iou"].items() if iou is not None} == {"sky"}


def test_truth_of_other_frames_is_said_to_be_useless(
    tmp_path: Path, tiny_bundle: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = replayed(tmp_path, tiny_bundle, scene, "--labels", str(scene / "labels"), "--range", "0:0")
    assert report["segmentation"]["miou"] is None
    assert "labels: no pixel of a frame is labelled there" in capsys.readouterr().err
    report = replayed(tmp_path, tiny_bundle, scene, "--box-masks", f"{scene / 'labels'}:car")  # class ids, none of them 255
    assert report["detection"]["map50"] is None
    assert "labels: no object of a frame is in there" in capsys.readouterr().err


def test_parts_that_a_bundle_lacks_may_be_left_out(tmp_path: Path, tiny_bundle: Path, scene: Path) -> None:
    report = replayed(tmp_path, tiny_bundle, scene, "--without", "refine,scale", "--flow", "dis", "--range", "0:2")
    assert report["frames"] == 3


class Watching:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[AnsweredFrame] = []

    def add(self, answered: AnsweredFrame) -> None:
        self.seen.append(answered)


def test_without_propagation_the_keys_answer_is_given_again(fitted_bundle: Path, scene: Path) -> None:
    settings = EngineSettings(model=str(fitted_bundle), schedule="fixed:3", max_key_age=0.0, **ON_CPU)
    watching = Watching()
    frames, nothing = open_frames(scene / "frames", rate=10), Truth(None, [], [])
    lock_step(frames, load_model(settings), settings, nothing, baseline=False, copy_outputs=True, observers=[watching])
    shown = [answered.result for answered in watching.seen]
    assert [result.is_key for result in shown] == [True, False, False] * 2 + [True]
    for key, *copies in (shown[:3], shown[3:6]):
        for age, copy in enumerate(copies, start=1):
            assert (copy.label_map, copy.detections) == (key.label_map, key.detections)
            assert (copy.key_age_frames, copy.key_age_ms, copy.stamp) == (age, 100.0 * age, key.stamp + age * 100_000_000)
            assert copy.step_ms == 0


@pytest.mark.parametrize("mode", ["--baseline", "--every-offset"])
def test_without_flow_the_answers_are_the_keys(tmp_path: Path, fitted_bundle: Path, scene: Path, mode: str) -> None:
    """Nothing but the heads stands between a copied feature and its answer, so it is the copied answer; it takes time, though."""
    options = ("--schedule", "fixed:3", mode, *all_truth(scene))
    still, copied = (replayed(tmp_path, fitted_bundle, scene, *options, "--without", part) for part in ("flow", "propagation"))
    warped = replayed(tmp_path, fitted_bundle, scene, *options)
    assert without_origin(still) == without_origin(copied)
    assert still["agreement"] < warped["agreement"]
    assert still["step_ms"]["propagated"]["mean"] > copied["step_ms"]["propagated"]["mean"] == 0


def test_a_drive_is_scored_by_its_own_truth(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    options = ("--drive", "8", "--seed", "3", "--schedule", "fixed:3", "--every-offset")
    report = replayed(tmp_path, fitted_bundle, scene, *options)
    assert report["frames"] == 8
    assert report["segmentation"]["iou"]["road"] is not None
    assert report["detection"]["map50"] is not None
    assert report["detection_delay"]["appearances"] == 0  # the first one comes in frame 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--drive", "3", "--boxes", "boxes.csv:person"], "--drive brings its own truth"),
        (["--drive", "3", "--coco", "boxes.json"], "--drive brings its own truth"),
        (["--drive", "0"], "--drive should be of at least 1 frame, got 0"),
        (["--drive", "some"], "should be a whole number, got 'some'"),
    ],
)
def test_drives_that_cannot_be_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert exit_code([*options, "--json", str(tmp_path / "o.json")]) == 2
    assert message in capsys.readouterr().err


def let_only_keys_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every answer be what the key frame shows: a box around what is bright."""

    def look(stream: FeatureFlowStream, feature: torch.Tensor, *arguments: object) -> dict[Task, Detections]:
        bright = torch.nonzero(feature[0, 0])
        boxes = torch.cat([bright.min(0).values.flip(0), bright.max(0).values.flip(0) + 1])[None] if len(bright) else torch.zeros(0, 4)
        return {Task.DETECTION: Detections(boxes.float().numpy(), np.ones(len(boxes), np.float32), np.zeros(len(boxes), np.int64))}

    monkeypatch.setattr(FeatureFlowStream, "_run_heads", look)
    monkeypatch.setattr(LoadedModel, "extract", lambda model, image: (image[:, :1] > 0.5).float())
    monkeypatch.setattr(FeatureFlowStream, "_propagate", lambda stream, key, *arguments: key.feature)


def test_every_offset_measures_the_delay_of_new_objects(
    tmp_path: Path, tiny_bundle: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something stands still from frame 5 of 9 on; from key frames that cannot see it, it is found with the next one."""
    (tmp_path / "frames").mkdir()
    for index in range(9):
        picture = np.zeros((120, 160, 3), np.uint8)  # the bundle's own size
        picture[40:80, 24:56] = 255 if index >= 5 else 0
        cv2.imwrite(str(tmp_path / "frames" / f"{index}.png"), picture)
    table = tmp_path / "boxes.csv"
    table.write_text("frame,id,left,top,width,height\n0,1,150,0,4,4\n" + "".join(f"{index},2,24,40,32,40\n" for index in range(5, 9)))
    let_only_keys_see(monkeypatch)
    options = ("--frames", str(tmp_path / "frames"), "--boxes", f"{table}:person", "--schedule", "fixed:4", "--every-offset")
    report = replayed(tmp_path, tiny_bundle, scene, *options)
    assert report["detection_delay"] == {
        "mean": 1.5,
        "p90": pytest.approx(2.7),
        "appearances": 1,
        "missed": 0.0,
        "by_age": [0.0, 3.0, 2.0, 1.0],
        "histogram": {"0": 1, "1": 1, "2": 1, "3": 1},
    }
    assert report["against_per_frame"]["detection_delay"] == report["detection_delay"], "per-frame sees the same without truth"
    early = replayed(tmp_path, tiny_bundle, scene, *options, "--range", "3:8")
    # New in the third frame, before all offsets are there: two phases have the first frame as their key, the next being 3 or 4.
    assert early["detection_delay"]["by_age"] == [0.0, 3.0, 1.5, None]


def bag_of(scene: Path, folder: Path, *, rate: int) -> Path:
    with BagWriter(folder) as writer:
        for item in open_frames(scene / "frames", rate=rate):
            writer.write_image("/camera/image", item.frame, item.stamp)
    return folder


def test_a_bag_gives_the_figures_of_its_frames(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    truth = ("--boxes", f"{scene / 'boxes.csv'}:person")
    options = ("--schedule", "fixed:200ms", "--baseline", "--range", "1:6", *truth)
    bag = bag_of(scene, tmp_path / "bag", rate=10)
    from_bag = replayed(tmp_path, fitted_bundle, scene, "--bag", str(bag), *options)
    from_folder = replayed(tmp_path, fitted_bundle, scene, "--rate", "10", *options)
    assert from_bag["key_rate"] == 1 / 2
    assert from_bag.pop("input") == {"topic": "/camera/image", "damaged_images": 0, "late_images": 0, "lost": None}
    assert from_folder.pop("input")["topic"] is None
    assert without_timings(from_bag) == without_timings(from_folder)


def test_a_video_is_replayed(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    path = tmp_path / "in.mp4"
    replayed(tmp_path, fitted_bundle, scene, "--video-out", str(path))
    options = ("--schedule", "fixed:2", "--boxes", f"{scene / 'boxes.csv'}:car")
    report = replayed(tmp_path, fitted_bundle, scene, "--video", str(path), *options)
    assert (report["frames"], report["key_rate"]) == (FRAMES, 4 / 7)
    assert report["detection"]["map50"] is not None


def pictures_of(path: Path) -> tuple[float, list[Any]]:
    """Rate and frames of a video."""
    video = cv2.VideoCapture(str(path))
    pictures = []
    while (read := video.read())[0]:
        pictures.append(read[1])
    return video.get(cv2.CAP_PROP_FPS), pictures


def test_the_overlay_shows_every_frame_at_the_inputs_rate(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    path = tmp_path / "pictures" / "out.mp4"
    replayed(tmp_path, fitted_bundle, scene, "--schedule", "fixed:3", "--rate", "10", "--video-out", str(path))
    rate, pictures = pictures_of(path)
    assert rate == pytest.approx(10)
    assert [picture.shape for picture in pictures] == [(HEIGHT, WIDTH, 3)] * FRAMES


def test_the_overlay_of_a_bag_runs_at_the_rate_of_its_stamps(tmp_path: Path, fitted_bundle: Path, scene: Path) -> None:
    path = tmp_path / "out.mp4"
    replayed(tmp_path, fitted_bundle, scene, "--bag", str(bag_of(scene, tmp_path / "bag", rate=5)), "--video-out", str(path))
    rate, pictures = pictures_of(path)
    assert rate == pytest.approx(5)
    assert len(pictures) == FRAMES


def test_an_overlay_that_cannot_be_written_is_named(
    tmp_path: Path, tiny_bundle: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "folder.mp4"
    taken.mkdir()
    arguments = ["--frames", str(scene / "frames"), "--model", str(tiny_bundle), "--json", str(tmp_path / "o.json")]
    assert main([*arguments, "--video-out", str(taken)]) == 2
    assert f"dff_replay: {taken} is a folder" in capsys.readouterr().err


def test_a_summary_is_printed(tmp_path: Path, tiny_bundle: Path, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replayed(tmp_path, tiny_bundle, scene, "--schedule", "fixed:3", "--baseline", *all_truth(scene))
    printed = capsys.readouterr().out
    assert "7 frames, fixed:3, cpu" in printed
    for word in ("mIoU", "AP50", "per-frame", "speed-up", "agreement"):
        assert word in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schedule", "sometimes"], "schedule should be per-frame, fixed:N"),
        (["--schedule", "fixed:400ms", "--every-offset"], "--every-offset needs --schedule fixed:N, got 'fixed:400ms'"),
        (["--schedule", "fixed:9", "--every-offset"], "needs at least 9 frames, got 7"),
        (["--model", "no_such_bundle"], "no bundle 'no_such_bundle'"),
        (["--labels", "no_such_folder"], "no_such_folder is not a folder"),
        (["--labels", "{scene}/frames"], "in0010.png should hold one channel of 8-bit ids, got 96x128x3 uint8"),
        (["--boxes", "{scene}/boxes.csv:horse"], "the model's detection classes are person, car, bicyclist"),
        (["--boxes", "{scene}/boxes.csv"], "boxes.csv lacks the column class: name the class of its boxes as"),
        (["--boxes", "{scene}/boxes.csv:"], "should be PATH:CLASS"),
        (["--coco", "{scene}/boxes.csv"], "boxes.csv is not JSON"),
        (["--range", "5:2"], "should be A:B with 0 <= A <= B, got '5:2'"),
        (["--without", "wheels"], "parts are chain, flow, propagation, refine, scale, got 'wheels'"),
        (["--ignore", "eleven"], "should be ids separated by commas, got 'eleven'"),
        (["--topic", "/camera"], "--topic belongs to --bag"),
        (["--key-delay", "0"], "--key-delay should be at least 1 frame, got 0"),
        (["--key-delay", "2", "--schedule", "fixed:2", "--every-offset"], "--key-delay belongs to a schedule"),
        (["--key-delay", "2", "--without", "propagation"], "--without propagation needs key_frames: blocking"),
        (["--seed", "1"], "--seed belongs to --drive"),
        (["--seed", "-1"], "should be a whole number, got '-1'"),
        (["--frames", "no_such_folder"], "no_such_folder"),
        (["--flow", "telepathy"], "telepathy"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, tiny_bundle: Path, scene: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    arguments = ["--frames", str(scene / "frames"), "--model", str(tiny_bundle), "--device", "cpu", "--json", str(tmp_path / "o.json")]
    assert exit_code([*arguments, *(option.format(scene=scene) for option in options)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dff_replay: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "o.json").exists()


def exit_code(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_an_input_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--json", "o.json"]) == 2
    assert capsys.readouterr().err.startswith("dff_replay: one of the arguments --frames --video --bag --drive is required")


# ---- parameter files


def parameters(tmp_path: Path, text: str) -> dict[str, object]:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return read_parameters(path)


@pytest.mark.parametrize("name", ["/**", "dff_node", "/robot/dff_node"])
def test_the_nodes_parameter_file_is_read(tmp_path: Path, name: str) -> None:
    ours = f"{name}:\n  ros__parameters:\n    schedule: fixed:5\n    autostart: false\n    use_sim_time: true\n"
    text = f"{ours}other:\n  ros__parameters:\n    a: 1\n"
    assert parameters(tmp_path, text) == {"schedule": "fixed:5"}


def test_a_flat_parameter_file_is_read(tmp_path: Path) -> None:
    assert parameters(tmp_path, "schedule: fixed:5\njpeg_quality: 3\nqos_overrides./image.depth: 2\n") == {"schedule": "fixed:5"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "should hold parameters, got list"),
        ("a: [1\n", "is not YAML"),
        ("camera:\n  ros__parameters:\n    a: 1\n", "has no parameters for dff_node under camera"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameters(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"), [("shedule: fixed:5", "unknown settings shedule"), ("threads: many", "threads should be of type int")]
)
def test_wrong_parameters_are_refused_with_their_file(
    tmp_path: Path, scene: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"/**:\n  ros__parameters:\n    {text}\n")
    assert main(["--frames", str(scene / "frames"), "--params", str(path), "--json", str(tmp_path / "o.json")]) == 2
    assert f"dff_replay: {path}: {message}" in capsys.readouterr().err


def test_the_nodes_own_parameters_are_known() -> None:
    pytest.importorskip("rclpy", reason="the node's parameters need rclpy")
    from dataclasses import fields

    from dff_ros.node.parameters import NodeSettings

    assert {item.name for item in fields(NodeSettings)} == NODE_ONLY
