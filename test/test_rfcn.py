"""The R-FCN head: pooling against the paper's sum, decisions against maps painted by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dff_ros.core.boxes import box_iou, encode_boxes, make_anchors
from dff_ros.core.results import MINIMUM_SCORE, Detections, ImageGeometry, Task
from dff_ros.core.rfcn import RFCNHead, RFCNMaps, flatten_anchors, position_sensitive_roi_pool


def slow_pool(maps: Tensor, rois: Tensor, bins: int, stride: int) -> Tensor:
    """R-FCN's equation 1, cell by cell."""
    _, channels, height, width = maps.shape
    depth = channels // bins**2
    pooled = maps.new_zeros(len(rois), depth, bins, bins)
    for r, (image, *roi) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (edge / stride for edge in roi)
        bin_width, bin_height = max(x2 - x1, 0.1) / bins, max(y2 - y1, 0.1) / bins
        for i in range(bins):
            rows = [y for y in range(height) if math.floor(y1 + i * bin_height) <= y < math.ceil(y1 + (i + 1) * bin_height)]
            for j in range(bins):
                columns = [x for x in range(width) if math.floor(x1 + j * bin_width) <= x < math.ceil(x1 + (j + 1) * bin_width)]
                for d in range(depth):
                    cells = [maps[int(image), (d * bins + i) * bins + j, y, x] for y in rows for x in columns]
                    if cells:
                        pooled[r, d, i, j] = torch.stack(cells).mean()
    return pooled


def random_rois(count: int, images: int, height: float, width: float, seed: int = 0) -> Tensor:
    """Boxes on eighths of a pixel, some of them beyond the image, some without any width."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 1.2 - 0.1
    size = torch.rand(count, 2, generator=generator) ** 2
    size[::7] = 0
    boxes = torch.cat([low, low + size], dim=1) * torch.tensor([width, height, width, height])
    image = torch.randint(0, images, (count, 1), generator=generator)
    return torch.cat([image, (boxes * 8).round() / 8], dim=1)


@pytest.mark.parametrize("bins", [1, 3, 4])
def test_pooling_is_the_papers_sum(bins: int) -> None:
    maps = torch.randn(2, 2 * bins**2, 6, 9, dtype=torch.float64)
    rois = random_rois(25, 2, 48, 72).double()
    pooled = position_sensitive_roi_pool(maps, rois, bins=bins, stride=8)
    assert pooled.shape == (25, 2, bins, bins)
    assert torch.allclose(pooled, slow_pool(maps, rois, bins, 8), atol=1e-12)


def test_each_bin_reads_its_own_map() -> None:
    maps = torch.arange(18.0).view(1, 18, 1, 1).expand(1, 18, 6, 6)
    pooled = position_sensitive_roi_pool(maps, torch.tensor([[0.0, 0, 0, 48, 48]]), bins=3, stride=8)
    assert torch.allclose(pooled, torch.arange(18.0).view(1, 2, 3, 3))


def test_bins_count_downwards_then_to_the_right() -> None:
    maps = torch.zeros(1, 4, 4, 4)
    maps[0, :, 0, 3] = 1.0  # top right cell of the picture
    pooled = position_sensitive_roi_pool(maps, torch.tensor([[0.0, 0, 0, 32, 32]]), bins=2, stride=8)
    assert torch.allclose(pooled, torch.tensor([[[[0.0, 0.25], [0.0, 0.0]]]]), atol=1e-6)


def test_an_empty_bin_is_zero() -> None:
    maps = torch.full((1, 4, 4, 4), 5.0)
    outside = position_sensitive_roi_pool(maps, torch.tensor([[0.0, 40, 40, 60, 60]]), bins=2, stride=8)
    assert outside.tolist() == [[[[0, 0], [0, 0]]]]


def test_pooling_stays_exact_on_large_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 9, 160, 240, generator=generator) + 50  # a plain float32 table of sums is off by 0.1 here
    rois = random_rois(40, 1, 1280, 1920)
    exact = position_sensitive_roi_pool(maps.double(), rois.double(), bins=3, stride=8)
    assert (position_sensitive_roi_pool(maps, rois, bins=3, stride=8) - exact).abs().max() < 1e-3


def test_pooling_of_bfloat16_maps_is_float32() -> None:
    maps = torch.randn(1, 4, 5, 5).bfloat16()
    rois = torch.tensor([[0.0, 3, 3, 30, 30]])
    pooled = position_sensitive_roi_pool(maps, rois, bins=2, stride=8)
    assert pooled.dtype == torch.float32
    assert torch.allclose(pooled, slow_pool(maps.float(), rois, 2, 8), atol=1e-5)


def test_pooling_gradient() -> None:
    maps = torch.randn(2, 8, 4, 5, dtype=torch.float64, requires_grad=True)
    rois = random_rois(6, 2, 32, 40).double()
    assert torch.autograd.gradcheck(lambda each: position_sensitive_roi_pool(each, rois, bins=2, stride=8), (maps,))


def test_pooling_of_no_rois() -> None:
    pooled = position_sensitive_roi_pool(torch.randn(1, 8, 4, 5), torch.zeros(0, 5), bins=2, stride=8)
    assert pooled.shape == (0, 2, 2, 2)


def test_pooling_refuses_maps_of_other_bins() -> None:
    with pytest.raises(ValueError, match=r"multiple of 3\^2 channels, got \(1, 8, 4, 5\)"):
        position_sensitive_roi_pool(torch.zeros(1, 8, 4, 5), torch.zeros(0, 5), bins=3, stride=8)


ANCHORS = [(16.0, 32.0), (32.0, 16.0)]


def make_head(**options: object) -> RFCNHead:
    torch.manual_seed(0)
    return RFCNHead(16, classes=3, anchors=ANCHORS, stride=8, **{"bins": 2, **options})  # type: ignore[arg-type]


def empty_maps(rows: int, columns: int, *, classes: int = 3, bins: int = 2) -> RFCNMaps:
    """Maps that say: no object anywhere."""
    class_maps = torch.zeros(1, classes + 1, bins**2, rows, columns)
    class_maps[:, 0] = 8.0
    return RFCNMaps(
        torch.full((1, len(ANCHORS), rows, columns), -8.0),
        torch.zeros(1, 4 * len(ANCHORS), rows, columns),
        class_maps.flatten(1, 2),
        torch.zeros(1, 4 * bins**2, rows, columns),
    )


def paint(maps: RFCNMaps, row: int, column: int, *, anchor: int, label: int, logit: float = 12.0) -> None:
    """Make the anchor at that cell the best proposal, and its box an object of class ``label``."""
    maps.objectness[0, anchor, row, column] = logit
    width, height = ANCHORS[anchor]
    x, y = (column + 0.5) * 8, (row + 0.5) * 8
    area = (
        slice(max(0, math.floor((y - height / 2) / 8)), math.ceil((y + height / 2) / 8)),
        slice(max(0, math.floor((x - width / 2) / 8)), math.ceil((x + width / 2) / 8)),
    )
    maps.class_maps.unflatten(1, (4, 4))[(0, label + 1, slice(None), *area)] = logit


def same_size(height: int, width: int) -> ImageGeometry:
    return ImageGeometry(height, width, height, width, height, width)


def test_maps_have_the_papers_channels() -> None:
    head = make_head()
    maps = head(torch.randn(2, 16, 5, 7))
    assert [tuple(each.shape) for each in maps] == [(2, 2, 5, 7), (2, 8, 5, 7), (2, 16, 5, 7), (2, 16, 5, 7)]
    assert head.task is Task.DETECTION


def test_each_half_of_the_feature_feeds_its_own_branch() -> None:
    head, feature = make_head(), torch.randn(1, 16, 5, 7)
    before = head(feature)
    feature[:, :8] += 1
    first = head(feature)
    assert not torch.equal(before.objectness, first.objectness)
    assert torch.equal(before.class_maps, first.class_maps)
    feature[:, 8:] += 1
    second = head(feature)
    assert torch.equal(first.objectness, second.objectness)
    assert not torch.equal(first.box_maps, second.box_maps)


def test_flattened_maps_stand_in_the_order_of_the_anchors() -> None:
    objectness = torch.arange(2.0 * 3 * 4).view(1, 2, 3, 4)
    deltas = torch.arange(8.0 * 3 * 4).view(1, 8, 3, 4)
    logits, offsets = flatten_anchors(objectness, deltas)
    index = (1 * 4 + 2) * 2 + 1  # row 1, column 2, anchor 1
    assert logits[0, index] == objectness[0, 1, 1, 2]
    assert torch.equal(offsets[0, index], deltas[0, 4:8, 1, 2])
    assert len(logits[0]) == len(make_anchors(ANCHORS, 8, 3, 4))


def test_an_object_is_found_where_it_was_painted() -> None:
    maps = empty_maps(12, 16)
    paint(maps, 5, 4, anchor=0, label=1)
    paint(maps, 8, 11, anchor=1, label=2, logit=11.0)
    detections = make_head().decode(maps, same_size(96, 128)).above(0.5)
    assert detections.labels.tolist() == [1, 2]
    assert np.allclose(detections.boxes[0], [28, 28, 44, 60])
    assert np.allclose(detections.boxes[1], [76, 60, 108, 76])
    assert detections.boxes.dtype == np.float32
    assert detections.labels.dtype == np.int64


def test_offsets_move_the_anchor_and_then_the_proposal() -> None:
    head, maps = make_head(), empty_maps(12, 16)
    paint(maps, 5, 5, anchor=0, label=0)
    anchor = torch.tensor([[36.0, 28, 52, 60]])
    proposal = torch.tensor([[32.0, 24, 56, 64]])
    wanted = torch.tensor([[33.0, 27, 57, 63]])
    maps.anchor_deltas[0, :4, 5, 5] = encode_boxes(proposal, anchor, head.anchor_stds)[0]
    maps.box_maps.unflatten(1, (4, 4))[0] = encode_boxes(wanted, proposal, head.box_stds).view(4, 1, 1, 1)
    detections = head.decode(maps, same_size(96, 128)).above(0.5)
    assert np.allclose(detections.boxes, wanted.numpy(), atol=1e-3)


def test_boxes_come_back_in_source_pixels() -> None:
    maps = empty_maps(12, 16)
    paint(maps, 5, 4, anchor=0, label=0)
    geometry = ImageGeometry(source_height=180, source_width=480, height=90, width=120, padded_height=96, padded_width=128)
    detections = make_head().decode(maps, geometry).above(0.5)
    assert np.allclose(detections.boxes, [[28 * 4, 28 * 2, 44 * 4, 60 * 2]])


def test_boxes_end_at_the_edges_of_the_source() -> None:
    maps = empty_maps(12, 16)
    paint(maps, 0, 0, anchor=0, label=0)
    geometry = ImageGeometry(source_height=180, source_width=480, height=90, width=120, padded_height=96, padded_width=128)
    detections = make_head().decode(maps, geometry).above(0.5)
    assert np.allclose(detections.boxes, [[0, 0, 12 * 4, 20 * 2]])


def test_padding_proposes_nothing() -> None:
    head, maps = make_head(), empty_maps(12, 16)
    paint(maps, 5, 4, anchor=0, label=0)
    before = head.propose(maps, 90, 100)[0]
    maps.objectness[..., 12:] = 20.0  # centres from x = 100 on
    maps.objectness[..., 11:, :] = 20.0  # centres from y = 92 on
    assert torch.equal(head.propose(maps, 90, 100)[0], before)
    assert before[0].tolist() == [28, 28, 44, 60]
    assert before[:, 2].max() == 100
    assert before[:, 3].max() == 90


def test_proposals_are_those_of_a_slow_search() -> None:
    head = make_head(pre_nms=60, proposals=15)
    maps = RFCNMaps(torch.randn(2, 2, 9, 11), torch.randn(2, 8, 9, 11), torch.zeros(2, 16, 9, 11), torch.zeros(2, 16, 9, 11))
    for image, proposals in enumerate(head.propose(maps, 72, 88)):
        found: list[list[float]] = []
        cells = [(maps.objectness[image, a, y, x].item(), a, y, x) for a in range(2) for y in range(9) for x in range(11)]
        for _, a, y, x in sorted(cells, reverse=True)[:60]:
            dx, dy, dw, dh = (maps.anchor_deltas[image, 4 * a : 4 * a + 4, y, x] * torch.tensor(head.anchor_stds)).tolist()
            w, h = ANCHORS[a][0] * math.exp(dw), ANCHORS[a][1] * math.exp(dh)
            cx, cy = (x + 0.5) * 8 + dx * ANCHORS[a][0], (y + 0.5) * 8 + dy * ANCHORS[a][1]
            box = [max(0.0, cx - w / 2), max(0.0, cy - h / 2), min(88.0, cx + w / 2), min(72.0, cy + h / 2)]
            apart = not found or box_iou(torch.tensor([box]), torch.tensor(found)).max() <= 0.7
            if min(box[2] - box[0], box[3] - box[1]) >= head.minimum_size and apart:
                found.append(box)
        assert torch.allclose(proposals, torch.tensor(found[:15]), atol=1e-3)


def test_pooled_scores_are_the_bins_average() -> None:
    head = make_head()
    maps = head(torch.randn(2, 16, 6, 9))
    rois = random_rois(10, 2, 48, 72)
    logits, offsets = head.pool(maps, rois)
    assert torch.allclose(logits, slow_pool(maps.class_maps, rois, 2, 8).mean(dim=(2, 3)), atol=1e-5)
    assert torch.allclose(offsets, slow_pool(maps.box_maps, rois, 2, 8).mean(dim=(2, 3)), atol=1e-5)


def test_detections_are_few_sorted_and_apart() -> None:
    head = make_head(maximum_detections=20)
    maps = RFCNMaps(*(torch.randn(1, count, 12, 16) * 3 for count in (2, 8, 16, 16)))
    detections = head.decode(maps, same_size(96, 128))
    assert len(detections) == 20
    assert (np.diff(detections.scores) <= 0).all()
    assert detections.scores.min() >= MINIMUM_SCORE
    assert_apart(detections, 0.3)


def assert_apart(detections: Detections, threshold: float) -> None:
    for label in set(detections.labels.tolist()):
        boxes = torch.from_numpy(detections.boxes[detections.labels == label])
        assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= threshold + 1e-4


def test_votes_move_boxes_and_nothing_else() -> None:
    torch.manual_seed(1)
    maps = RFCNMaps(*(torch.randn(1, count, 12, 16) * 3 for count in (2, 8, 16, 16)))
    plain, voted = (make_head(box_voting=threshold).decode(maps, same_size(96, 128)) for threshold in (0.0, 0.6))
    assert np.array_equal(plain.scores, voted.scores) and np.array_equal(plain.labels, voted.labels)
    shared = box_iou(torch.from_numpy(plain.boxes), torch.from_numpy(voted.boxes)).diagonal()
    assert 0.5 < shared.min() < 0.99
    with pytest.raises(ValueError, match="box_voting should be an IoU"):
        make_head(box_voting=1.0)


def test_nothing_found_is_an_empty_answer() -> None:
    detections = make_head(minimum_size=1000.0).decode(empty_maps(6, 6), same_size(48, 48))
    assert len(detections) == 0
    assert detections.boxes.shape == (0, 4)


def test_weights_may_be_bfloat16() -> None:
    head, feature = make_head(rpn_channels=8).eval(), torch.randn(1, 16, 12, 16)
    with torch.no_grad():
        exact = head(feature)
        maps = head.bfloat16()(feature)
    assert maps.objectness.dtype == torch.bfloat16
    assert torch.allclose(maps.class_maps.float(), exact.class_maps, atol=0.01)
    assert head.decode(maps, same_size(96, 128)).boxes.dtype == np.float32


def test_decoding_takes_one_image() -> None:
    head = make_head()
    with pytest.raises(ValueError, match="one image, got 2"):
        head.decode(head(torch.zeros(2, 16, 4, 4)), same_size(32, 32))


def test_a_head_without_classes_or_anchors_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 and 1"):
        RFCNHead(16, classes=0, anchors=[(8, 8)], stride=8)
    with pytest.raises(ValueError, match="got 2 and 0"):
        RFCNHead(16, classes=2, anchors=[], stride=8)


@pytest.mark.parametrize("wrong", [{"proposals": 0}, {"pre_nms": -1}, {"bins": 0}, {"proposal_nms": 1.5}, {"detection_nms": -1.0}])
def test_a_head_that_could_never_detect_is_refused(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} should .*, got {value}"):
        make_head(**wrong)


def test_blocks_of_its_own_see_the_whole_feature_before_either_half_is_read() -> None:
    torch.manual_seed(0)
    feature = torch.rand(1, 8, 6, 6)
    plain, split = (RFCNHead(8, classes=2, anchors=[(16, 16)], stride=8, bins=3, blocks=count).eval() for count in (0, 1))
    assert split.load_state_dict(plain.state_dict(), strict=False).unexpected_keys == []
    with torch.no_grad():
        for fresh, old in zip(split(feature), plain(feature), strict=True):
            assert torch.equal(fresh, old)
        torch.nn.init.normal_(split.blocks[0].bn2.weight)
        changed = split(feature)
        for name, maps, expected in zip(RFCNMaps._fields, changed, plain(split.blocks(feature)), strict=True):
            assert torch.equal(maps, expected), name
        assert not torch.equal(changed.objectness, plain(feature).objectness)
    assert not any(name.startswith("blocks") for name in plain.state_dict())
