"""Gradients summed up in an order that does not matter, for `trainer.deterministic`.

In float32 the sum of the same micro-batches' gradients differs in its last bits with the number of ranks they are
spread over, and with how DDP has arranged its buckets, which it does anew after the first step of a process. Training
multiplies such differences. In float64 sums of gradients are exact but for their last bits, which are gone when they
become float32 again.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn


class ExactGradients:
    """The mean of the gradients of all micro-batches of all ranks. Takes the place of DDP's, at twice its bytes."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        count = sum(p.numel() for p in self._parameters)
        self._flat = torch.zeros(count, dtype=torch.float64, device=self._parameters[0].device)
        self._sums = [
            part.view_as(p)
            for part, p in zip(self._flat.split([p.numel() for p in self._parameters]), self._parameters, strict=True)
        ]

    @torch.no_grad()
    def add(self) -> None:
        """Take in, and clear, the gradient of a micro-batch."""
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            if parameter.grad is not None:
                total += parameter.grad
                parameter.grad = None

    @torch.no_grad()
    def finish(self, micro_batches: int) -> None:
        """Set the parameters' gradients to the mean over this many micro-batches, those of all ranks."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self._flat)
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            # In the parameter's memory format: the fused optimizer goes through both as they lie in memory.
            parameter.grad = torch.empty_like(parameter).copy_(total / micro_batches)
        self._flat.zero_()
