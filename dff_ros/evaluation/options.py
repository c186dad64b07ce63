"""What ``dff_replay`` is told by its command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from dff_ros.engine.loading import OPTIONAL_PARTS
from dff_ros.engine.settings import EngineSettings
from dff_ros.evaluation.parameter_files import read_parameters
from dff_ros.evaluation.run import KEY_DELAY

PROPAGATION = "propagation"
"""Left out, the key's answer is copied. That is a control of the evaluation: no engine would do so."""


class Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; exits with code 2 and one line where it is wrong."""
    parser = Parser(prog="dff_replay", description="Run the engine over a recording, without ROS, and score it.", allow_abbrev=False)
    add_input(parser)
    parser.add_argument("--list-topics", action="store_true", help="list the topics of --bag with images or detections, and end")
    _add_engine(parser)
    add_truth(parser)
    _add_mode(parser)
    measure = parser.add_argument_group("what is measured and written")
    measure.add_argument("--baseline", action="store_true", help="run per-frame on the same frames, interleaved, and compare")
    measure.add_argument("--json", type=Path, metavar="OUT.json", help="the figures; must be given")
    measure.add_argument("--video-out", type=Path, metavar="OUT.mp4", help="the frames with boxes, mask and key age drawn in")
    bag_out = "a new bag with what the node would publish: detections, segmentation, frame_info, overlay (JPEG) and label_info"
    measure.add_argument("--bag-out", type=Path, metavar="DIR", help=bag_out)
    trace = "one JSON object a line for each frame: kind, reason, age, motion, times, agreement"
    measure.add_argument("--trace", type=Path, metavar="OUT.jsonl", help=trace)
    page = "a page that holds figures, plots and the worst frames, to open in a browser; needs no network"
    measure.add_argument("--html", type=Path, metavar="OUT.html", help=page)
    options = parser.parse_args(arguments)
    options.arguments = arguments
    check_input(parser, options)
    if options.list_topics and options.bag is None:
        parser.error("--list-topics belongs to --bag")
    if options.json is None and not options.list_topics:
        parser.error("the following arguments are required: --json")
    _check_mode(parser, options)
    return options


def _check_mode(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with code 2 and one line where options do not go together in the mode of the replay."""
    if options.key_delay == 0:
        parser.error("--key-delay should be at least 1 frame, got 0")
    if options.key_delay and options.key_frames == "blocking":
        parser.error("--key-delay makes key frames aside, --key-frames blocking does not")
    if (options.key_delay or options.key_frames) and options.every_offset:
        parser.error(f"--key-{'delay' if options.key_delay else 'frames'} belongs to a schedule, --every-offset has none")
    if options.keys_topic is not None and options.keys_from is None:
        parser.error("--keys-topic belongs to --keys-from")
    if options.keys_from is not None and (options.schedule or options.key_delay or options.key_frames or options.every_offset):
        others = "--schedule, --key-delay, --key-frames and --every-offset"
        parser.error(f"--keys-from brings the key frames: {others} choose them otherwise")
    for name in ("video_out", "trace", "bag_out"):
        if options.every_offset and getattr(options, name):
            parser.error(f"--{name.replace('_', '-')} shows one run, --every-offset makes many")
    if options.every_offset and options.latencies:
        parser.error("--latencies belongs to a schedule, --every-offset has none")
    if options.real_time and options.every_offset:
        parser.error("--every-offset answers each frame many times, which has no place in --real-time")
    if options.real_time and options.key_delay:
        parser.error("--key-delay counts frames, in --real-time a key frame is ready when its time has passed: --key-frames aside")
    if options.real_time and options.keys_from is not None:
        parser.error("--keys-from brings what was dropped live, --real-time finds that out")
    if options.real_time and PROPAGATION in options.without:
        parser.error("--without propagation takes no time, so that it has no place in --real-time")


def check_input(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with code 2 and one line where options of ``add_input`` and ``add_truth`` do not go together."""
    if options.rate is not None and options.frames is None and options.drive is None:
        parser.error("--rate belongs to --frames and --drive")
    if options.drive == 0:
        parser.error("--drive should be of at least 1 frame, got 0")
    if options.seed is not None and options.drive is None:
        parser.error("--seed belongs to --drive")
    if options.drive is not None and (options.labels or options.boxes or options.box_masks or options.coco):
        parser.error("--drive brings its own truth")
    for name in ("topic", "label_topic", "detection_topic"):
        if getattr(options, name) and options.bag is None:
            parser.error(f"--{name.replace('_', '-')} belongs to --bag")
    if options.labels is not None and options.label_topic:
        parser.error("--labels and --label-topic are truth for the same pixels")


def add_input(parser: argparse.ArgumentParser) -> None:
    """What is replayed or tuned on; ``check_input`` says what does not go together."""
    group = parser.add_argument_group("input")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--frames", type=Path, metavar="DIR", help="folder of images, in the order of their names")
    source.add_argument("--video", type=Path, metavar="FILE")
    source.add_argument("--bag", type=Path, metavar="DIR", help="rosbag2, sqlite3 or mcap; a folder or a file")
    source.add_argument("--drive", type=count, metavar="N", help="a generated drive of N frames, with exact truth of its own")
    group.add_argument("--seed", type=count, metavar="S", help="which drive; 0 where not given, those from 1000 on are for training")
    group.add_argument("--rate", type=positive, metavar="HZ", help="frames per second of --frames or --drive")
    topics = "image topic of --bag; found where there is only one. Several, or all, are several cameras, one after the other"
    group.add_argument("--topic", action="append", metavar="T", help=topics)
    group.add_argument("--range", type=inclusive_range, metavar="A:B", help="source frames from A to B, both included")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine", "given here they win over --params")
    group.add_argument("--model", help="bundle: a name under models/ or the path of a folder")
    group.add_argument("--schedule", help="per-frame, fixed:N, fixed:Nms, random:RATE, adaptive[:rate=RATE|ms_per_s=MS|latency_ms=MS]")
    recorded = "make the key frames that a live run made, by its frame_info in a bag, on the frames that it answered"
    group.add_argument("--keys-from", type=Path, metavar="BAG", help=recorded)
    group.add_argument("--keys-topic", metavar="T", help="topic of --keys-from; found where there is only one called frame_info")
    params = "the node's parameter file, or plain names and values; without it nothing but the schedule limits a key's age"
    delay = f"make key frames aside, each ready N frames after its own ({KEY_DELAY} with key frames aside and no --key-delay)"
    aside = "where a key frame's feature is computed; by --params, else blocking"
    group.add_argument("--key-frames", choices=("blocking", "aside"), help=aside)
    group.add_argument("--key-delay", type=count, metavar="N", help=delay)
    group.add_argument("--params", type=Path, metavar="FILE.yaml", help=params)
    without = (
        "parts to leave out: refine, scale, chain (flow to the key at once), flow (the key's feature is copied), "
        "propagation (the key's answer is copied)"
    )
    group.add_argument("--without", type=parts, default=frozenset(), metavar="PART,PART", help=without)
    group.add_argument("--flow", metavar="NAME", help="flow network in place of the bundle's, for example dis")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"))


def _add_mode(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how frames come", "one after the other as they are answered (lock-step), unless said otherwise")
    offsets = "with fixed:N: score every frame at each age 0..N-1, age 0 being per-frame"
    group.add_argument("--every-offset", action="store_true", help=offsets)
    simulated = "frames arrive by their stamps, on a simulated clock: late ones are dropped, and what is known when a frame comes is scored"
    group.add_argument("--real-time", action="store_true", help=simulated)
    times = "steps take what they took in another run (its --trace), or so much: then runs in real time or with a budget can be repeated"
    group.add_argument("--latencies", metavar="TRACE.jsonl|key=MS,propagated=MS", help=times)


def add_truth(parser: argparse.ArgumentParser) -> None:
    """What answers are scored against."""
    group = parser.add_argument_group("ground truth", "images belong to frames by stem, else by trailing number")
    group.add_argument("--labels", type=Path, metavar="DIR", help="images of class ids")
    group.add_argument("--ignore", type=ids, default=(), metavar="11,255", help="ids not scored, besides the bundle's and 255")
    table = "frame,id,class,left,top,width,height of the source video; without the column class :CLASS says whose boxes they are"
    group.add_argument("--boxes", type=file_and_perhaps_class, action="append", default=[], metavar="FILE.csv[:CLASS]", help=table)
    coco = "boxes of several classes, by their names; images belong to frames by file_name"
    group.add_argument("--coco", type=Path, metavar="FILE.json", help=coco)
    labels = "mono8 images of class ids in the bag, by their stamps; with several cameras one for each --topic, in order"
    group.add_argument("--label-topic", action="append", default=[], metavar="T", help=labels)
    detections = "Detection2DArray in the bag, classes by name or index; :CLASS,CLASS says of which classes it tells, else of all"
    group.add_argument(
        "--detection-topic", type=topic_and_classes, action="append", default=[], metavar="T[:CLASS,CLASS]", help=detections
    )
    masks = "objects are the connected components of value 255"
    group.add_argument("--box-masks", type=file_and_class, action="append", default=[], metavar="DIR:CLASS", help=masks)


def positive(text: str) -> float:
    """A number above 0."""
    value = float(_converted(float, text, "a number"))
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"should be more than 0, got {text!r}")
    return value


def count(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"should be a whole number, got {text!r}")
    return int(text)


def inclusive_range(text: str) -> tuple[int, int]:
    """``A:B`` with 0 <= A <= B."""
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"should be A:B with 0 <= A <= B, got {text!r}")
    return int(first), int(last)


def ids(text: str) -> tuple[int, ...]:
    """Label ids separated by commas."""
    values = tuple(_converted(int, part, "ids separated by commas") for part in text.split(","))
    if not all(0 <= value <= 255 for value in values):
        raise argparse.ArgumentTypeError(f"ids should lie in 0..255, got {text!r}")
    return values


def parts(text: str) -> frozenset[str]:
    """Names of optional parts separated by commas."""
    names, known = frozenset(text.split(",")), OPTIONAL_PARTS | {PROPAGATION}
    if not names <= known:
        raise argparse.ArgumentTypeError(f"parts are {', '.join(sorted(known))}, got {text!r}")
    return names


def topic_and_classes(text: str) -> tuple[str, tuple[str, ...]]:
    """``TOPIC`` or ``TOPIC:CLASS,CLASS``; no topic's name has a colon."""
    topic, colon, names = text.partition(":")
    classes = tuple(names.split(",")) if colon else ()
    if not topic or not all(classes):
        raise argparse.ArgumentTypeError(f"should be TOPIC or TOPIC:CLASS,CLASS, got {text!r}")
    return topic, classes


def file_and_class(text: str) -> tuple[Path, str]:
    """``PATH:CLASS``."""
    path, _, class_name = text.rpartition(":")
    if not (path and class_name):
        raise argparse.ArgumentTypeError(f"should be PATH:CLASS, got {text!r}")
    return Path(path), class_name


def file_and_perhaps_class(text: str) -> tuple[Path, str | None]:
    """``PATH`` or ``PATH:CLASS``."""
    return file_and_class(text) if ":" in text else (Path(text), None)


def _converted(kind: type[Any], text: str, expected: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"should be {expected}, got {text!r}") from error


def engine_settings(options: argparse.Namespace) -> EngineSettings:
    """Defaults, then ``--params``, then the command line; raises ValueError in one line.

    ``--params`` replays what the node would do, its age limit and its ``key_frames`` included. Without it the schedule alone decides, so
    that fixed:20 means every 20th frame at 7 Hz too, and key frames block unless ``--key-frames`` or ``--key-delay`` is given.
    """
    settings = EngineSettings(max_key_age=0.0, key_frames="blocking")
    if options.params is not None:
        try:
            settings = EngineSettings().with_values(read_parameters(options.params))
        except ValueError as error:
            raise ValueError(f"{options.params}: {error}") from error
    given = {name: getattr(options, name) for name in ("model", "schedule", "flow", "device")}
    given["key_frames"] = options.key_frames if options.key_delay is None else "aside"
    return settings.with_values({name: value for name, value in given.items() if value is not None})
