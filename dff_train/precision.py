"""In which precision networks compute while they learn; weights and losses stay float32."""

from __future__ import annotations

import torch

from dff_ros.core.precision import cpu_computes_bfloat16


def mixed_precision(device: torch.device) -> torch.autocast:
    """A context in which convolutions take bfloat16; float32 on a CPU without instructions for it.

    That would emulate it: a 3x3 convolution of 128 channels took six times as long as in float32.
    """
    enabled = device.type != "cpu" or cpu_computes_bfloat16()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
