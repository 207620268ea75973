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
def gather_statistics(model: nn.Module) -> torch.Tensor:
    """The running statistics of every rank, float32 [ranks, values]. A run goes on with each rank's own."""
    flat = torch.cat([buffer.flatten() for buffer in running_statistics(model)] or [torch.zeros(0)])
    if not _several_ranks():
        return flat[None]
    gathered = flat.new_empty(dist.get_world_size() * len(flat))
    dist.all_gather_into_tensor(gathered, flat)
    return gathered.view(-1, len(flat))


@torch.no_grad()
def set_statistics(model: nn.Module, values: torch.Tensor) -> None:
    """Set the running statistics to a row of what `gather_statistics` gave."""
    buffers = running_statistics(model)
    for buffer, part in zip(buffers, values.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


@torch.no_grad()
def combine_statistics(model: nn.Module) -> None:
    """Set the running means and variances of every BN layer to their averages over all ranks, in one collective."""
    if not _several_ranks():
        return
    flat = gather_statistics(model)
    if flat.numel():
        set_statistics(model, average_statistics(flat))


def average_statistics(gathered: torch.Tensor) -> torch.Tensor:
    """What stands for all ranks: the mean over the rows of what `gather_statistics` gave."""
    return gathered.double().mean(dim=0).float()


def running_statistics(model: nn.Module) -> list[torch.Tensor]:
    """The buffers themselves: running means and variances, in the order of the layers."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var) if buffer is not None]


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
