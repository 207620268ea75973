"""What runs need, looked at before the first one starts, so that the last one does not fail for a typo days later."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache

import torch

from trainer.data.dataset import check_same_classes, check_training_crops, colour_of, open_dataset, training_order
from trainer.models import create_model
from trainer.recipe import Recipe
from trainer.sweep.plan import Entry


def check_inputs(entries: list[Entry]) -> None:
    """Open the data of each run, every file once, and build its network without memory for it.

    Raises:
        UsageError: what the run itself would raise at its start, with the place of the entry.
    """
    open_once = cache(open_dataset)
    for entry in entries:
        with entry.blamed():
            train, val = open_once(entry.recipe.data.train), open_once(entry.recipe.data.val)
            check_same_classes(val, train.classes, entry.recipe.data.train)
            check_training_crops(entry.recipe, train)
            training_order(entry.recipe, train)
            colour_of(entry.recipe, train)
            _check_network(entry.recipe, len(train.classes))


def _check_network(recipe: Recipe, classes: int) -> None:
    with torch.device("meta"):
        create_model(num_classes=classes, **asdict(recipe.model))
