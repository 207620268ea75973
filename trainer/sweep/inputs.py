"""What runs need, looked at before the first one starts, so that the last one does not fail for a typo days later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache

import torch

from trainer.data.dataset import (
    Dataset,
    check_same_classes,
    check_training_crops,
    colour_of,
    open_dataset,
    training_order,
)
from trainer.models import create_model
from trainer.recipe import Recipe
from trainer.sweep.plan import Entry


def check_inputs(entries: list[Entry]) -> None:
    """Look at the data and the network of each run; every file is opened once.

    Raises:
        UsageError: what the run itself would raise at its start, with the place of the entry.
    """
    open_once = cache(open_dataset)
    for entry in entries:
        with entry.blamed():
            check_input(entry.recipe, open_once)


def check_input(recipe: Recipe, open_: Callable[[str], Dataset] = open_dataset) -> None:
    """Open the data of a run, and build its network without memory for it.

    Raises:
        UsageError: what the run itself would raise at its start.
    """
    train, val = open_(recipe.data.train), open_(recipe.data.val)
    check_same_classes(val, train.classes, recipe.data.train)
    check_training_crops(recipe, train)
    training_order(recipe, train)
    colour_of(recipe, train)
    check_network(recipe, len(train.classes))


def check_network(recipe: Recipe, classes: int) -> None:
    """Build it on no device.

    Raises:
        UsageError: there is none of this name, or not with these options.
    """
    with torch.device("meta"):
        create_model(num_classes=classes, **asdict(recipe.model))
