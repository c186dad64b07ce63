"""Bundles: what is written is what is read, and what is broken is refused in one clear line."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import tiny_card

from dff_ros.core.bundle import (
    BundleError,
    build_model,
    find_bundle,
    load_bundle,
    read_card,
    save_bundle,
    with_flow_network,
    with_refine_network,
)
from dff_ros.core.flow_network import DISFlow, FlowNetS
from dff_ros.core.refine_network import LightRefineNetwork
from dff_ros.core.results import Task


def edited(bundle: Path, folder: Path, **changes: object) -> Path:
    """A copy of a bundle whose card has some entries replaced."""
    copy = folder / "edited"
    shutil.copytree(bundle, copy)
    card = yaml.safe_load((copy / "model.yaml").read_text())
    (copy / "model.yaml").write_text(yaml.safe_dump({**card, **changes}))
    return copy


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    card = tiny_card()
    model = build_model(card).eval()
    save_bundle(tmp_path / "b", card, model)
    assert (tmp_path / "b" / "weights.safetensors").stat().st_mode & 0o044 == 0o044  # others may read it once installed
    loaded_card, loaded = load_bundle(str(tmp_path / "b"))
    assert loaded_card == card
    assert loaded.tasks == {Task.SEGMENTATION, Task.DETECTION} and not loaded.training
    image = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(loaded.feature_network(image), model.feature_network(image), atol=0.02, rtol=0.02)  # float16 on disk


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("resnet", 16), ("compact", 8)],
)
def test_cards_build_every_feature_network(kind: str, expected: int) -> None:
    arguments = {"resnet": {"depth": 18, "channels": 32}, "compact": {"channels": 32, "width": 8, "blocks": (1, 1, 1), "dilations": (1,)}}
    architecture = {**tiny_card().architecture, "feature_network": {"kind": kind, **arguments[kind]}}
    with torch.device("meta"):
        assert build_model(tiny_card(architecture=architecture)).stride == expected


@pytest.mark.parametrize("kind", ["flownet", "flownet_half", "flownet_inception"])
def test_cards_build_every_flow_network(kind: str) -> None:
    architecture = {**tiny_card().architecture, "flow_network": {"kind": kind}}
    with torch.device("meta"):
        assert isinstance(build_model(tiny_card(architecture=architecture)).flow_network, FlowNetS)


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_bundle_may_have_one_head_only(task: str, tmp_path: Path) -> None:
    card = tiny_card()
    architecture = {name: part for name, part in card.architecture.items() if name != task}
    emptied = {"segmentation": {"segmentation_classes": (), "palette": ()}, "detection": {"detection_classes": ()}}
    card = tiny_card(architecture=architecture, **emptied[task])
    save_bundle(tmp_path / "b", card, build_model(card))
    assert {t.value for t in load_bundle(str(tmp_path / "b"))[1].tasks} == {"segmentation", "detection"} - {task}


def test_a_missing_bundle_names_the_places_that_were_looked_in(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle 'nosuch': expected a folder with model.yaml, looked in .*models/nosuch"):
        find_bundle("nosuch")
    with pytest.raises(BundleError, match="expected a folder with model.yaml"):
        find_bundle(str(tmp_path))
    with pytest.raises(BundleError):
        find_bundle("")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"palette": [[0, 0, 0]]}, "palette should have 11 colours, got 1"),
        ({"palette": [[0, 0, 256]] * 11}, r"palette should hold colours of three numbers 0..255, got \(0, 0, 256\)"),
        ({"palette": [[0, 0]] * 11}, "palette should hold colours of three numbers"),
        ({"ignored_labels": [300]}, r"ignored_labels should be numbers 0..255, got \[300\]"),
        ({"detection_classes": ["car", None, "car"]}, "detection_classes should be names, each once"),
        ({"input_pixels": "many"}, "input_pixels should be of type int, got 'many'"),
        ({"input_pixels": 3}, "input_pixels should lie in"),
        ({"surprise": 1}, "surprise"),
        ({"architecture": {"feature_network": {}}}, "should name a feature_network with its kind"),
        (
            {"architecture": {"feature_network": {"kind": "compact"}, "flow_network": {"kind": "dis"}, "half_cell": True}},
            "architecture knows detection, feature_network, .*, got half_cell",
        ),
        ({"segmentation_classes": [f"class {n}" for n in range(256)]}, "segmentation should have at most 255 classes, .*, got 256"),
        ({"detection_classes": []}, "detection should stand in the architecture and have classes, or neither"),
    ],
)
def test_a_wrong_card_is_refused_with_what_was_expected(
    tiny_bundle: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        read_card(edited(tiny_bundle, tmp_path, **changes))
    assert "\n" not in str(caught.value) and "model.yaml" in str(caught.value)


def test_an_unknown_network_is_refused_with_the_known_kinds(tiny_bundle: Path, tmp_path: Path) -> None:
    architecture = yaml.safe_load((tiny_bundle / "model.yaml").read_text())["architecture"]
    architecture["feature_network"] = {"kind": "vgg"}
    with pytest.raises(BundleError, match="feature_network kind should be one of resnet, compact, pyramid, got 'vgg'"):
        load_bundle(str(edited(tiny_bundle, tmp_path, architecture=architecture)))


@pytest.mark.parametrize(
    ("part", "arguments"),
    [
        ("detection", {"pre_nms": 1.5}),
        ("detection", {"proposals": "many"}),
        ("feature_network", {"dilations": [0, 0]}),
        ("feature_network", {"channels": -1}),
    ],
)
def test_networks_that_cannot_be_built_or_run_are_refused_in_one_line(
    tiny_bundle: Path, tmp_path: Path, part: str, arguments: dict[str, object]
) -> None:
    architecture = yaml.safe_load((tiny_bundle / "model.yaml").read_text())["architecture"]
    architecture[part] |= arguments
    with pytest.raises(BundleError, match=r"model\.yaml: ") as caught:
        load_bundle(str(edited(tiny_bundle, tmp_path, architecture=architecture)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "other shapes"])
def test_broken_weights_are_refused_in_one_line(tiny_bundle: Path, tmp_path: Path, damage: str) -> None:
    broken = edited(tiny_bundle, tmp_path)
    weights = broken / "weights.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "garbage":
        weights.write_bytes(b"not weights")
    else:
        card = yaml.safe_load((broken / "model.yaml").read_text())
        card["architecture"]["feature_network"]["width"] = 16
        (broken / "model.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(BundleError, match="weights.safetensors") as caught:
        load_bundle(str(broken))
    assert "\n" not in str(caught.value)


def test_a_card_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    for text in ("a: [", "name: 2020-13-45", "a: &b [*b]"):  # no list's end, no such date, a list within itself
        (tmp_path / "model.yaml").write_text(text)
        with pytest.raises(BundleError, match="model.yaml"):
            read_card(tmp_path)
    (tmp_path / "model.yaml").write_text("- a list")
    with pytest.raises(BundleError, match="should be a mapping, got list"):
        read_card(tmp_path)


def test_another_flow_network_needs_weights_unless_it_is_dis(tmp_path: Path) -> None:
    architecture = {**tiny_card().architecture, "flow_network": {"kind": "flownet", "width": 0.125}}
    card = tiny_card(architecture=architecture)
    model = build_model(card)
    assert isinstance(with_flow_network(model, card, "dis").flow_network, DISFlow)
    assert with_flow_network(model, card, "flownet") is model
    with pytest.raises(BundleError, match="no weights for the flow network 'flownet_half'"):
        with_flow_network(model, card, "flownet_half")
    with pytest.raises(BundleError, match="should be one of dis, still, flownet"):
        with_flow_network(model, card, "raft")


@pytest.mark.parametrize("flow_network", [{"kind": "dis"}, {"kind": "flownet", "width": 0.125}])
@pytest.mark.parametrize("chained", [None, False, True])
def test_a_card_says_whether_flow_is_chained(tmp_path: Path, flow_network: dict[str, object], chained: bool | None) -> None:
    said = {} if chained is None else {"chained": chained}
    card = tiny_card(architecture={**tiny_card().architecture, "flow_network": {**flow_network, **said}})
    save_bundle(tmp_path / "b", card, build_model(card))
    loaded_card, model = load_bundle(str(tmp_path / "b"))
    assert model.chains_flow is (chained is True)
    assert with_refine_network(model, loaded_card, {"kind": "light", "width": 8})[1].chains_flow is model.chains_flow
    assert with_flow_network(model, loaded_card, "dis").chains_flow is model.chains_flow
    assert not with_flow_network(model, loaded_card, "still").chains_flow


def test_a_flow_network_is_chained_or_not(tiny_bundle: Path, tmp_path: Path) -> None:
    architecture = yaml.safe_load((tiny_bundle / "model.yaml").read_text())["architecture"]
    architecture["flow_network"]["chained"] = "sometimes"
    with pytest.raises(BundleError, match=r"flow_network's chained should be true or false, got 'sometimes'"):
        read_card(edited(tiny_bundle, tmp_path, architecture=architecture))


def test_a_users_own_network_joins_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint, EntryPoints

    from dff_ros.core import bundle

    point = EntryPoint("mine", "dff_ros.core.feature_network:CompactFeatureNetwork", bundle.FEATURE_NETWORKS)
    monkeypatch.setattr(bundle, "entry_points", lambda group: EntryPoints([point]).select(group=group))
    architecture = {**tiny_card().architecture, "feature_network": {"kind": "mine", "width": 8, "blocks": (1, 1, 1), "dilations": (1,)}}
    assert build_model(tiny_card(architecture=architecture)).stride == 8


def test_a_bundle_with_a_branch_on_the_current_frame_comes_back_as_it_was_written(refined_bundle: Path) -> None:
    card, model = load_bundle(str(refined_bundle))
    assert card.architecture["refine_network"] == {"kind": "light", "width": 16, "blocks": (1, 1)}
    assert isinstance(model.refine_network, LightRefineNetwork)
    assert float(model.refine_network.correction.weight.std()) == pytest.approx(0.5, rel=0.2)  # not a fresh branch's zeros


def test_a_bundle_needs_no_branch(tiny_bundle: Path) -> None:
    assert load_bundle(str(tiny_bundle))[1].refine_network is None


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        ({"kind": "heavy"}, "refine_network kind should be one of light, look, got 'heavy'"),
        ({"width": 16}, "architecture should name a refine_network with its kind"),
        (None, "architecture should name a refine_network with its kind"),
        ({"kind": "light", "width": 0}, "width should be at least 2"),
        ({"kind": "light", "blocks": [1, 1, 1]}, "blocks two counts"),
        ({"kind": "light", "depth": 3}, "unexpected keyword argument 'depth'"),
        ({"kind": "light", "width": 32, "blocks": [1, 1]}, "size mismatch"),
    ],
)
def test_a_wrong_branch_is_refused_in_one_line(refined_bundle: Path, tmp_path: Path, branch: object, message: str) -> None:
    architecture = yaml.safe_load((refined_bundle / "model.yaml").read_text())["architecture"]
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(str(edited(refined_bundle, tmp_path, architecture={**architecture, "refine_network": branch})))
    assert "\n" not in str(caught.value)


def test_a_bundle_is_tried_out_through_its_branch(refined_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("asked for an answer")

    monkeypatch.setattr(LightRefineNetwork, "forward", refuse)
    with pytest.raises(BundleError, match=r"model\.yaml: asked for an answer"):
        load_bundle(str(refined_bundle))


def test_a_bundle_without_a_branch_can_be_given_one_and_another_flow_keeps_it(tiny_bundle: Path, tmp_path: Path) -> None:
    card, model = load_bundle(str(tiny_bundle))
    card, model = with_refine_network(model, card, {"kind": "light", "width": 8})
    assert model.refine_network.channels == 32
    save_bundle(tmp_path / "b", card, model)
    assert load_bundle(str(tmp_path / "b"))[1].refine_network.gate.in_channels == 8
    with pytest.raises(ValueError, match="kind should be one of light, look, got 'heavy'"):
        with_refine_network(model, card, {"kind": "heavy"})
    flownet = {**card.architecture, "flow_network": {"kind": "flownet", "width": 0.125}}
    model = build_model(replace(card, architecture=flownet))
    assert with_flow_network(model, replace(card, architecture=flownet), "dis").refine_network is model.refine_network
