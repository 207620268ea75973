"""What a run reads: its data sets, their order, and the batches that the network gets."""

from __future__ import annotations

from typing import Any

import torch

from trainer.data.colour import ColourStatistics, Preprocess
from trainer.data.cut_loader import CutLoader
from trainer.data.dataset import (
    Dataset,
    check_same_classes,
    check_training_crops,
    colour_of,
    open_dataset,
    training_crops,
    training_order,
)
from trainer.data.ffcv_engine import FfcvLoader
from trainer.data.loader import Loader
from trainer.evaluation.protocols import all_cuts, center
from trainer.recipe import Recipe


class RunData:
    """Both data sets of a recipe, opened and checked against each other, with their loaders for `device`.

    Raises:
        UsageError: they are missing, damaged, or do not go together with each other or the recipe.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.train, self.val = open_dataset(recipe.data.train), open_dataset(recipe.data.val)
        check_same_classes(self.val, self.train.classes, recipe.data.train)
        check_training_crops(recipe, self.train)
        self.order = training_order(recipe, self.train)
        self.statistics, self.mean_image = colour_of(recipe, self.train)
        self.train_loader = self._training_loader(recipe, device)
        self.protocol = center(recipe.evaluation.resize)
        """Of the validation while training."""
        size, threads = recipe.validation_size, recipe.data.threads
        self.val_loader = CutLoader(self.val.beton, all_cuts([self.protocol]), size, device, threads=threads)
        self.preprocess = Preprocess(self.statistics, recipe.data.colour, self.mean_image).to(device)

    def _training_loader(self, recipe: Recipe, device: torch.device) -> Loader | FfcvLoader:
        if recipe.data.engine == "ffcv":
            options = _training_options(recipe, self.statistics)
            return FfcvLoader(self.train.beton, training_crops(recipe), device, **options)
        return native_loader(recipe, self.train, self.statistics, device)


def native_loader(recipe: Recipe, data: Dataset, statistics: ColourStatistics, device: torch.device) -> Loader:
    """What makes the training batches of `data`, whatever `data.engine` is: both make the same."""
    options = _training_options(recipe, statistics)
    options["replacement_seed"] = recipe.seed if recipe.data.on_error == "skip" else None
    return Loader(data.beton, training_crops(recipe), device, **options)


def _training_options(recipe: Recipe, statistics: ColourStatistics) -> dict[str, Any]:
    red, green, blue = (round(value) for value in statistics.mean)
    return {
        "threads": recipe.data.threads,
        "prefetch": recipe.data.prefetch,
        "colour_seed": recipe.seed if recipe.data.colour > 0 else None,
        "fill": (red, green, blue),
    }
