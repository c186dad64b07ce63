"""Every tunable of the engine: one field each, with its default, range and description.

``dff_node`` declares these fields as its parameters and ``dff_replay --params`` reads them from the same YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

T = TypeVar("T")


def setting(
    default: T,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    dynamic: bool = False,
) -> T:
    """A dataclass field that carries what a parameter declaration needs."""
    metadata = {
        "description": description,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "dynamic": dynamic,
    }
    value: T = field(default=default, metadata=metadata)
    return value


def validate(settings: Any) -> None:
    """Check every field of a settings dataclass; raises ValueError with what was expected and what came."""
    for item in fields(settings):
        _check(item.name, getattr(settings, item.name), item.default, item.metadata)


def _check(name: str, value: object, default: object, rule: Mapping[str, Any]) -> None:
    expected = type(default)
    fits = isinstance(value, expected) or (expected is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and expected is not bool):
        raise ValueError(f"{name} should be of type {expected.__name__}, got {value!r}")
    if rule["choices"] and value not in rule["choices"]:
        raise ValueError(f"{name} should be one of {', '.join(rule['choices'])}, got {value!r}")
    low, high = rule["minimum"], rule["maximum"]
    if isinstance(value, (int, float)) and ((low is not None and not value >= low) or (high is not None and not value <= high)):
        raise ValueError(f"{name} should lie in {low}..{high}, got {value!r}")


@dataclass(frozen=True)
class EngineSettings:
    """What one video's engine can be told. Fields marked dynamic may change while it runs."""

    model: str = setting("street", "bundle: a name under models/ or the path of a folder with model.yaml")
    device: str = setting("auto", "where the networks run; auto takes the GPU when there is one", choices=("auto", "cpu", "cuda"))
    precision: str = setting(
        "auto",
        "number format of the networks; auto takes the half precision the device computes natively",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    threads: int = setting(0, "CPU threads of the networks; 0 leaves it to torch", minimum=0, maximum=256)
    input_pixels: int = setting(
        0, "pixels of the network's input; frames are resized to it keeping their shape; 0 takes the bundle's", minimum=0, maximum=8_000_000
    )
    flow: str = setting("", "flow network to use in place of the bundle's own, for example dis; empty keeps the bundle's")
    schedule: str = setting(
        "fixed:400ms",
        "when to compute a key frame: per-frame, fixed:N, fixed:Nms, random:RATE, adaptive, adaptive:rate=RATE, "
        "adaptive:ms_per_s=MS or adaptive:latency_ms=MS; an adaptive one may add signal=disagreement, residual or motion",
        dynamic=True,
    )
    key_frames: str = setting(
        "blocking",
        "blocking: a frame that is made a key frame waits for its feature; aside: the feature is computed beside the stream, "
        "and until it is ready frames are propagated from the key frame before",
        choices=("blocking", "aside"),
        dynamic=True,
    )
    key_share: float = setting(
        0.25,
        "key frames aside are computed while no frame is; where that is less than this share of the time, beside frames with half of a "
        "CPU's threads; 0: never beside, and where frames leave no time a key frame may take very long",
        minimum=0.0,
        maximum=0.9,
    )
    max_key_age: float = setting(
        2.0, "seconds after which a new key frame is due; 0 sets no limit", minimum=0.0, maximum=600.0, dynamic=True
    )
    max_gap: float = setting(
        1.0,
        "a pause of the camera longer than this many seconds, by the stamps of all images, drops the key frame; 0 sets no limit",
        minimum=0.0,
        maximum=600.0,
        dynamic=True,
    )
    refine: bool = setting(True, "correct propagated features by the bundle's branch on the current frame, where it has one", dynamic=True)
    segmentation: bool = setting(True, "run the segmentation head", dynamic=True)
    detection: bool = setting(True, "run the detection head", dynamic=True)
    score_threshold: float = setting(0.5, "detections with a lower score are not published", minimum=0.05, maximum=1.0, dynamic=True)
    adaptive_price: float = setting(
        0.3,
        "adaptive schedule: a key frame is due when it is worth this much, 1 being a frame of which every pixel has another class than "
        "per-frame gives it; with a set-point, where its controller starts",
        minimum=0.001,
        maximum=100.0,
        dynamic=True,
    )
    adaptive_min_age: int = setting(
        1, "adaptive schedule: least processed frames between key frames", minimum=1, maximum=1000, dynamic=True
    )
    adaptive_max_age: int = setting(
        30, "adaptive schedule: most processed frames between key frames", minimum=1, maximum=10_000, dynamic=True
    )

    def __post_init__(self) -> None:
        validate(self)

    def with_values(self, values: Mapping[str, object]) -> EngineSettings:
        """A copy with some fields replaced; unknown names and bad values raise ValueError."""
        known = {item.name for item in fields(self)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return replace(self, **values)  # type: ignore[arg-type]
