"""Batch normalisation statistics across ranks.

Every rank normalises with the statistics of its own micro-batches (trap T5: the paper's BN is not synchronised), so
ranks' running averages drift apart. They are combined before the model is evaluated or saved.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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
