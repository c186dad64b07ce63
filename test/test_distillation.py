"""The losses against a teacher: nothing where both agree, in units that say something, and each part is felt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dff_ros.core.rfcn import RFCNHead, RFCNMaps
from dff_train.distillation import detection_distillation, feature_loss, segmentation_distillation

SIDE = 96


def detector() -> RFCNHead:
    torch.manual_seed(0)
    return RFCNHead(64, classes=2, anchors=[(16, 32), (32, 16), (24, 24)], stride=8, bins=3, pre_nms=200, proposals=50)


def maps_with_an_object(head: RFCNHead) -> RFCNMaps:
    """A sure object of the first class in the middle, background elsewhere, and a little noise."""
    with torch.no_grad():
        maps = head(torch.rand(2, 64, 12, 12, generator=torch.Generator().manual_seed(1)))
    maps.objectness.sub_(4.0)
    maps.objectness[:, 0, 6, 6] += 12.0
    maps.class_maps[:, :9] += 4.0
    maps.class_maps[:, :9, 4:8, 5:7] -= 4.0
    maps.class_maps[:, 9:18, 4:8, 5:7] += 6.0
    return maps


def test_a_feature_of_zeros_is_off_by_one_and_the_true_one_by_nothing() -> None:
    taught = torch.rand(2, 8, 6, 7) * torch.logspace(-0.2, 0.2, 8).view(1, 8, 1, 1)
    assert feature_loss(taught, taught) == 0
    assert 0.7 < float(feature_loss(torch.zeros_like(taught), taught)) <= 1
    assert torch.isfinite(feature_loss(taught, torch.zeros_like(taught)))


def test_each_channel_counts_in_units_of_its_own_energy() -> None:
    taught = torch.ones(1, 2, 4, 4)
    taught[:, 1] = 10.0
    off = [taught.clone(), taught.clone()]
    off[0][:, 0] *= 1.5
    off[1][:, 1] *= 1.5
    small, large = (float(feature_loss(each, taught)) for each in off)
    assert small == pytest.approx(0.25 / 2 / (1 + 0.1 * 50.5)) and large == pytest.approx(25 / 2 / (100 + 0.1 * 50.5))


def test_class_scores_are_compared_by_divergence_and_rare_classes_can_weigh_more() -> None:
    taught = torch.zeros(1, 3, 2, 2)
    taught[:, 0] = 8.0
    taught[0, :, 1, 1] = torch.tensor([0.0, 0.0, 8.0])
    scores = taught.clone()
    scores[0, :, 1, 1] = torch.tensor([8.0, 0.0, 0.0])
    assert float(segmentation_distillation(taught + 3.0, taught)) == pytest.approx(0.0, abs=1e-6)
    shares = taught[0, :, 1, 1].softmax(0)
    divergence = float((shares * (taught[0, :, 1, 1].log_softmax(0) - scores[0, :, 1, 1].log_softmax(0))).sum())
    assert float(segmentation_distillation(scores, taught)) == pytest.approx(divergence / 4, rel=1e-4)
    weighed = float(segmentation_distillation(scores, taught, weights=torch.tensor([1.0, 1.0, 5.0])))
    assert weighed == pytest.approx(divergence * 5 / 8, rel=1e-2)


@pytest.mark.parametrize("part", RFCNMaps._fields)
def test_every_map_of_the_detection_head_is_held_against_the_teachers(part: str) -> None:
    head = detector()
    taught = maps_with_an_object(head)
    same = RFCNMaps(*(each.clone() for each in taught))
    assert float(detection_distillation(head, same, taught, SIDE, SIDE)) == pytest.approx(0.0, abs=1e-4)
    noise = torch.Generator().manual_seed(3)
    values: Tensor = getattr(taught, part)
    changed = (values + 0.3 * torch.randn(values.shape, generator=noise)).requires_grad_()
    loss = detection_distillation(head, same._replace(**{part: changed}), taught, SIDE, SIDE)
    loss.backward()
    assert float(loss.detach()) > 1e-3
    assert changed.grad is not None and float(changed.grad.abs().sum()) > 0


def test_an_object_that_is_missed_costs_more_than_a_change_in_the_background() -> None:
    head = detector()
    taught = maps_with_an_object(head)
    missed = RFCNMaps(*(each.clone() for each in taught))
    missed.class_maps[:, 9:18, 4:8, 5:7] -= 6.0
    elsewhere = RFCNMaps(*(each.clone() for each in taught))
    elsewhere.box_maps[:, :, :3, :3] += 1.0
    losses = [float(detection_distillation(head, maps, taught, SIDE, SIDE)) for maps in (missed, elsewhere)]
    assert losses[0] > 5 * losses[1]
