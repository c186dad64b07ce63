"""Deep Feature Flow put together from its parts: N_feat, F, the branch on the current frame where there is one, and the heads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn

from dff_ros.core.results import Detections, ImageGeometry, LabelMap, Task


class Head(Protocol):
    """N_task of the paper: raw maps from a feature, and results from raw maps."""

    task: Task

    def __call__(self, feature: Tensor) -> Any:
        """(N, channels, H, W) -> raw maps, which losses and ``decode`` read."""
        ...

    def decode(self, maps: Any, geometry: ImageGeometry) -> Detections | LabelMap:
        """Raw maps of one image -> results in source pixels, on the host."""
        ...


class DeepFeatureFlow(nn.Module):
    """The parts of one bundle. It holds weights only: what is remembered of a video lives in the engine.

    ``feature_network`` maps an image to the feature, ``flow_network`` two prepared images to flow and scale,
    ``refine_network`` (None for the paper's method as it is) corrects the propagated feature, and each head reads the feature,
    whether computed or propagated.

    ``half_cells`` (None for the paper's) is what the warp reads between the cells of a key frame.
    ``chains_flow`` says how the way back to a key frame is measured: False, from the current frame at once, as in the paper; True,
    from each frame to the one before it, put together by :func:`dff_ros.core.propagate.chain`. The networks are the same either way.
    """

    def __init__(
        self,
        feature_network: nn.Module,
        flow_network: nn.Module,
        *,
        heads: Iterable[nn.Module],
        refine_network: nn.Module | None = None,
        half_cells: nn.Module | None = None,
        chains_flow: bool = False,
    ) -> None:
        super().__init__()
        self.feature_network: Any = feature_network
        self.flow_network: Any = flow_network
        self.refine_network: Any = refine_network
        self.half_cells: Any = half_cells
        self.chains_flow = chains_flow
        self.heads = nn.ModuleDict({_task_of(head).value: head for head in heads})

    def with_parts(self, **parts: Any) -> DeepFeatureFlow:
        """A model with other ``parts``, named as when it is made, in place of its own; it shares all others."""
        own = {name: getattr(self, name) for name in ("feature_network", "flow_network", "refine_network", "half_cells", "chains_flow")}
        return DeepFeatureFlow(**{**own, "heads": self.heads.values(), **parts})

    @property
    def stride(self) -> int:
        """Image pixels per feature cell."""
        return int(self.feature_network.stride)

    def carried_map(self, key_feature: Tensor) -> Tensor:
        """What is warped of a key frame: its feature (N, C, H, W) itself or, with ``half_cells``, twice as dense."""
        return key_feature if self.half_cells is None else self.half_cells(key_feature)

    @property
    def channels(self) -> int:
        """Channels of the feature."""
        return int(self.feature_network.channels)

    @property
    def tasks(self) -> frozenset[Task]:
        """What this model answers."""
        return frozenset(Task(name) for name in self.heads)

    def head(self, task: Task) -> Any:
        """The head of one task; raises KeyError where the model has none."""
        return self.heads[task.value]


def _task_of(head: Any) -> Task:
    task: Task = head.task
    return task
