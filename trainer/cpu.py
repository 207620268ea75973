"""How a process uses the CPU that it computes on."""

from __future__ import annotations

import os

import torch

from trainer.allocator import keep_freed_memory
from trainer.cgroup import default_threads


def prepare_cpu() -> None:
    """For a process whose device is the CPU: freed memory is kept, and it has no more threads than its share of the
    node's cores. torch takes all cores of the host, whatever a container may use; OMP_NUM_THREADS has the last word."""
    keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > default_threads():
        torch.set_num_threads(default_threads())
