"""What a network asks of a device; without torch, for what only reads figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class NetworkCost:
    """Of a forward pass of one image."""

    macs: int
    """Multiply-adds of convolutions and linear layers; the paper's "FLOPs" (Table 1)."""
    activations: int
    """Values that they put out."""
    layers: int
    """They and the batch norms."""
    parameters: int


def mean_cost(costs: Sequence[NetworkCost], shares: Sequence[float]) -> NetworkCost:
    """Of one network for images of several sizes, each of which is a share of all."""
    macs, activations = (
        round(sum(share * getattr(cost, name) for cost, share in zip(costs, shares, strict=True)))
        for name in ("macs", "activations")
    )
    return replace(costs[0], macs=macs, activations=activations)
