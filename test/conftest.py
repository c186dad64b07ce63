"""What many tests share: small bundles with random weights, and one torch thread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dff_ros.core.bundle import Card, build_model, save_bundle, with_refine_network
from dff_ros.core.results import Task

CAMVID_CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Small tensors run fastest on one thread, and tests share the machine."""
    torch.set_num_threads(1)


def tiny_card(**changes: object) -> Card:
    """The card of a bundle that is quick to run: every part is real, only small."""
    values: dict[str, object] = {
        "name": "tiny",
        "description": "random weights for tests",
        "architecture": {
            "feature_network": {"kind": "compact", "channels": 32, "width": 8, "blocks": (1, 1, 2), "dilations": (1, 2)},
            "flow_network": {"kind": "dis"},
            "segmentation": {},
            "detection": {"anchors": ((20.0, 60.0), (60.0, 40.0)), "bins": 3, "proposals": 30, "pre_nms": 100},
        },
        "licence": "Apache-2.0",
        "segmentation_classes": CAMVID_CLASSES,
        "palette": tuple((20 * i, 255 - 20 * i, 128) for i in range(len(CAMVID_CLASSES))),
        "ignored_labels": (11,),
        "detection_classes": ("person", "car", "bicyclist"),
        "input_pixels": 19_200,
    }
    return Card(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle with random weights: compact network, DIS flow, both heads, 160x120 input."""
    torch.manual_seed(0)
    card = tiny_card()
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    save_bundle(folder, card, build_model(card))
    return folder


@pytest.fixture(scope="session")
def refined_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``tiny_bundle`` with a branch on the current frame that corrects a lot, and a head that answers many classes."""
    torch.manual_seed(0)
    card = tiny_card(name="refined")
    card, model = with_refine_network(build_model(card), card, {"kind": "light", "width": 16, "blocks": (1, 1)})
    torch.nn.init.normal_(model.refine_network.correction.weight, std=0.5)
    score = model.head(Task.SEGMENTATION).score
    torch.nn.init.normal_(score.weight)
    torch.nn.init.zeros_(score.bias)
    folder = tmp_path_factory.mktemp("bundles") / "refined"
    save_bundle(folder, card, model)
    return folder
