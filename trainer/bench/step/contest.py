"""One comparison: a network, a batch and a device, the same for all that take part."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from trainer.bench.step.options import DEPTHS, Options
from trainer.data.dataset import Dataset, check_training_crops, open_dataset
from trainer.errors import UsageError
from trainer.recipe import Recipe

CIFAR_CLASSES, IMAGENET_CLASSES = 10, 1000
"""Where no data say how many there are."""


@dataclass(frozen=True)
class Contest:
    """What every contestant does: steps of `batch` images of `recipe.data.size` x `recipe.data.size` pixels."""

    recipe: Recipe
    """Its global batch is one micro-batch, and goes through the network at once."""
    classes: int
    accelerator: Accelerator
    data: Dataset | None
    peers: tuple[str, ...]
    striding_in: str | None
    """Which convolution of a bottleneck strides in the recipe, where that was changed to the peers'."""

    @property
    def network(self) -> str:
        return self.recipe.model.name

    @property
    def batch(self) -> int:
        return self.recipe.optimizer.micro_batch

    @property
    def size(self) -> int:
        return self.recipe.data.size

    @property
    def device(self) -> torch.device:
        return self.accelerator.device


def recipes_of(recipe: Recipe, depths: Sequence[int]) -> list[Recipe]:
    """The recipe with each of the networks, or with its own where there are no `depths`."""
    found = []
    for depth in depths:
        other = deepcopy(recipe)
        other.model.name = f"resnet{depth}"
        found.append(other)
    return found or [recipe]


def make_contest(recipe: Recipe, batch: int, accelerator: Accelerator, options: Options) -> Contest:
    """The contest of one network and batch.

    Networks of bottlenecks stride in the 3x3 convolution where peers take part: theirs do (v1.5), and the paper's own
    (v1) are less work.

    Raises:
        UsageError: the data cannot be used.
    """
    recipe = deepcopy(recipe)
    recipe.optimizer.global_batch = recipe.optimizer.micro_batch = batch
    recipe.data.first_size = 0  # crops that grow are measured at their last size
    striding_in = None
    if options.peers and has_bottlenecks(recipe) and recipe.model.stride_in != "3x3":
        striding_in, recipe.model.stride_in = recipe.model.stride_in, "3x3"
    data = open_dataset(options.data) if options.data is not None else None
    classes = CIFAR_CLASSES if recipe.data.crop == "padded" else IMAGENET_CLASSES
    if data is not None:
        check_training_crops(recipe, data)
        classes = len(data.classes)
        if classes < 2:
            raise UsageError(f"{options.data}: has one class, and a network of one learns nothing; take other data")
    elif recipe.data.normalize == "mean_image" or recipe.data.statistics == "data":
        # What is measured does not depend on the numbers, and without data there are none.
        recipe.data.normalize, recipe.data.statistics = "channel", "imagenet"
    return Contest(recipe, classes, accelerator, data, options.peers, striding_in)


def has_bottlenecks(recipe: Recipe) -> bool:
    """Of the networks that peers have, too: from ResNet-50 on."""
    return recipe.model.name in {f"resnet{depth}" for depth in DEPTHS if depth >= 50}
