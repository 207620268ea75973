"""What is not finite: steps that leave no trace (`trainer.on_nonfinite: skip`), and weights that must not be saved."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import nn


class StepGuard:
    """Decides whether a step may change the parameters, and undoes what its forward passes did to BN's buffers.

    All ranks decide alike: the loss is summed over them, and gradients are the same on all.
    """

    def __init__(self, module: nn.Module, checks_gradients: bool) -> None:
        self._parameters = list(module.parameters())
        self._buffers = list(module.buffers())
        self._before = [torch.empty_like(buffer) for buffer in self._buffers]
        self._checks_gradients = checks_gradients

    @torch.no_grad()
    def begin(self) -> None:
        """Before the forward passes of a step."""
        if self._before:
            torch._foreach_copy_(self._before, self._buffers)

    @torch.no_grad()
    def allows(self, loss: torch.Tensor) -> bool:
        """Whether this rank's `loss`, those of the others and the gradients are finite. Waits for the device."""
        total = loss.double().clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
        if self._checks_gradients:  # a scaler looks at them itself, and expects some that are not
            norms = torch._foreach_norm([p.grad for p in self._parameters if p.grad is not None], math.inf)
            total = total + torch.stack([norm.double() for norm in norms]).sum()
        if torch.isfinite(total).item():
            return True
        if self._before:
            torch._foreach_copy_(self._buffers, self._before)
        return False


@torch.no_grad()
def is_finite(module: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether all parameters and their momentum are finite; the same on all ranks. Waits for the device."""
    states = [value for state in optimizer.state.values() for value in state.values()]
    values = [*module.parameters(), *(value for value in states if isinstance(value, torch.Tensor))]
    norms = torch._foreach_norm([value.detach() for value in values if value.is_floating_point()], math.inf)
    return bool(torch.stack([norm.double() for norm in norms]).isfinite().all().item())
