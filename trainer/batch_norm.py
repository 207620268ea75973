"""Batch normalisation statistics across ranks.

Every rank normalises with the statistics of its own micro-batches (trap T5: the paper's BN is not synchronised), so
ranks' running averages drift apart. They are combined before the model is evaluated or saved.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

MOMENTUM: Final = 0.1
"""Of the running statistics, for a step of the optimizer: torch's default and, as 1 - 0.9, the usual one."""


def set_momentum(model: nn.Module, updates: int) -> None:
    """Let the running statistics forget as much in a step as if it had one update instead of `updates`.

    A step has one update a micro-batch of this rank, so on fewer ranks it has more; without this the statistics would
    span less data there, and the validation error would depend on the number of devices.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 1.0 - (1.0 - MOMENTUM) ** (1.0 / updates)


@torch.no_grad()
def combine_statistics(model: nn.Module) -> None:
    """Set the running means and variances of every BN layer to their averages over all ranks, in one all-reduce."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    buffers = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var) if buffer is not None]
    if not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for buffer, average in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(average.view_as(buffer))
