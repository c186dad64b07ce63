"""Crops, motion and looks: what is drawn, what is boxed and how it moves must agree."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch
from training_data import SIZE, street_labels, textured

from dff_ros.core.propagate import FlowFields, chain
from dff_train.augment import Augmentation, augment, crop_boxes, nominal_scale
from dff_train.colour import Look, apply_look, colour_matrix, random_look
from dff_train.geometry import mirror, move_boxes, on_pixel_centres, part_of_motion, shift, stretch, zoom_about
from dff_train.motion import camera_motion, cut_objects, make_pair, objects_between, on_the_way, place
from dff_train.readers import camvid_truth
from dff_train.render import OUTSIDE, draw_frame, draw_image, made_flow, render_image
from dff_train.samples import Sample
from dff_train.source_pairs import UNMOVED, Array, Cutout, Pasted, SourcePair, Truth

PIXELS = SIZE[0] * SIZE[1]
PLAIN = Augmentation(crop=(88, 120), scale=(1.0, 1.0), aspect=0.0, flip=0.0, focus=0.0, look=False, pixels=PIXELS)


def street_pair(offset: int = 0) -> SourcePair:
    still = textured(0)
    return SourcePair(still, still, offset, camvid_truth(street_labels()), "camvid", made=True)


def square_cutout(side: int = 12, colour: int = 255) -> Cutout:
    """A square pedestrian that stood at (40, 40)."""
    patch = np.full((side, side, 3), colour, np.uint8)
    return Cutout(patch, np.full((side, side), 255, np.uint8), (40.0, 40.0, 40.0 + side, 40.0 + side), (40, 40), 9)


def sampled_back(sample: Sample) -> tuple[Array, Array]:
    """The key image warped to the current frame by the sample's flow, and where that is defined."""
    assert sample.flow is not None
    assert sample.visible is not None
    flow = sample.flow.numpy()
    x, y = np.meshgrid(np.arange(flow.shape[2], dtype=np.float32), np.arange(flow.shape[1], dtype=np.float32))
    key = sample.key_image.permute(1, 2, 0).numpy()
    return cv2.remap(key, x + flow[0], y + flow[1], cv2.INTER_LINEAR), sample.visible.numpy()


def test_without_jitter_a_sample_is_a_window_of_its_source() -> None:
    pair = street_pair()
    sample = augment(pair, Augmentation(**{**vars(PLAIN), "crop": (88, 120)}), np.random.default_rng(0))
    image = sample.image.permute(1, 2, 0).numpy()
    assert any(np.abs(image.astype(int) - pair.image[top : top + 88]).max() <= 6 for top in range(3))


def test_shapes_and_types_of_a_sample() -> None:
    sample = augment(street_pair(), Augmentation(crop=(64, 80), pixels=PIXELS), np.random.default_rng(1))
    assert sample.image.shape == sample.key_image.shape == (3, 64, 80)
    assert sample.image.dtype == sample.labels.dtype == torch.uint8
    assert sample.boxes.shape[1:] == sample.ignore_boxes.shape[1:] == (4,)
    assert sample.boxes.dtype == torch.float32
    assert sample.box_labels.dtype == torch.int64
    assert sample.labelled_classes.tolist() == [True, True, True]


def test_boxes_follow_the_labels_through_every_transform() -> None:
    settings = Augmentation(crop=(96, 128), pixels=PIXELS, look=False, aspect=0.1)
    checked = 0
    for seed in range(60):
        sample = augment(street_pair(), settings, np.random.default_rng(seed))
        for box, label in zip(sample.boxes.tolist(), sample.box_labels.tolist(), strict=True):
            rows, columns = np.nonzero(sample.labels.numpy() == {0: 9, 1: 8}[label])
            inside = (columns >= box[0] - 1) & (columns < box[2] + 1) & (rows >= box[1] - 1) & (rows < box[3] + 1)
            found = [columns[inside].min(), rows[inside].min(), columns[inside].max() + 1, rows[inside].max() + 1]
            assert np.abs(np.array(found) - box).max() <= 1.01, (seed, box, found)
            checked += 1
    assert checked > 40


def test_a_flip_mirrors_image_labels_and_boxes_alike() -> None:
    pair = street_pair()
    straight, flipped = (
        augment(pair, Augmentation(**{**vars(PLAIN), "crop": (96, 120), "flip": flip}), np.random.default_rng(3)) for flip in (0.0, 1.0)
    )
    assert torch.equal(flipped.labels, straight.labels.flip(1))
    assert (flipped.image.int() - straight.image.flip(2).int()).abs().max() <= 1
    mirrored = straight.boxes[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1.0, -1.0, 1.0]) + torch.tensor([120.0, 0.0, 120.0, 0.0])
    assert torch.allclose(flipped.boxes, mirrored)


def test_a_small_frame_is_padded_and_the_padding_ignored() -> None:
    settings = Augmentation(**{**vars(PLAIN), "crop": (128, 160)})
    sample = augment(street_pair(), settings, np.random.default_rng(0))
    padding = np.ones((128, 160), bool)
    strips = sample.ignore_boxes.numpy()[-4:]
    covered = np.zeros_like(padding)
    for x1, y1, x2, y2 in strips.round().astype(int):
        covered[y1:y2, x1:x2] = True
    rows, columns = np.nonzero(~covered)
    padding[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = False
    assert abs(int((~padding).sum()) - PIXELS) <= 2 * (90 + 120)
    assert (sample.labels.numpy()[padding & covered] == 255).mean() > 0.98
    assert sample.visible is not None
    assert not sample.visible.numpy()[:, 0].all()


def test_frames_are_brought_to_the_networks_pixel_count() -> None:
    assert nominal_scale(240, 320, 172_800) == 1.5
    still = np.zeros((45, 60, 3), np.uint8)
    truth = Truth(boxes=np.array([[10, 10, 30, 30]], np.float32), box_labels=np.array([1]))
    pair = SourcePair(still, still, 0, truth, "test")
    sample = augment(pair, Augmentation(**{**vars(PLAIN), "crop": (96, 120)}), np.random.default_rng(0))
    assert torch.allclose(sample.boxes[0, 2:] - sample.boxes[0, :2], torch.tensor([40.0, 40.0]))


def test_a_box_that_mostly_leaves_the_crop_is_ignored() -> None:
    pair = street_pair()
    boxes, labels, ignored = crop_boxes(pair, shift(-45.0, 0.0), (88, 72))
    assert labels.tolist() == [0], "of the car's 40 columns only 15 are left"
    assert [0.0, 45.0, 15.0, 70.0] in ignored.tolist()
    assert boxes.tolist() == [[35.0, 30.0, 47.0, 66.0]]


def test_a_box_that_is_pasted_over_is_ignored() -> None:
    pair = street_pair(1)
    cover = Cutout(np.zeros((40, 16, 3), np.uint8), np.full((40, 16), 255, np.uint8), (78.0, 28.0, 94.0, 68.0), (78, 28), 10)
    pair = SourcePair(**{**vars(pair), "pasted": (Pasted(cover, UNMOVED, None),)})
    boxes, labels, ignored = crop_boxes(pair, UNMOVED, SIZE)
    assert labels.tolist() == [1, 2], "the pedestrian is hidden by the bicyclist in front"
    assert [80.0, 30.0, 92.0, 66.0] in ignored.tolist()
    assert boxes[1].tolist() == [78.0, 28.0, 94.0, 68.0]


def test_a_pasted_object_is_drawn_labelled_and_boxed_where_its_matrix_puts_it() -> None:
    still = np.zeros((*SIZE, 3), np.uint8)
    truth = Truth(labels=np.full(SIZE, 3, np.uint8))
    item = Pasted(square_cutout(), shift(10.0, 5.0), None)
    pair = SourcePair(still, still, 2, truth, "camvid", made=True, pasted=(item,))
    sample = augment(pair, Augmentation(**{**vars(PLAIN), "crop": (96, 120)}), np.random.default_rng(0))
    box = sample.boxes[0].round().int().tolist()
    assert [box[2] - box[0], box[3] - box[1], box[0]] == [12, 12, 50]
    rows, columns = np.nonzero(sample.labels.numpy() == 9)
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box
    assert (sample.image[:, box[1] + 1 : box[3] - 1, box[0] + 1 : box[2] - 1] == 255).all()
    assert (sample.key_image != 255).all(), "it is in the current frame only"
    assert sample.visible is not None
    assert not sample.visible[sample.labels == 9].any(), "what only one frame shows is not visible in the other"


def test_flow_leads_to_the_same_point_of_the_key_frame() -> None:
    truth = camvid_truth(street_labels())
    settings = Augmentation(crop=(64, 96), pixels=PIXELS, look=False)
    for seed in range(25):
        rng = np.random.default_rng(seed)
        cutouts = cut_objects(textured(9), street_labels())
        sample = augment(make_pair(textured(1), truth, 1 + seed % 9, cutouts, "camvid", rng), settings, rng)
        warped, visible = sampled_back(sample)
        inner = cv2.erode(visible.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert inner.mean() > 0.1
        difference = np.abs(warped.astype(int) - sample.image.permute(1, 2, 0).numpy().astype(int))[inner]
        assert difference.mean() < 2.5, seed


def test_a_shift_to_the_right_flows_back_to_the_left() -> None:
    still = textured(0)
    pair = SourcePair(still, still, 1, Truth(), "camvid", made=True, to_image=shift(6.0, 0.0))
    _, layers = draw_frame(still, pair.to_image, [], UNMOVED, SIZE)
    _, key_layers = draw_frame(still, pair.to_key, [], UNMOVED, SIZE)
    flow, visible = made_flow(pair, layers, key_layers, UNMOVED)
    assert np.allclose(flow, [-6.0, 0.0], atol=1e-4)
    assert (layers[:, :6] == OUTSIDE).all()
    assert not visible[:, :6].any()
    assert visible[:, 6:].all()


def test_what_an_object_hides_in_the_key_frame_is_not_visible() -> None:
    still = textured(0)
    item = Pasted(square_cutout(), shift(30.0, 0.0), UNMOVED)
    pair = SourcePair(still, still, 1, Truth(), "camvid", made=True, pasted=(item,))
    _, layers = draw_frame(still, UNMOVED, [(item, item.to_image)], UNMOVED, SIZE)
    _, key_layers = draw_frame(still, UNMOVED, [(item, item.to_key)], UNMOVED, SIZE)
    flow, visible = made_flow(pair, layers, key_layers, UNMOVED)
    assert np.allclose(flow[45, 75], [-30.0, 0.0])
    assert visible[45, 75]
    assert np.allclose(flow[45, 45], 0.0)
    assert not visible[45, 45], "there the key frame shows the object"


def test_given_flow_turns_and_grows_with_the_crop() -> None:
    still = textured(0)
    flow, visible = np.full((*SIZE, 2), (4.0, 2.0), np.float32), np.ones(SIZE, bool)
    pair = SourcePair(still, still, 3, Truth(), "drives", flow=flow, visible=visible)
    settings = Augmentation(**{**vars(PLAIN), "crop": (96, 120), "scale": (2.0, 2.0), "flip": 1.0})
    sample = augment(pair, settings, np.random.default_rng(0))
    assert sample.flow is not None
    assert torch.allclose(sample.flow[:, 48, 60], torch.tensor([-8.0, 4.0]))
    assert sample.visible is not None
    assert not sample.visible[:, :8].any(), "eight pixels to the left of these the key's crop ends"


def test_flow_is_left_out_where_it_is_not_known_or_not_wanted() -> None:
    still = textured(0)
    real = SourcePair(still, textured(1), 3, Truth(), "pets09")
    assert augment(real, PLAIN, np.random.default_rng(0)).flow is None
    assert augment(street_pair(), Augmentation(**{**vars(PLAIN), "flow": False}), np.random.default_rng(0)).flow is None


@pytest.mark.parametrize("motion", [UNMOVED, shift(6.0, -3.0), zoom_about(30.0, 40.0, 1.7, 12.0), shift(2.0, 9.0) @ zoom_about(5, 5, 0.8)])
def test_parts_of_a_motion_make_up_the_motion(motion: Array) -> None:
    third = part_of_motion(motion, 1 / 3)
    assert np.allclose(third @ third @ third, motion)
    assert np.allclose(part_of_motion(motion, 1.0), motion) and np.allclose(part_of_motion(motion, 0.0), UNMOVED)


def made_pair(seed: int, offset: int) -> SourcePair:
    """A camera that moves, with objects pasted into both frames or one."""
    rng = np.random.default_rng(seed)
    return make_pair(textured(1), camvid_truth(street_labels()), offset, cut_objects(textured(9), street_labels()), "camvid", rng)


def test_the_way_between_starts_at_the_key_frame_and_ends_at_the_current_one() -> None:
    for seed in range(12):
        pair = made_pair(seed, 6)
        both = [item for item in pair.pasted if item.to_image is not None and item.to_key is not None]
        for number, to_frame, image in ((0, pair.to_key, pair.key_image), (6, pair.to_image, pair.image)):
            ends = [(item, item.to_key if number == 0 else item.to_image) for item in both]
            expected, _ = draw_frame(image, to_frame, ends, UNMOVED, SIZE)
            way = [(item, on_the_way(item.to_key, item.to_image, number, 6)) for item in both]
            drawn = draw_image(pair.image, on_the_way(pair.to_key, pair.to_image, number, 6), way, UNMOVED, SIZE)
            assert np.abs(drawn.astype(int) - expected).max() <= 2, "but for the rounding of OpenCV's coordinates"


def test_the_steps_between_lead_to_where_the_whole_motion_leads() -> None:
    for seed in range(12):
        offset, pair = 4, made_pair(seed, 4)
        cameras = [on_the_way(pair.to_key, pair.to_image, number, offset) for number in range(offset + 1)]
        whole = SourcePair(pair.image, pair.image, offset, pair.truth, "camvid", made=True, to_image=pair.to_image, to_key=pair.to_key)
        fields: FlowFields | None = None
        for before, now in itertools.pairwise(cameras):
            layers = np.zeros(SIZE, np.uint8)
            pixels, _ = made_flow(SourcePair(**{**vars(whole), "to_image": now, "to_key": before}), layers, layers, UNMOVED)
            step = FlowFields(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0))
            fields = step if fields is None else chain(step, fields)
        assert fields is not None
        exact, visible = made_flow(whole, layers, layers, UNMOVED)
        error = np.abs(fields.flow[0].permute(1, 2, 0).numpy() - exact).max(axis=2)
        assert visible.mean() > 0.1 and np.median(error[visible]) < 1e-3, seed  # at the frame's edge a way may leave it and come back


def test_what_comes_into_view_stays_and_what_leaves_does_not_return() -> None:
    changes = {"comes": set(), "leaves": set()}
    for seed in range(150):
        pair = made_pair(seed, 5)
        for index, item in enumerate(pair.pasted):
            seen = [frame[index][1] is not None for frame in objects_between(pair, np.random.default_rng(seed))]
            assert len(seen) == 4
            if item.to_key is not None and item.to_image is not None:
                assert all(seen)
            elif item.to_key is None:
                assert seen == sorted(seen)
                changes["comes"].add(sum(seen))
            else:
                assert seen == sorted(seen, reverse=True)
                changes["leaves"].add(sum(seen))
    assert changes == {"comes": set(range(5)), "leaves": set(range(5))}, "anywhere on the way"


def test_frames_between_are_drawn_where_the_motion_is_by_then() -> None:
    still = textured(0)
    pair = SourcePair(still, still, 3, Truth(), "camvid", made=True, to_image=shift(12.0, 0.0))
    sample = augment(pair, Augmentation(**{**vars(PLAIN), "crop": (88, 96), "between": True}), np.random.default_rng(0))
    assert sample.between is not None and sample.between.shape == (2, 3, 88, 96)
    frames = [sample.key_image, *sample.between, sample.image]
    for number, frame in enumerate(frames):
        moved = frames[0][:, :, 20 : 80 - 4 * number].int() - frame[:, :, 20 + 4 * number : 80].int()
        assert moved.abs().float().mean() < 2.0


def test_nothing_else_in_a_sample_knows_whether_the_frames_between_are_wanted() -> None:
    drawn = 0
    for seed in range(20):
        offset = seed % 4
        plain, full = (
            augment(made_pair(seed, offset), Augmentation(crop=(64, 96), pixels=PIXELS, between=between), np.random.default_rng(seed))
            for between in (False, True)
        )
        assert plain.between is None and full.between is not None
        assert full.between.shape == (max(offset - 1, 0), 3, 64, 96) and full.between.dtype == torch.uint8
        drawn += len(full.between)
        for name in set(vars(plain)) - {"between"}:
            value, other = getattr(plain, name), getattr(full, name)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name
    assert drawn == 15


def test_the_exposure_goes_from_the_key_frames_to_the_current_ones() -> None:
    grey = np.full((*SIZE, 3), 128, np.uint8)
    between = Augmentation(crop=(64, 64), pixels=PIXELS, between=True, scale=(1.0, 1.0))
    for seed in range(10):
        pair = SourcePair(grey, grey, 4, Truth(), "pets09", between=(grey,) * 3)
        sample = augment(pair, between, np.random.default_rng(seed))
        assert sample.between is not None
        levels = [float(frame.float().mean()) for frame in (sample.key_image, *sample.between, sample.image)]
        steps = np.diff(levels)
        assert np.abs(steps - (levels[-1] - levels[0]) / 4).max() < 1.0, seed  # to the grey level


def test_frames_between_that_are_not_known_are_left_out() -> None:
    pair = SourcePair(textured(0), textured(1), 3, Truth(), "pets09")
    assert augment(pair, Augmentation(**{**vars(PLAIN), "between": True}), np.random.default_rng(0)).between is None


def test_a_still_is_its_own_key_frame() -> None:
    sample = augment(street_pair(), Augmentation(crop=(64, 64), pixels=PIXELS), np.random.default_rng(0))
    assert sample.key_image is sample.image
    assert sample.flow is not None
    assert not sample.flow.any()


def test_camera_motion_leaves_one_frame_alone_and_grows_with_the_offset() -> None:
    def moved(offset: int) -> float:
        total = 0.0
        for seed in range(200):
            to_image, to_key = camera_motion((360, 480), offset, np.random.default_rng(seed))
            assert (to_image == UNMOVED).all() or (to_key == UNMOVED).all()
            corner = to_key @ np.linalg.inv(to_image) @ np.array([0.0, 0.0, 1.0])
            total += float(np.hypot(*corner[:2]))
        return total / 200

    assert 2.0 < moved(1) < moved(5) < moved(9) < 120.0


def test_cutouts_are_the_whole_large_objects() -> None:
    found = cut_objects(textured(0), street_labels())
    assert [(item.label, item.box) for item in found] == [(8, (20.0, 45.0, 60.0, 70.0)), (9, (80.0, 30.0, 92.0, 66.0))]
    car = found[0]
    assert car.patch.shape[:2] == car.alpha.shape == (31, 46)
    assert car.corner == (17, 42)
    assert car.alpha[15, 20] == 255
    assert car.alpha[0, 0] == 0


def test_placed_objects_stand_where_such_objects_stand_and_some_are_in_one_frame_only() -> None:
    rng = np.random.default_rng(0)
    placed = [place(square_cutout(), SIZE, UNMOVED, UNMOVED, 5, rng) for _ in range(300)]
    feet = [float((item.to_image @ np.array([46.0, 52.0, 1.0]))[1]) for item in placed if item.to_image is not None]
    assert abs(np.mean(feet) - 52.0) < 1.0
    assert np.std(feet) < 3.0
    assert 0.05 < np.mean([item.to_image is None for item in placed]) < 0.2
    assert 0.12 < np.mean([item.to_key is None for item in placed]) < 0.35


def test_crops_follow_the_rare_and_the_boxed() -> None:
    still = np.zeros((360, 480, 3), np.uint8)
    truth = Truth(boxes=np.array([[10, 10, 30, 30]], np.float32), box_labels=np.array([1]), labelled_classes=(False, True, False))
    settings = Augmentation(crop=(80, 80), scale=(1.0, 1.0), look=False)

    def share(focus: float) -> float:
        chosen = Augmentation(**{**vars(settings), "focus": focus})
        samples = (augment(SourcePair(still, still, 0, truth, "t"), chosen, np.random.default_rng(seed)) for seed in range(100))
        return sum(len(sample.boxes) for sample in samples) / 100

    assert share(1.0) == 1.0
    assert share(0.0) < 0.3


def test_the_neutral_look_changes_nothing_and_grey_stays_grey_under_hue() -> None:
    image = textured(0)
    neutral = Look(colour_matrix(gain=1.0, offset=0.0, contrast=1.0, saturation=1.0, hue=0.0), 0.0, 0.0, 0)
    assert np.array_equal(apply_look(image, neutral, np.random.default_rng(0)), image)
    grey = np.full((8, 8, 3), 90, np.uint8)
    turned = Look(colour_matrix(gain=1.0, offset=0.0, contrast=1.0, saturation=0.4, hue=40.0), 0.0, 0.0, 0)
    assert np.abs(apply_look(grey, turned, np.random.default_rng(0)).astype(int) - 90).max() <= 1


def test_noise_has_the_asked_strength_and_is_new_for_every_image() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    look = Look(np.eye(3, 4), 0.0, 8.0, 0)
    rng = np.random.default_rng(0)
    first, second = apply_look(grey, look, rng), apply_look(grey, look, rng)
    assert 7.0 < first.astype(float).std() < 9.0
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] < 0.1


def test_looks_keep_size_and_type() -> None:
    image = textured(0)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        changed = apply_look(image, random_look(rng), rng)
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8


def test_matrices_move_corners_and_pixel_centres_consistently() -> None:
    boxes = np.array([[1, 2, 3, 5]], np.float32)
    assert move_boxes(boxes, stretch(2.0, 3.0)).tolist() == [[2, 6, 6, 15]]
    assert move_boxes(boxes, mirror(10.0)).tolist() == [[7, 2, 9, 5]]
    assert move_boxes(boxes, zoom_about(1.0, 2.0, 2.0)).tolist() == [[1, 2, 5, 8]]
    assert np.allclose(on_pixel_centres(stretch(2.0, 2.0)) @ [0, 0, 1], [0.5, 0.5]), "the first pixel becomes the first two"
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 2:4] = 255
    drawn = render_image(image, mirror(6.0), (4, 6))
    assert np.array_equal(drawn, image[:, ::-1])


@pytest.mark.parametrize("crop", [(60, 64), (64, 0), (64, -8)])
def test_crops_must_be_multiples_of_eight(crop: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        Augmentation(crop=crop)
