"""What the device could compute at most, to say what share of it a step reaches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import torch

from trainer.bench.step.clock import seconds_of
from trainer.plan.constants import DEVICES, FORWARD_AND_BACKWARD
from trainer.plan.saved import device_key
from trainer.precision import HALVES
from trainer.recipe import Precision

OPERATIONS: Final = 2
"""A multiply-add."""

SIDE: Final = {"cpu": 1024, "cuda": 8192}
"""Of the matrices that are multiplied where there is no data sheet."""

SECONDS: Final = 1.0
"""For the products."""


OTHER_VARIANTS: Final = ("H100 PCIe", "H100 NVL")
"""Their data sheets are not those of the SXM modules, which the table has."""


@dataclass(frozen=True)
class Peak:
    """FLOP/s, and where the figure comes from."""

    flops: float
    origin: str


def flops_of(macs: int, images_per_s: float) -> float:
    """FLOP/s of training steps on so many images a second, `macs` multiply-adds a forward pass of one."""
    return OPERATIONS * FORWARD_AND_BACKWARD * macs * images_per_s


def peak_of(device: torch.device, precision: Precision) -> Peak:
    """The data sheet's, if this project knows one of the device in this precision; else what a product reaches."""
    if device.type == "cuda" and precision != "tf32":
        name = torch.cuda.get_device_name(device)
        known = None if any(map(name.__contains__, OTHER_VARIANTS)) else DEVICES.get(device_key(name))
        flops = None if known is None else known.half if precision in HALVES else known.single
        if known is not None and flops is not None:
            return Peak(flops, f"{precision}, data sheet of {known.title}")
    side = SIDE[device.type]
    return Peak(_measure(device, precision, side), f"{precision}, best product of two matrices of {side:,}, this run")


def _measure(device: torch.device, precision: Precision, side: int) -> float:
    """The best of as many products as fit into `SECONDS`."""
    one, other = (torch.randn(side, side, device=device, dtype=HALVES.get(precision)) for _ in range(2))

    def product() -> None:
        torch.mm(one, other)

    began, best = time.perf_counter(), float("inf")
    while best == float("inf") or time.perf_counter() - began < SECONDS:
        best = min(best, seconds_of(product, device))
    return OPERATIONS * side**3 / best
