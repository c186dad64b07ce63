"""Messages by their stamps, with few of them held."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from test_bags import picture, stamp

from dff_ros.recording.bags import IMAGE, BagWriter, open_bag
from dff_ros.recording.time_order import JUMP, WINDOW, in_time_order

SECOND = 1_000_000_000


def ordered(stamps: list[int], window: int = 3) -> list[int]:
    return list(in_time_order(stamps, lambda item: item, window=window))


def test_what_is_a_few_places_late_comes_in_its_place() -> None:
    assert ordered([1, 2, 5, 3, 4, 6, 9, 8, 7]) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_what_is_later_than_that_is_given_all_the_same() -> None:
    assert ordered([10, 11, 12, 13, 14, 1, 15]) == [10, 11, 1, 12, 13, 14, 15]


def test_a_clock_set_back_ends_one_round_before_the_next_begins() -> None:
    first, second = [9 * SECOND, 9 * SECOND + 2, 9 * SECOND + 1], [5, 4, 6]
    assert ordered(first + second) == [*sorted(first), *sorted(second)]
    assert 9 * SECOND - 5 > JUMP


def test_equal_stamps_keep_their_order() -> None:
    items = [(1, "a"), (1, "b"), (0, "c"), (1, "d")]
    assert [name for _, name in in_time_order(items, lambda item: item[0])] == ["c", "a", "b", "d"]


def test_few_are_held_at_a_time() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        while taken < 1000:
            taken += 1
            yield taken

    for given, _ in enumerate(in_time_order(source(), int), 1):
        assert taken - given <= WINDOW


def test_a_bags_images_come_by_the_stamps_of_their_headers(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        for place, index in enumerate([0, 2, 1, 4, 3, 5]):
            fields = {"height": 12, "width": 16, "encoding": "rgb8", "is_bigendian": 0, "step": 48, "data": picture(index).reshape(-1)}
            header = writer.types["std_msgs/msg/Header"](
                stamp=writer.types["builtin_interfaces/msg/Time"](sec=stamp(index) // SECOND, nanosec=stamp(index) % SECOND), frame_id=""
            )
            writer.write("/image", IMAGE, writer.types[IMAGE](header=header, **fields), stamp(10 + place))
    recording = open_bag(tmp_path / "bag")
    assert [(item.index, item.stamp) for item in recording] == [(index, stamp(index)) for index in range(6)]
    assert recording.late == 0
    assert [item.received for item in recording] == [stamp(10 + place) for place in (0, 2, 1, 4, 3, 5)]
