"""What a network asks of a device; without torch, for what only reads figures."""

from __future__ import annotations

from dataclasses import dataclass


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
