"""Which number formats a CPU computes by itself."""

from __future__ import annotations

import torch


def cpu_computes_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; where torch cannot say, False is the safe answer."""
    # Private names, which other versions of torch may lack.
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)
