"""What a network asks of a device for one image: counted on the real network, without computing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from trainer.models import create_model
from trainer.plan.cost import NetworkCost
from trainer.recipe import ModelRecipe


def network_cost(model: ModelRecipe, size: int, classes: int) -> NetworkCost:
    """Count for images of `size` x `size` pixels.

    Raises:
        UsageError: there is no such network.
    """
    return _cost(tuple(sorted(asdict(model).items())), size, classes)


@lru_cache
def _cost(options: tuple[tuple[str, Any], ...], size: int, classes: int) -> NetworkCost:
    return count_cost(lambda: create_model(num_classes=classes, **dict(options)), size)


def count_cost(make: Callable[[], nn.Module], size: int) -> NetworkCost:
    """Count what any convolutional network, which `make` builds, does for an image of `size` x `size` pixels."""
    counted = {"macs": 0, "activations": 0, "layers": 0}

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        counted["layers"] += 1
        if isinstance(module, nn.Conv2d | nn.Linear):
            # One multiply-add for every weight of an output's own filter.
            counted["macs"] += output.numel() * (module.weight.numel() // module.weight.shape[0])
            counted["activations"] += output.numel()

    with torch.device("meta"), torch.no_grad():
        network = make().eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.register_forward_hook(count)
        network(torch.empty(1, 3, size, size))
    return NetworkCost(parameters=sum(p.numel() for p in network.parameters()), **counted)
