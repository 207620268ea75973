"""Checkpoints of any network, as training would leave them, without training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.small import make_run
from trainer import checkpoint
from trainer.models import create_model
from trainer.recipe import ModelRecipe
from trainer.run_state import state_of

CLASSES = ["ant", "bee", "cat", "dog"]
SIZE = 64


def write_checkpoint(
    folder: Path, *, classes: list[str] = CLASSES, seed: int = 0, mean_image: bool = False, **model: Any
) -> Path:
    """`folder/checkpoint`, of a network with random weights and statistics that were never those of its beginning."""
    recipe = ModelRecipe(**model)
    state = _state(folder)
    state["model"] = random_network(recipe, len(classes), seed).state_dict()
    state["classes"] = classes
    state["recipe"]["model"] = asdict(recipe)
    if not recipe.name.startswith("cifar_"):
        state["recipe"]["data"]["size"], state["recipe"]["evaluation"]["resize"] = SIZE, SIZE + 8
        state["recipe"]["data"]["crop"] = "scale"
    if mean_image:
        state["mean_image"] = torch.full((SIZE, SIZE, 3), 7.0)
    checkpoint.write(folder / "checkpoint", state)
    return folder / "checkpoint"


def _state(folder: Path) -> dict[str, Any]:
    """Of a run that has just begun."""
    folder.mkdir(parents=True, exist_ok=True)
    return state_of(make_run(folder))


@torch.no_grad()
def random_network(recipe: ModelRecipe, classes: int, seed: int) -> nn.Module:
    """Random in all that a trained network has learnt, batch norm's parameters and statistics too."""
    torch.manual_seed(seed)
    network = create_model(num_classes=classes, **asdict(recipe))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.0)
            module.bias.uniform_(-0.2, 0.2)
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    return network.eval()
