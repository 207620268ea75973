"""Batch normalisation statistics across ranks, and over many training images.

Every rank normalises with the statistics of its own micro-batches (trap T5: the paper's BN is not synchronised), so
ranks' running averages drift apart. They are combined before the model is evaluated or saved.

Running averages are of the last few micro-batches, and of weights that have moved since. The released models have
other statistics: "the means and variances are computed by averaging over a sufficiently large training batch after
the training", says their README (github.com/KaimingHe/deep-residual-networks). See `population_statistics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

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
    return _gather(flat_statistics(model))


def flat_statistics(model: nn.Module) -> torch.Tensor:
    """The running statistics of this rank in one piece, float32 [values]; a copy."""
    return torch.cat([buffer.flatten() for buffer in running_statistics(model)] or [torch.zeros(0)])


@torch.no_grad()
def set_statistics(model: nn.Module, values: torch.Tensor) -> None:
    """Set the running statistics to `values`, which lie as those of `flat_statistics` do."""
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


def statistics_for(gathered: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    """What a rank goes on with, of the rows that `gather_statistics` gave: its own, or on another number of ranks what
    stands for all."""
    return gathered[rank] if len(gathered) == world_size else average_statistics(gathered)


def with_statistics(model: nn.Module, state: Mapping[str, Any], values: torch.Tensor) -> dict[str, Any]:
    """A state of `model`, but with the running statistics `values`, which lie as those of `flat_statistics` do."""
    buffers = running_statistics(model)
    parts = values.split([buffer.numel() for buffer in buffers])
    names = _names_of_statistics(model)
    return {**state, **{name: part.view_as(b) for name, b, part in zip(names, buffers, parts, strict=True)}}


def statistics_in(model: nn.Module, state: Mapping[str, Any]) -> torch.Tensor:
    """The running statistics in a state of `model`, float32 [values] as `flat_statistics` has them."""
    return torch.cat([state[name].flatten() for name in _names_of_statistics(model)] or [torch.zeros(0)])


def running_statistics(model: nn.Module) -> list[torch.Tensor]:
    """The buffers themselves: running means and variances, in the order of the layers."""
    return [
        buffer
        for layer in _layers_with_statistics(model)
        for buffer in (layer.running_mean, layer.running_var)
        if buffer is not None
    ]


@contextmanager
def statistics_set(model: nn.Module, values: torch.Tensor) -> Iterator[None]:
    """Other running statistics, for as long as the `with` block lasts."""
    before = flat_statistics(model)
    set_statistics(model, values)
    try:
        yield
    finally:
        set_statistics(model, before)


@torch.no_grad()
def population_statistics(
    networks: Sequence[nn.Module],
    micro_batches: Iterable[torch.Tensor],
    after_batch: Callable[[int], None] = lambda batches: None,
) -> list[torch.Tensor]:
    """Means and variances of every BN layer by plain averaging over micro-batches, those of all ranks.

    Algorithm 2 of Ioffe and Szegedy 2015: with E over the micro-batches B, of m values a channel each,

        E[x] = E_B[mu_B],    Var[x] = E_B[m / (m - 1) sigma_B^2].

    A layer sees what it sees in training, normalised by the micro-batch in the layers before it. Nothing but BN is in
    training mode: dropout does not act. Sums are float64 and added up in the order of the ranks, so the result does
    not depend on how the micro-batches were dealt, but for the last bits of float64.

    Args:
        networks: each goes over every micro-batch. Their running statistics are used up.
        micro_batches: this rank's inputs, float32 [b, c, h, w].
        after_batch: called with the number of this rank's micro-batches done; it may raise.

    Returns:
        For each network, float32 [values] as `flat_statistics` has them.
    """
    for network in networks:
        _let_statistics_be_of_a_batch(network)
    sums = [flat_statistics(network).double().zero_() for network in networks]
    count = 0
    for count, images in enumerate(micro_batches, start=1):
        for network, total in zip(networks, sums, strict=True):
            network(images)
            total += flat_statistics(network)
        after_batch(count)
    totals = _gather(torch.cat([*sums, sums[0].new_tensor([count])])).sum(dim=0)
    means = (totals[:-1] / totals[-1]).float()
    return list(means.split([len(total) for total in sums]))


@dataclass(frozen=True)
class Changes:
    """How far statistics have moved, at most, over all channels of all layers."""

    mean_moved: float
    """In standard deviations, as they were."""
    variance_moved: float
    """As a fraction of the variance that was."""

    def __str__(self) -> str:
        return f"means by up to {self.mean_moved:.2g} standard deviations, variances by up to {self.variance_moved:.2%}"


def changes(model: nn.Module, old: torch.Tensor, new: torch.Tensor) -> Changes:
    """Compare two sets of statistics of `model`, as of `flat_statistics`. A variance is what a layer divides by: with
    its eps."""
    buffers = running_statistics(model)
    sizes = [buffer.numel() for buffer in buffers]
    eps = [layer.eps for layer in _layers_with_statistics(model)]
    before, after = old.double().split(sizes), new.double().split(sizes)
    means, variances = [0.0], [0.0]
    for place, (mean, variance, new_mean, new_variance) in enumerate(
        zip(before[::2], before[1::2], after[::2], after[1::2], strict=True)
    ):
        means.append(float(((new_mean - mean).abs() / (variance + eps[place]).sqrt()).max()))
        variances.append(float(((new_variance - variance).abs() / (variance + eps[place])).max()))
    return Changes(max(means), max(variances))


def _names_of_statistics(model: nn.Module) -> list[str]:
    names = {id(buffer): name for name, buffer in model.named_buffers()}
    return [names[id(buffer)] for buffer in running_statistics(model)]


def _layers_with_statistics(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


def _let_statistics_be_of_a_batch(network: nn.Module) -> None:
    """After each forward pass the running statistics are those of its batch: torch's BN, forgetting everything."""
    network.eval()
    for layer in _layers_with_statistics(network):
        layer.train()
        layer.reset_running_stats()  # 0 times what was there is not 0 if that was not finite
        layer.momentum = 1.0


def _gather(flat: torch.Tensor) -> torch.Tensor:
    """[values] of every rank: [ranks, values]."""
    if not _several_ranks():
        return flat[None]
    gathered = flat.new_empty(dist.get_world_size() * len(flat))
    dist.all_gather_into_tensor(gathered, flat)
    return gathered.view(-1, len(flat))


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
