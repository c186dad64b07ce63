"""The summary in words says what the figures say, and admits what was not measured."""

from __future__ import annotations

from report_data import report, times, unmeasured

from dff_ros.report.advice import suggestions
from dff_ros.report.measures import class_tables, scores
from dff_ros.report.words import delay_sentences, gained, keeps_up, lost, summarise, tiles


def all_words(figures: dict[str, object], period_ms: float | None = 100.0) -> str:
    summary = summarise(figures, description="a drive", model="street", period_ms=period_ms)
    return " ".join([*summary.paragraphs.values(), *summary.suggestions])


def test_what_was_replayed() -> None:
    words = all_words(report())
    assert "40 frames, 4.0 s at 10 Hz, from a drive. The bundle street ran on cpu with the schedule fixed:4." in words
    assert "25.0% of the frames were key frames, one in 4." in words


def test_what_cannot_be_read_is_said() -> None:
    summary = summarise(report(), description="a bag", model="street", period_ms=None, notes=["the last chunk is cut, 3 images are lost"])
    assert summary.paragraphs["What was replayed"].endswith("The last chunk is cut, 3 images are lost.")


def test_the_loss_is_told_in_points_with_where_it_is() -> None:
    words = lost(report())
    assert "mIoU is 0.600, per-frame's 0.650 on the same frames: 5.0 points lost." in words
    assert "AP50 is 0.800, per-frame's 0.801 on the same frames: no loss to speak of." in words
    assert "By age of the key frame, the loss of mIoU is +3.0 points at age 1 and +10.0 points at ages 2 to 3." in words
    assert "Most is lost on IoU of car (9.0 points), IoU of road (1.0 point)." in words
    assert "the loss of AP50" not in words
    assert "93.0% of the pixels get the class that per-frame gives them." in words


def test_a_gain_is_called_one() -> None:
    better = report(segmentation={"miou": 0.70})
    assert "mIoU is 0.700, per-frame's 0.650 on the same frames: 5.0 points gained." in lost(better)


def test_without_truth_agreement_is_no_accuracy() -> None:
    words = lost(report(segmentation={"miou": None}, detection={"map50": None}))
    assert "No ground truth was given" in words and "mIoU" not in words
    (score,) = scores(report(segmentation={"miou": None}, detection={"map50": None}))
    assert (score.run, score.per_frame, score.against_truth) == (0.93, 1.0, False)


def test_without_a_baseline_the_loss_is_not_known() -> None:
    nothing = unmeasured()
    words = lost({**nothing, "segmentation": {"miou": 0.6, "iou": {"road": 0.6}}})
    assert "mIoU is 0.600." in words and "the loss is not known" in words and "points" not in words
    assert "Run again with --baseline" in suggestions(nothing, 100.0)[0]
    assert "was not measured in this run" in gained(nothing)


def test_with_neither_nothing_is_claimed() -> None:
    assert lost(unmeasured()).startswith("Not measured")
    assert not {tile.label for tile in tiles(unmeasured(), None)} & {"mIoU", "AP50", "agreement", "speed-up"}


def test_what_is_gained() -> None:
    assert gained(report()) == (
        "A frame takes 40.0 ms on average (130 ms for a key frame, 10.0 ms for a propagated one). "
        "Per-frame takes 130 ms on the same frames: 3.2 times as long."
    )
    assert "does not pay" in gained(report(speedup=0.9))
    assert "were given (--latencies)" in gained(report(provenance={"latencies": "a hash"}))


def test_keeping_up_with_the_recording() -> None:
    blocked = keeps_up(report(), 100.0)  # the mean fits, key frames of 130 ms do not
    assert "keeps up on the whole" in blocked and "a key frame takes 130 ms" in blocked
    assert "yes, every frame is answered" in keeps_up(report(), 300.0)
    assert "frames would be dropped all the time" in keeps_up(report(), 30.0)
    assert "give no rate" in keeps_up(report(), None)


def test_drops_by_the_clock_are_counted() -> None:
    latency = {"all": times(60.0), "key": times(140.0), "propagated": times(50.0)}
    baseline = {**report()["baseline"], "drops": {"count": 20, "rate": 0.5}, "streaming": {"miou": 0.4}}
    clock = {"latency_ms": latency, "streaming": {"miou": 0.5, "agreement": 0.9}}
    said = keeps_up(report(drops={"count": 3, "rate": 0.075}, baseline=baseline, **clock), 100.0)
    assert said.endswith("What is known when a frame comes has a mIoU of 0.500, with per-frame by the clock 0.400.")
    assert "3 frames (7.5%) were dropped; per-frame would drop 50.0%. Latency, from arrival to answer, is 60.0 ms" in said
    assert keeps_up(report(drops={"count": 0, "rate": 0.0}, latency_ms=latency), 100.0).startswith("Yes")
    assert "keeps up on the whole" in keeps_up(report(drops={"count": None, "rate": None}), 100.0)


def test_advice_follows_the_figures() -> None:
    said = " ".join(suggestions(report(), 100.0))
    assert "key_frames: aside" in said and "adaptive:rate=0.25" in said and "are few" in said
    relaxed = report(frames=1000, baseline={**report()["baseline"], "segmentation": {"miou": 0.6}}, cost_ratio=0.8)
    said = " ".join(suggestions(relaxed, 1000.0))
    assert "A propagated frame costs 80% of a key frame" in said
    assert "aside" not in said and "adaptive" not in said and "few" not in said


def test_every_offset_has_no_run_to_speak_of() -> None:
    words = all_words(report(every_offset=True, key_rate=None, speedup=None))
    assert "every frame was scored with its key frame at each age" in words and "adaptive" not in words


def test_classes_are_compared_with_per_frame_or_else_with_its_answers() -> None:
    iou, ap50 = class_tables(report())
    assert [(row.name, row.run, row.per_frame, row.amount) for row in iou.rows] == [("road", 0.9, 0.91, 9000), ("car", 0.3, 0.39, 10)]
    assert (ap50.score, ap50.unit, ap50.rows[0].name) == ("AP50", "boxes", "person")
    (table,) = class_tables(report(segmentation={"miou": None}, detection=None))
    assert not table.against_truth and table.rows[0].run == 0.97
    assert class_tables(unmeasured()) == []


def test_the_delay_of_new_objects_is_told() -> None:
    delay = {"mean": 1.25, "p90": 3.0, "appearances": 8, "missed": 0.125}
    assert delay_sentences(report()) == []
    (said,) = delay_sentences(report(detection_delay=delay))
    assert said == "New objects are found 1.2 frames after per-frame finds them, nine of ten within 3.0; of 8 appearances 12.5% are missed."
    (tracked,) = delay_sentences(report(against_per_frame={"detection_delay": delay}))
    assert tracked.startswith("Objects that per-frame begins to track are found")
