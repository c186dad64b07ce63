"""Out of memory: recognising it and giving back what can be given, for callers that do not know torch."""

from __future__ import annotations

import gc

import cv2
import torch

OPENCV_NO_MEMORY = -4
"""``cv::Error::StsNoMem``."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that an allocation failed, on the GPU or on the host."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, cv2.error):
        return bool(error.code == OPENCV_NO_MEMORY)
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def free_memory() -> None:
    """Give back what nothing refers to any more, on the host and on the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gpu_memory_mib() -> float | None:
    """MiB that tensors of this process hold on the GPU; None without one."""
    return torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else None
