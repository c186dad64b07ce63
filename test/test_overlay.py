"""What is drawn, where, and that the frame drawn from is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dff_ros.overlay import BOX_COLOURS, colour_map, draw_overlay

PALETTE = ((10, 20, 30), (200, 100, 0), (0, 255, 128))


def grey(height: int = 240, width: int = 320) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


def one_box(box: tuple[float, float, float, float], label: int = 1, score: float = 0.87) -> dict[str, Any]:
    return {
        "boxes": np.array([box], np.float32),
        "scores": np.array([score], np.float32),
        "labels": np.array([label], np.int64),
        "class_names": ("person", "car", "bicyclist"),
    }


def test_class_ids_become_the_colours_of_the_palette_and_unlabelled_is_black() -> None:
    labels = np.array([[0, 1, 2], [3, 255, 1]], np.uint8)
    expected = np.array([[PALETTE[0], PALETTE[1], PALETTE[2]], [(0, 0, 0), (0, 0, 0), PALETTE[1]]], np.uint8)
    assert np.array_equal(colour_map(labels, PALETTE), expected)
    assert not colour_map(labels, ()).any()


def test_the_mask_is_blended_and_unlabelled_pixels_keep_their_colour() -> None:
    labels = np.full((240, 320), 255, np.uint8)
    labels[:, :100] = 1
    picture = draw_overlay(grey(), label_map=labels, palette=PALETTE)
    assert picture[0, 0].tolist() == [145, 100, 55]
    assert np.array_equal(picture[:, 100:], grey()[:, 100:])


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_box_is_drawn_just_inside_its_edges_in_its_classes_colour(label: int) -> None:
    picture = draw_overlay(grey(), **one_box((50, 80, 150, 200), label=label))
    for v, u in ((140, 50), (140, 149), (80, 120), (199, 120)):
        assert picture[v, u].tolist() == list(BOX_COLOURS[label])
    assert np.array_equal(picture[90:190, 60:140], grey()[90:190, 60:140])


def test_the_name_and_score_stand_above_the_box_or_below_its_edge_at_the_top() -> None:
    colour = np.array(BOX_COLOURS[1])
    above = (draw_overlay(grey(), **one_box((50, 80, 150, 200))) == colour).all(-1)
    assert above[66:78, 51:80].mean() > 0.3
    assert not above[:60].any()
    hanging = (draw_overlay(grey(), **one_box((50, 0, 150, 200))) == colour).all(-1)
    assert hanging[2:12, 52:80].mean() > 0.3


def test_boxes_without_scores_and_labels_are_outlined_only() -> None:
    picture = draw_overlay(grey(), boxes=np.array([[50, 80, 150, 200]], np.float32))
    assert np.array_equal(picture[:75], grey()[:75])
    assert picture[140, 50].tolist() == list(BOX_COLOURS[0])


def test_the_best_detection_is_drawn_on_top() -> None:
    boxes = np.array([[50, 80, 150, 200], [50, 80, 150, 200]], np.float32)
    for scores, best in (([0.9, 0.6], 0), ([0.6, 0.9], 2)):
        picture = draw_overlay(grey(), boxes=boxes, scores=np.array(scores, np.float32), labels=np.array([0, 2]))
        assert picture[140, 50].tolist() == list(BOX_COLOURS[best])


def test_the_caption_stands_on_a_dark_bar_at_the_bottom() -> None:
    picture = draw_overlay(grey(), caption="propagated, age 3")
    bar = picture[-12:-6]
    assert bar.max() > 200
    assert np.median(bar) == 25
    assert np.array_equal(picture[:200], grey()[:200])


def test_a_long_caption_is_made_to_fit() -> None:
    picture = draw_overlay(grey(), caption="a very long caption " * 5)
    assert picture[-20:, -3:].max() <= 100
    assert picture[-20:].max() > 150


@pytest.mark.parametrize(("height", "width"), [(240, 320), (1080, 1920)])
def test_letters_and_lines_grow_with_the_frame(height: int, width: int) -> None:
    picture = draw_overlay(grey(height, width), caption="key")
    bar_rows = int((picture[:, -1, 0] != 100).sum())
    assert 0.02 * height < bar_rows < 0.1 * height


@pytest.mark.parametrize(
    "box", [(-50, -50, 20, 20), (310, 230, 400, 400), (-10, -10, 1e9, 1e9), (5, 5, 5, 5), (400, 400, 500, 500), (np.nan, 0, 5, np.inf)]
)
def test_boxes_may_leave_the_frame(box: tuple[float, float, float, float]) -> None:
    assert draw_overlay(grey(), **one_box(box)).shape == (240, 320, 3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (16, 400), (400, 16)])
def test_very_small_frames_are_drawn_on(height: int, width: int) -> None:
    labels = np.zeros((height, width), np.uint8)
    picture = draw_overlay(grey(height, width), **one_box((0, 0, width, height)), label_map=labels, palette=PALETTE, caption="key frame")
    assert picture.shape == (height, width, 3)


@pytest.mark.parametrize("view", ["reversed", "padded", "grey", "read only"])
def test_frames_of_any_strides_are_drawn_on_and_left_as_they_are(view: str) -> None:
    source = np.random.default_rng(0).integers(0, 256, (240, 330, 3), dtype=np.uint8)
    frame = {
        "reversed": source[..., ::-1],
        "padded": source[:, :320],
        "grey": np.broadcast_to(source[..., :1], source.shape),
        "read only": np.frombuffer(source.tobytes(), np.uint8).reshape(source.shape),
    }[view]
    before = frame.copy()
    labels = np.zeros(frame.shape[:2], np.uint8)
    picture = draw_overlay(frame, **one_box((50, 80, 150, 200)), label_map=labels, palette=PALETTE, caption="key")
    assert np.array_equal(frame, before)
    assert not np.shares_memory(picture, frame)
    assert np.array_equal(picture, draw_overlay(before, **one_box((50, 80, 150, 200)), label_map=labels, palette=PALETTE, caption="key"))


def test_nothing_found_gives_a_copy() -> None:
    frame = grey()
    nothing = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0, np.float32), "labels": np.zeros(0, np.int64)}
    picture = draw_overlay(frame, **nothing)
    assert np.array_equal(picture, frame)
    assert not np.shares_memory(picture, frame)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frame should be \(H, W, 3\) uint8, got \(240, 320\)"):
        draw_overlay(grey()[..., 0])
    with pytest.raises(ValueError, match=r"label_map should be \(240, 320\), got \(120, 160\)"):
        draw_overlay(grey(), label_map=np.zeros((120, 160), np.uint8), palette=PALETTE)
