"""The losses against plain loops, what partial labels must not teach, and that a small network learns from them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dff_ros.core.boxes import box_iou, make_anchors
from dff_ros.core.results import ImageGeometry
from dff_ros.core.rfcn import RFCNHead, RFCNMaps
from dff_train.losses import (
    HARD_ROIS,
    box_losses,
    class_losses,
    detection_loss,
    lovasz_loss,
    rpn_loss,
    segmentation_loss,
    smooth_l1,
    unlabelled_objects,
)
from dff_train.targets import DetectionTargets, RoITargets

SIDE = 96
NO_BOXES = torch.zeros(0, 4)


def truth(boxes: list[list[float]], labels: list[int], labelled: list[bool]) -> DetectionTargets:
    return DetectionTargets(
        torch.tensor(boxes).view(-1, 4).float(), torch.tensor(labels, dtype=torch.long), NO_BOXES, torch.tensor(labelled)
    )


OBJECTS = truth([[10, 10, 26, 42], [50, 60, 82, 76]], [0, 1], [True, True])
UNLABELLED_IMAGE = truth([], [], [False, False])
EMPTY_STREET = truth([], [], [True, True])


def make_head() -> RFCNHead:
    torch.manual_seed(0)
    return RFCNHead(64, classes=2, anchors=[(16, 32), (32, 16), (24, 24)], stride=8, bins=3, pre_nms=200, proposals=50)


def make_maps(head: RFCNHead, images: int) -> RFCNMaps:
    feature = torch.randn(images, 64, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(1))
    return RFCNMaps(*(each.detach().requires_grad_() for each in head(feature)))


def test_smooth_l1_by_hand() -> None:
    x = torch.tensor([-2.0, -0.1, 0.0, 0.5, 3.0])
    assert torch.allclose(smooth_l1(x, 1.0), torch.tensor([1.5, 0.005, 0.0, 0.125, 2.5]))
    assert torch.allclose(smooth_l1(x, 3.0), torch.tensor([2 - 1 / 18, 0.045, 0.0, 0.5 - 1 / 18, 3 - 1 / 18]))


def slow_class_loss(logits: Tensor, label: int, labelled: list[bool]) -> float:
    p = logits.softmax(dim=0).tolist()
    if label > 0:
        return -math.log(p[label])
    return -math.log(p[0] + sum(p[1 + c] for c, known in enumerate(labelled) if not known))


@pytest.mark.parametrize("labelled", [[True, True, True], [True, False, True], [False, False, True]])
def test_class_losses_are_the_slow_ones(labelled: list[bool]) -> None:
    logits = torch.randn(20, 4) * 3
    labels = torch.randint(0, 4, (20,))
    expected = torch.tensor([slow_class_loss(row, int(label), labelled) for row, label in zip(logits, labels, strict=True)])
    assert torch.allclose(class_losses(logits, labels, torch.tensor(labelled)), expected, atol=1e-5)


def test_background_teaches_nothing_about_unlabelled_classes() -> None:
    sure = torch.tensor([[0.0, 0.0, 20.0]], requires_grad=True)  # sure of the class that the data set does not label
    loss = class_losses(sure, torch.tensor([0]), torch.tensor([True, False]))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    logits = torch.randn(8, 3, requires_grad=True)
    class_losses(logits, torch.zeros(8, dtype=torch.long), torch.tensor([True, False])).sum().backward()
    assert logits.grad is not None
    ratio = logits.grad[:, 2] / logits.grad[:, 0]
    assert torch.allclose(ratio, (logits[:, 2] - logits[:, 0]).exp(), rtol=1e-3)  # pushed up alike, never down
    assert (logits.grad[:, 1] > 0).all()


def test_box_losses_are_of_the_foreground() -> None:
    rois = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    targets = RoITargets(rois, torch.tensor([0, 1]), torch.tensor([[0.0, 0, 0, 0], [1, 0, 11, 10]]))
    losses = box_losses(torch.zeros(2, 4), targets, (0.1, 0.1, 0.2, 0.2))
    assert losses.tolist() == pytest.approx([0, 0.5])  # one pixel of ten is one standard deviation


def test_segmentation_loss_is_cross_entropy_at_label_size() -> None:
    logits = torch.randn(2, 4, 3, 5)
    labels = torch.randint(0, 4, (2, 12, 20), dtype=torch.uint8)
    labels[0, :6] = 255
    upsampled = F.interpolate(logits, (12, 20), mode="bilinear", align_corners=False)
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0])
    for each in (None, weights):
        expected = F.cross_entropy(upsampled, labels.long(), weight=each, ignore_index=255)
        assert torch.allclose(segmentation_loss(logits, labels, weights=each), expected)


def test_unlabelled_pixels_teach_nothing() -> None:
    logits = torch.randn(1, 4, 3, 5, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 12, 20), 255, dtype=torch.uint8), weights=torch.ones(4))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_without_detection_truth_the_loss_is_nothing() -> None:
    head = make_head()
    maps = make_maps(head, 2)
    losses = detection_loss(head, maps, [UNLABELLED_IMAGE] * 2, SIDE, SIDE)
    assert set(losses) == {"rpn_class", "rpn_box", "rfcn_class", "rfcn_box"}
    torch.stack(list(losses.values())).sum().backward()
    for name, loss in losses.items():
        assert loss.item() == 0, name
    for each in maps:
        assert each.grad is not None
        assert not each.grad.any()


def test_an_unlabelled_image_adds_nothing() -> None:
    head = make_head()
    maps = make_maps(head, 3)
    torch.manual_seed(1)
    mixed = detection_loss(head, maps, [UNLABELLED_IMAGE, OBJECTS, UNLABELLED_IMAGE], SIDE, SIDE)
    torch.manual_seed(1)
    alone = detection_loss(head, RFCNMaps(*(each[1:2] for each in maps)), [OBJECTS], SIDE, SIDE)
    for name, loss in alone.items():
        assert torch.allclose(mixed[name], loss), name
    torch.stack(list(mixed.values())).sum().backward()
    for each in maps:
        assert each.grad is not None
        assert each.grad[1].any()
        assert not each.grad[0].any()
        assert not each.grad[2].any()


def test_an_image_without_objects_has_no_box_loss() -> None:
    head = make_head()
    losses = detection_loss(head, make_maps(head, 1), [EMPTY_STREET], SIDE, SIDE)
    assert losses["rpn_box"].item() == 0
    assert losses["rfcn_box"].item() == 0
    assert losses["rpn_class"].item() > 0
    assert losses["rfcn_class"].item() > 0


def test_the_rpn_loss_is_the_slow_one() -> None:
    torch.manual_seed(0)
    head = RFCNHead(64, classes=2, anchors=[(16, 24)], stride=8, bins=3)  # 36 anchors on 48 x 48: the sample is all of them
    maps = head(torch.randn(1, 64, 6, 6) * 10)
    target = truth([[8, 8, 24, 32]], [0], [True, True])
    class_terms, box_loss = [], 0.0
    for y in range(6):
        for x in range(6):
            anchor = torch.tensor([[x * 8 - 4.0, y * 8 - 8.0, x * 8 + 12.0, y * 8 + 16.0]])
            iou = box_iou(anchor, target.boxes).item()
            logit = maps.objectness[0, 0, y, x].item()
            if (x, y) in ((1, 2), (2, 2)):  # none reaches .7; these two tie for best
                class_terms.append(math.log1p(math.exp(-logit)))
                wanted = torch.tensor([(16 - (x * 8 + 4)) / 16 / 0.1, (20 - (y * 8 + 4)) / 24 / 0.1, 0.0, 0.0])
                box_loss += smooth_l1(maps.anchor_deltas[0, :, y, x] - wanted, 3.0).sum().item() / 256
            elif iou < 0.3:
                class_terms.append(math.log1p(math.exp(logit)))
    class_loss, rpn_box = rpn_loss(head, maps, [target], 48, 48)
    assert class_loss.item() == pytest.approx(sum(class_terms) / len(class_terms), rel=1e-5)
    assert rpn_box.item() == pytest.approx(box_loss, rel=1e-5)


def slow_negatives(anchors: Tensor, labelled: Tensor, unlabelled: Tensor) -> list[bool]:
    """Anchor by anchor: under .3 with everything, and the best one (of all that tie) of neither an object that is labelled nor another."""
    boxes = torch.cat([labelled, unlabelled])
    iou = box_iou(anchors, boxes)
    best = [max(iou[:, g].tolist()) for g in range(len(boxes))]
    return [
        all(iou[i, g] < 0.3 for g in range(len(boxes))) and not any(0 < iou[i, g] == best[g] for g in range(len(boxes)))
        for i in range(len(anchors))
    ]


@pytest.mark.parametrize("unlabelled", [[], [[26.0, 20, 44, 40]], [[26.0, 20, 44, 40], [4, 4, 9, 11]]])
def test_objects_known_to_be_unlabelled_are_no_background_for_the_rpn(unlabelled: list[list[float]]) -> None:
    torch.manual_seed(0)
    head = RFCNHead(64, classes=2, anchors=[(16, 24)], stride=8, bins=3)  # 36 anchors on 48 x 48: the sample is all of them
    maps = head(torch.randn(1, 64, 6, 6) * 10)
    target, others = truth([[8, 8, 24, 32]], [0], [True, False]), torch.tensor(unlabelled).view(-1, 4)
    anchors = make_anchors(head.anchors, head.stride, 6, 6)
    negative = slow_negatives(anchors, target.boxes, others)
    assert (sum(slow_negatives(anchors, target.boxes, NO_BOXES)) - sum(negative) > 0) == bool(unlabelled)
    logits = maps.objectness[0, 0].flatten().tolist()
    iou = box_iou(anchors, target.boxes)[:, 0]
    terms = [math.log1p(math.exp(logits[i])) for i in range(36) if negative[i]]
    terms += [math.log1p(math.exp(-logits[i])) for i in range(36) if iou[i] == iou.max()]
    class_loss, rpn_box = rpn_loss(head, maps, [target], 48, 48, unlabelled=[others])
    assert class_loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert rpn_box.item() == rpn_loss(head, maps, [target], 48, 48)[1].item()


def sure_maps(head: RFCNHead) -> RFCNMaps:
    """A teacher that sees one object of the first class on the left and one of the second on the right, background elsewhere."""
    maps = RFCNMaps(*(torch.zeros_like(each) for each in head(torch.zeros(1, 64, SIDE // 8, SIDE // 8))))
    maps.objectness.sub_(6.0)
    maps.class_maps[:, :9] += 6.0
    for label, column in ((1, 3), (2, 9)):
        maps.objectness[:, 0, 5, column] = 6.0
        maps.class_maps[:, 9 * label : 9 * label + 9, 3:8, column - 1 : column + 2] = 18.0
    return maps


def test_a_teacher_names_the_objects_that_an_image_does_not_label() -> None:
    head = make_head()
    head.pre_nms = 2  # the two proposals that the maps are sure of
    taught = RFCNMaps(*(each.repeat(3, 1, 1, 1) for each in sure_maps(head)))
    images = [truth([], [], labelled) for labelled in ([True, False], [False, True], [True, True])]
    found = unlabelled_objects(head, taught, images, SIDE, SIDE)
    left, right = ([[8.0 * column - 4, 28, 8 * column + 12, 60]] for column in (3, 9))  # the 16 x 32 anchor, as it is
    assert [boxes.tolist() for boxes in found] == [right, left, []]
    unsure = RFCNMaps(*(each * 0.0 for each in taught))
    assert [len(boxes) for boxes in unlabelled_objects(head, unsure, images, SIDE, SIDE)] == [0, 0, 0]


def test_with_a_teacher_the_rpn_is_not_taught_that_its_unlabelled_objects_are_background() -> None:
    head = make_head()
    taught = RFCNMaps(*(each.repeat(2, 1, 1, 1) for each in sure_maps(head)))
    targets = [UNLABELLED_IMAGE, truth([], [], [True, False])]
    gradients = []
    for known in (None, taught):
        maps = RFCNMaps(*(torch.zeros_like(each).requires_grad_() for each in taught))
        total = torch.zeros_like(maps.objectness)
        for seed in range(40):  # the sample of 256 out of 432 is random
            torch.manual_seed(seed)
            detection_loss(head, maps, targets, SIDE, SIDE, taught=known)["rpn_class"].backward()
            assert maps.objectness.grad is not None
            total += maps.objectness.grad
        gradients.append(total)
    without, with_teacher = gradients
    assert without[1, 0, 5, 9] > 0 and with_teacher[1, 0, 5, 9] == 0
    assert with_teacher[1, 0, 5, 3] > 0, "what it sees of a labelled class and nobody labelled is background"
    assert not with_teacher[0].any()


def test_only_the_hardest_rois_are_learned_from() -> None:
    head = make_head()
    head.proposals, head.proposal_nms = 200, 1.0
    maps = make_maps(head, 1)
    proposals = head.propose(maps, SIDE, SIDE)[0]
    assert len(proposals) > HARD_ROIS
    logits, _ = head.pool(maps, F.pad(proposals, (1, 0)))
    expected = (-logits.log_softmax(dim=1)[:, 0]).sort(descending=True).values[:HARD_ROIS].mean()
    losses = detection_loss(head, maps, [EMPTY_STREET], SIDE, SIDE)
    assert torch.allclose(losses["rfcn_class"], expected)


def test_maps_that_say_nothing_cost_a_guess() -> None:
    head = make_head()
    maps = RFCNMaps(*(torch.zeros_like(each) for each in make_maps(head, 1)))
    losses = detection_loss(head, maps, [OBJECTS], SIDE, SIDE)
    assert losses["rpn_class"].item() == pytest.approx(math.log(2))
    assert losses["rfcn_class"].item() == pytest.approx(math.log(3))


def test_one_truth_for_each_image() -> None:
    head = make_head()
    with pytest.raises(ValueError, match="one for each of 2 images, got 1"):
        detection_loss(head, make_maps(head, 2), [OBJECTS], SIDE, SIDE)


def draw(target: DetectionTargets) -> Tensor:
    """A dark picture, the objects of class c bright in channel c."""
    image = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.1
    for (x1, y1, x2, y2), label in zip(target.boxes.int().tolist(), target.box_labels.tolist(), strict=True):
        image[label, y1:y2, x1:x2] = 1.0
    return image


def small_network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 2), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def test_a_small_network_learns_to_find_the_objects() -> None:
    head, network = make_head(), small_network()
    targets = [OBJECTS, truth([[60, 20, 76, 52], [10, 70, 42, 86]], [0, 1], [True, True])]
    images = torch.stack([draw(target) for target in targets])
    optimiser = torch.optim.Adam([*network.parameters(), *head.parameters()], 1e-2)
    history = []
    for _ in range(60):
        loss = torch.stack(list(detection_loss(head, head(network(images)), targets, SIDE, SIDE).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert sum(history[-5:]) < 0.2 * sum(history[:5])
    network.eval()
    geometry = ImageGeometry(SIDE, SIDE, SIDE, SIDE, SIDE, SIDE)
    for image, target in zip(images, targets, strict=True):
        found = head.decode(head(network(image[None])), geometry).above(0.5)
        assert sorted(found.labels.tolist()) == [0, 1]
        boxes = torch.from_numpy(found.boxes)[torch.from_numpy(found.labels).argsort()]
        assert box_iou(boxes, target.boxes).diagonal().min() > 0.6


def test_lovasz_loss_of_hard_answers_is_one_minus_the_mean_iou() -> None:
    labels = torch.tensor([[[0, 0, 1, 1], [0, 2, 1, 255]]], dtype=torch.uint8).repeat_interleave(4, 1).repeat_interleave(4, 2)
    answers = torch.tensor([[[0, 1, 1, 1], [0, 2, 2, 0]]])
    scores = F.one_hot(answers, 4).permute(0, 3, 1, 2).float() * 1000.0
    expected = 1 - (2 / 3 + 2 / 4 + 1 / 2) / 3
    assert lovasz_loss(scores, labels).item() == pytest.approx(expected, abs=1e-6)


def test_lovasz_loss_falls_along_its_gradient_and_ignores_what_has_no_truth() -> None:
    labels = torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    scores = torch.zeros(2, 3, 4, 4, requires_grad=True)
    before = lovasz_loss(scores, labels)
    before.backward()
    assert scores.grad is not None
    assert lovasz_loss(scores.detach() - scores.grad, labels) < before
    assert lovasz_loss(scores, torch.full((2, 8, 8), 255, dtype=torch.uint8)).item() == 0
