"""Distillation without labels: a bundle's propagation comes nearer to its own per-frame path, which keeps every bit."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import tiny_card
from torch import nn
from training_data import write_drive

from dff_ros.core import bundle as bundles
from dff_ros.core.bundle import build_model, load_bundle, save_bundle
from dff_ros.core.results import Detections
from dff_ros.recording.frames import StampedFrame
from dff_train import distill as distilling
from dff_train.augment import nominal_scale
from dff_train.cli import _parser, main
from dff_train.clips import Clip
from dff_train.disagreement import disagreement, matches
from dff_train.distill import Given, Settings
from dff_train.objective import propagated
from dff_train.precision import mixed_precision
from dff_train.source_pairs import Truth
from dff_train.training import Training

CPU = torch.device("cpu")
FRAMES = 40


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated drive as a folder of images, 160x120."""
    return write_drive(tmp_path_factory.mktemp("drive"), seed=2, frames=FRAMES)


class Colours(nn.Module):
    """A user's own feature network: random mixtures of each cell's mean colour."""

    stride = 8
    channels = 16

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, self.channels, 1)
        nn.init.normal_(self.mix.weight, std=3.0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.relu(self.mix(F.avg_pool2d(image, self.stride) - 0.5))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bundle around a user's own feature network, which segments by colour and has no branch."""
    torch.manual_seed(0)
    point = EntryPoint("colours", "test_distill:Colours", bundles.FEATURE_NETWORKS)
    architecture = {"feature_network": {"kind": "colours"}, "flow_network": {"kind": "dis"}, "segmentation": {}}
    card = tiny_card(architecture=architecture, detection_classes=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "entry_points", lambda group: EntryPoints([point]).select(group=group))
        model = build_model(card)
        nn.init.normal_(model.heads["segmentation"].score.weight)
        folder = tmp_path_factory.mktemp("bundles") / "tiny"
        save_bundle(folder, card, model)
        yield folder


def command(bundle: Path, drive: Path, folder: Path, *more: str) -> list[str]:
    common = ["distill", "--model", str(bundle), "--frames", str(drive), "--to", str(folder / "mine"), "--run", str(folder / "run")]
    return [*common, "--interval", "5", "--device", "cpu", "--workers", "0", *more]


def test_it_brings_propagation_nearer_to_per_frame_and_leaves_that_alone(
    bundle: Path, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(bundle, drive, tmp_path, "--steps", "150")) == 0
    said = capsys.readouterr().out
    assert "32 frames to learn from, 8 to measure on" in said
    assert all(f"dff_train: {when}: " in said for when in ("copied", "before", "after"))
    card, model = load_bundle(str(tmp_path / "mine"))
    given = load_bundle(str(bundle))[1].state_dict()
    for name, weight in model.state_dict().items():
        assert name.startswith("refine_network.") or torch.equal(weight, given[name]), name
    figures = card.figures["disagreement_with_per_frame_at_fixed:5"]
    assert figures["feature"]["after"] < 0.6 * figures["feature"]["before"] < 0.6 * figures["feature"]["copied"]
    assert figures["pixels"]["after"] < 0.75 * figures["pixels"]["before"]
    assert card.name == "mine" and "bundle tiny" in card.description
    assert card.recipe == f"Then dff_train distill --model tiny --frames {drive.name} --interval 5 --refine light --steps 150"
    assert card.provenance[-1].startswith(f"{drive.name} (32 frames")
    assert str(tmp_path) not in (tmp_path / "mine" / "model.yaml").read_text()


def test_flow_and_scale_learn_where_they_have_weights(drive: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = tiny_card(architecture={**tiny_card().architecture, "flow_network": {"kind": "flownet", "width": 0.125}})
    save_bundle(tmp_path / "paper", card, build_model(card))
    assert main(command(tmp_path / "paper", drive, tmp_path, "--steps", "2", "--refine", "none")) == 0
    given, made = (load_bundle(str(tmp_path / name))[1] for name in ("paper", "mine"))
    assert made.refine_network is None
    changed = {name for name, weight in made.state_dict().items() if not torch.equal(weight, given.state_dict()[name])}
    assert {"flow_network.flow.weight", "flow_network.scale.weight"} <= changed
    assert all(name.startswith("flow_network.") for name in changed)


def test_flow_and_branch_learn_one_after_the_other_each_at_its_own_rate() -> None:
    flow, branch = distilling.stages(("flow_network", "refine_network"), 101, new_branch=True)
    assert (flow.trains, branch.trains) == (("flow_network",), ("refine_network",))
    assert flow.steps + branch.steps == 101 and abs(flow.steps - branch.steps) == 1
    assert 1e-4 <= flow.learning_rate <= 8e-4 < branch.learning_rate
    (alone,) = distilling.stages(("flow_network",), 101, new_branch=False)
    assert (alone.steps, alone.learning_rate) == (101, flow.learning_rate)


def test_a_branch_that_came_with_the_bundle_learns_slower_than_a_new_one(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Training] = []

    def noted(training: Training, *_: object, **__: object) -> None:
        trained.append(training)

    monkeypatch.setattr(distilling, "train_on", noted)
    card = tiny_card()
    save_bundle(tmp_path / "without", card, build_model(card))
    card = tiny_card(architecture={**card.architecture, "refine_network": {"kind": "light"}})
    save_bundle(tmp_path / "with", card, build_model(card))
    for name in ("without", "with"):
        assert main(command(tmp_path / name, drive, tmp_path / f"from_{name}", "--steps", "2")) == 0
    new, known = (training.recipe.stages[-1] for training in trained)
    assert new.trains == known.trains == ("refine_network",)
    assert known.learning_rate < new.learning_rate / 2


def test_an_answer_that_differs_more_than_before_is_named(
    bundle: Path, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Before, copied, after.
    figures = iter({"frames": 6, "pixels": pixels, "boxes": 0.2, "feature": 0.3} for pixels in (0.1, 0.3, 0.11))
    monkeypatch.setattr(distilling, "train_on", lambda *_, **__: None)
    monkeypatch.setattr(distilling, "_measured", lambda *_: next(figures))
    assert main(command(bundle, drive, tmp_path, "--steps", "2")) == 0
    assert f"more of the pixels differ than before: more recordings may help, or keep {bundle}" in capsys.readouterr().out
    assert distilling.grown({"pixels": None, "boxes": 0.2}, {"pixels": None, "boxes": 0.2}) == []
    # No sure box in either answer: nothing is there that could differ.
    assert distilling.grown({"pixels": None, "boxes": 0.9}, {"pixels": None, "boxes": None}) == []
    assert distilling.grown({"pixels": None, "boxes": None}, {"pixels": None, "boxes": 0.9}) == ["boxes"]
    assert distilling.grown({"pixels": 0.1, "boxes": 0.2}, {"pixels": 0.2, "boxes": 0.3}) == ["pixels", "boxes"]


def test_flow_and_branch_are_both_trained_and_what_trained_stays_as_it_was(drive: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = tiny_card(architecture={**tiny_card().architecture, "flow_network": {"kind": "flownet", "width": 0.125}})
    save_bundle(tmp_path / "paper", card, build_model(card))
    assert main(command(tmp_path / "paper", drive, tmp_path, "--steps", "5")) == 0
    given, made = (load_bundle(str(tmp_path / name))[1] for name in ("paper", "mine"))
    before, after = given.state_dict(), made.state_dict()
    assert not torch.equal(after["flow_network.flow.weight"], before["flow_network.flow.weight"])
    assert made.refine_network is not None
    trained = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert (trained["stage_index"], trained["step"]) == (2, 0)
    untrained = distilling.with_branch(Settings(str(tmp_path / "paper"), (Given("frames", drive),)))[1].state_dict()
    branch = [name for name in after if name.startswith("refine_network.") and name.endswith("weight")]
    assert any(not torch.allclose(after[name], untrained[name], atol=1e-3) for name in branch)
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("flow_network."))


def test_an_interrupted_run_goes_on_and_ends_as_the_whole_one(
    bundle: Path, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(bundle, drive, tmp_path / "whole", "--steps", "4")) == 0
    train_on = distilling.train_on

    def stopped(training, dataset, **options) -> None:  # type: ignore[no-untyped-def]
        train_on(training, dataset, **options, time_limit_s=0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(distilling, "train_on", stopped)
    assert main(command(bundle, drive, tmp_path / "parts", "--steps", "4")) == 130
    monkeypatch.setattr(distilling, "train_on", train_on)
    capsys.readouterr()
    assert main(command(bundle, drive, tmp_path / "parts", "--steps", "9")) == 0
    assert "has 4 steps since it began, whatever --steps and --minutes say; 1 done" in capsys.readouterr().out
    whole, parts = (load_bundle(str(tmp_path / name / "mine"))[1].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(weight, parts[name]) for name, weight in whole.items())


def test_the_minutes_decide_the_number_of_steps(bundle: Path, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distilling, "train_on", lambda *_, **__: None)
    assert main(command(bundle, drive, tmp_path, "--minutes", "0.001")) == 0
    assert yaml.safe_load((tmp_path / "run" / distilling.NOTES).read_text())["steps"] == distilling.LEAST_STEPS
    assert main(command(bundle, drive, tmp_path / "long", "--minutes", "60")) == 0
    assert yaml.safe_load((tmp_path / "long" / "run" / distilling.NOTES).read_text())["steps"] > 10 * distilling.LEAST_STEPS


def test_what_cannot_be_distilled_is_said_in_one_line(
    bundle: Path, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "log.jsonl").touch()
    wrong = {
        "no bundle 'none'": ["--model", "none"],
        "should not take the place": ["--to", str(bundle)],
        "got --video none.mp4": ["--video", "none.mp4"],
        "at least 5 intervals, 100 frames, got 40": ["--interval", "20"],
        "interval should be at least 2 frames, got 1": ["--interval", "1"],
        "minutes should be above 0": ["--minutes", "0"],
        "nothing to train": ["--refine", "none"],
        "--run should be a folder of its own": ["--run", str(used)],
    }
    for message, options in wrong.items():
        assert main(command(bundle, drive, tmp_path, *options)) == 2, message
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dff_train: ")]
        assert len(lines) == 1 and message.removeprefix("got --video ") in lines[0], (message, lines)
    assert main(["distill", "--model", str(bundle), "--to", str(tmp_path / "mine")]) == 2
    assert "at least one recording should be given" in capsys.readouterr().err


@pytest.mark.parametrize("interval", [10, 70, 100])
@pytest.mark.parametrize("frames", [1600, 3001, 4310])
def test_of_a_long_recording_runs_of_three_intervals_are_kept_and_one_interval_at_the_end(
    interval: int, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = np.zeros((8, 8, 3), np.uint8)
    recording = [StampedFrame(index, index, blank, "", "camera") for index in range(frames)]
    monkeypatch.setattr(distilling, "open_recording", lambda **_: recording)
    (learned,), (held,) = distilling.decoded(Settings("tiny", (Given("video", Path("long")),), interval=interval), 64)
    starts = sorted(set(learned.firsts))
    assert len(starts) > 1 or len(learned) + len(held) == frames
    assert all(length >= 3 * interval for length in np.diff(starts))
    ends = [*sorted(set(held.firsts))[1:], len(held)]
    assert max(end - start for start, end in zip(sorted(set(held.firsts)), ends, strict=True)) >= interval


@pytest.mark.parametrize(
    ("height", "width", "sides", "crop"),
    [(120, 160, (240, 320), (160, 208)), (240, 320, (360, 480), (240, 320)), (480, 640, (360, 480), (240, 320))],
)
def test_crops_are_two_thirds_of_what_the_network_sees(height: int, width: int, sides: tuple[int, int], crop: tuple[int, int]) -> None:
    card = tiny_card(input_pixels=172_800)
    dataset = distilling.crops([clip([np.zeros((height, width, 3), np.uint8)] * 9)], card, 8, Settings("tiny", (Given("video", Path()),)))
    assert dataset.augmentation.crop == crop
    assert nominal_scale(height, width, dataset.augmentation.pixels) == pytest.approx(sides[0] / height) == pytest.approx(sides[1] / width)


def test_a_run_of_something_else_is_not_taken_up(bundle: Path, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(bundle, drive, tmp_path, "--steps", "1")) == 0
    assert main(command(bundle, drive, tmp_path, "--interval", "4")) == 2
    assert "holds a run with another interval: 5" in capsys.readouterr().err
    assert main(command(bundle, drive, tmp_path, "--rate", "30")) == 2
    assert "holds a run with another recordings: " in capsys.readouterr().err


def test_a_run_from_other_weights_is_not_taken_up(bundle: Path, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = tmp_path / "given"
    shutil.copytree(bundle, given)
    assert main(command(given, drive, tmp_path, "--steps", "1")) == 0
    card, model = load_bundle(str(given))
    nn.init.zeros_(model.heads["segmentation"].score.weight)
    save_bundle(given, card, model)
    assert main(command(given, drive, tmp_path)) == 2
    assert "holds a run with another weights_sha256: " in capsys.readouterr().err


def test_the_recipe_repeats_every_option_of_the_run() -> None:
    given = (Given("frames", Path("/data/my frames"), 12.5, "/camera"), Given("bag", Path("/data/drive"), 12.5, "/camera"))
    said = Settings("models/street", given, interval=8, refine="none").command(70)
    options = _parser().parse_args([*shlex.split(said)[1:], "--to", "mine"])
    assert (options.model, options.frames, options.bag) == ("street", [Path("my frames")], [Path("drive")])
    assert (options.rate, options.topic, options.interval, options.refine, options.steps) == (12.5, "/camera", 8, "none", 70)


def clip(frames: list[np.ndarray], firsts: list[int] | None = None) -> Clip:
    return Clip("clip", frames, [Truth()] * len(frames), firsts=firsts)


def test_where_nothing_moves_nothing_disagrees_and_noise_does() -> None:
    torch.manual_seed(0)
    model = build_model(tiny_card())
    noise = np.random.default_rng(0).integers(0, 256, (8, 120, 160, 3), dtype=np.uint8)
    still = disagreement(model, [clip([noise[0]] * 8)], interval=4, pixels=19_200, device=CPU).figures()
    assert still["frames"] == 5 and still["pixels"] == 0 and still["feature"] == pytest.approx(0, abs=1e-4)
    moving = disagreement(model, [clip(list(noise))], interval=4, pixels=19_200, device=CPU).figures()
    assert isinstance(moving["feature"], float) and moving["feature"] > 0.01


def test_the_disagreement_is_the_mean_over_every_offset() -> None:
    torch.manual_seed(0)
    model = build_model(tiny_card()).eval()
    frames = list(np.random.default_rng(0).integers(0, 256, (3, 120, 160, 3), dtype=np.uint8))
    outcome = disagreement(model, [clip(frames)], interval=3, pixels=19_200, device=CPU)
    images = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) for frame in frames]).float() / 255
    with torch.no_grad(), mixed_precision(CPU):
        features = model.feature_network(images).float()
    head, shares = model.heads["segmentation"], []
    with torch.no_grad():
        own = F.interpolate(head(features[2:]), (120, 160), mode="bilinear").argmax(1)
        for age in (1, 2):
            carried = propagated(model, features[2 - age : 3 - age], images[2:], images[2 - age : 3 - age], torch.tensor([age]))
            answer = F.interpolate(head(carried), (120, 160), mode="bilinear").argmax(1)
            shares.append(float((answer != own).float().mean()))
    assert outcome.figures()["pixels"] == pytest.approx(sum(shares) / 3, abs=5e-3)


def test_keys_are_not_taken_across_the_runs_of_a_recording() -> None:
    frames = list(np.random.default_rng(0).integers(0, 256, (9, 120, 160, 3), dtype=np.uint8))
    model = build_model(tiny_card())
    assert disagreement(model, [clip(frames, [0] * 4 + [4] * 5)], interval=4, pixels=19_200, device=CPU).frames == 3
    with pytest.raises(ValueError, match="needs as many consecutive frames"):
        disagreement(model, [clip(frames, [0] * 4 + [4] * 5)], interval=6, pixels=19_200, device=CPU)


def test_boxes_match_once_and_only_within_a_class() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], np.float32)
    ours = Detections(boxes[[0, 2]], np.ones(2, np.float32), np.array([0, 1]))
    assert matches(ours, ours) == 2
    assert matches(ours, Detections(boxes[[0, 1]], np.ones(2, np.float32), np.array([0, 0]))) == 1
    assert matches(ours, Detections(boxes[[2]], np.ones(1, np.float32), np.array([0]))) == 0
    assert matches(ours, Detections(boxes[:0], np.ones(0, np.float32), np.zeros(0, np.int64))) == 0
