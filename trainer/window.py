"""What is summed up between two lines of the log; it stays on the device until then."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Sums:
    """Of all ranks, since the last line."""

    losses: list[float]
    """Of each step, the mean over the global batch."""
    top1_error: float
    skipped: int
    """Samples that did not decode."""


class Window:
    """Sums of some steps."""

    def __init__(self, device: torch.device) -> None:
        self.is_first = True
        self._device = device
        self.begin()

    def begin(self) -> None:
        """Start anew, now."""
        self._losses: list[torch.Tensor] = []
        self._correct = torch.zeros((), dtype=torch.float64, device=self._device)
        self.images = self._skipped = 0
        self._waited = 0.0
        self._began = time.perf_counter()

    @property
    def steps(self) -> int:
        return len(self._losses)

    def add_step(self, loss: torch.Tensor, correct: torch.Tensor) -> None:
        """Take in a step: its mean loss on this rank's share, and how many of that were classified correctly."""
        self._losses.append(loss)
        self._correct += correct

    def count(self, images: int, waited: float, skipped: int) -> None:
        """Take in a step's images, of all ranks, the seconds this rank waited for its own, and how many of these were
        replaced."""
        self.images += images
        self._waited += waited
        self._skipped += skipped

    def rates(self) -> tuple[float, float]:
        """Images a second over all ranks, and the share of the time that this rank waited for data."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        return self.images / elapsed, min(self._waited / elapsed, 1.0)

    def read(self, world_size: int) -> Sums:
        """Sum up over all ranks. Waits for the device."""
        sums = torch.cat(
            [torch.stack(self._losses).double(), self._correct[None], self._correct.new_tensor([self._skipped])]
        )
        if world_size > 1:
            dist.all_reduce(sums)
        *losses, correct, skipped = sums.tolist()
        return Sums([loss / world_size for loss in losses], 1.0 - correct / self.images, int(skipped))


def sum_over_ranks(count: torch.Tensor) -> int:
    """The sum of a whole number, float64 [], over all ranks, which call this alike. Waits for the device."""
    total = count.clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
    return int(total)
