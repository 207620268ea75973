"""How a process uses the CPU that it computes on."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

import torch

from trainer.data.loader import default_threads

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""Of glibc's mallopt(3)."""

KEPT_BLOCK: Final = 1 << 30
"""Bytes; activations of CPU-sized batches are smaller."""


def prepare_cpu() -> None:
    """For a process whose device is the CPU: no more than its share of the node's cores, and memory that is kept.

    torch takes all cores of the host, whatever a container may use; OMP_NUM_THREADS has the last word. And glibc gives
    every large activation back to the kernel when it is freed, which clears its pages anew for the next one: a tenth
    of a step of ResNet-18 at 64 pixels.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > default_threads():
        torch.set_num_threads(default_threads())
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None and "GLIBC_TUNABLES" not in os.environ:
            mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
