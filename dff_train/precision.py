"""In which precision networks compute while they learn; weights and losses stay float32."""

from __future__ import annotations

import torch

from dff_ros.engine.loading import cpu_computes_bfloat16


def mixed_precision(device: torch.device) -> torch.autocast:
    """A context in which convolutions take bfloat16, on devices that compute it natively, and float32 on others.

    A CPU without the instructions emulates it: a 3x3 convolution of 128 channels took six times as long there as in float32.
    """
    native = device.type != "cpu" or cpu_computes_bfloat16()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=native)
