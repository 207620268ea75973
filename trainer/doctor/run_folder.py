"""Whether the run folder can be written, and its disk has room for the checkpoints that the recipe keeps."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch

from trainer.checkpoint import checkpoints_dir
from trainer.doctor.check import Check, fail, guarded, ok, size, warn
from trainer.models import create_model
from trainer.recipe import Recipe

CLASSES: Final = 1000
"""Of ImageNet; with fewer, checkpoints are a little smaller."""


def run_folder_checks(recipe: Recipe) -> list[Check]:
    """The recipe's run folder. Nothing is written."""
    return guarded("run folder", lambda: _run_folder(recipe))


def checkpoint_bytes(recipe: Recipe, classes: int = CLASSES) -> int:
    """What one checkpoint takes, but for kilobytes: the network, its average if there is one, and the momentum of each
    of its parameters."""
    with torch.device("meta"):
        model = create_model(num_classes=classes, **asdict(recipe.model))
    networks = 2 if recipe.optimizer.ema else 1
    tensors = [*model.state_dict().values()] * networks + [*model.parameters()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _run_folder(recipe: Recipe) -> Check:
    folder = recipe.run_dir
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return fail("run folder", f"{recipe.run_dir}: {folder} cannot be written", "set runs= to a folder that can")
    disk = os.statvfs(folder)
    made = len(list(checkpoints_dir(recipe.run_dir).glob("step-*")))
    return judge_room(recipe.run_dir, disk.f_bavail * disk.f_frsize, checkpoint_bytes(recipe), recipe, made)


def judge_room(run_dir: Path, free: int, checkpoint: int, recipe: Recipe, made: int) -> Check:
    """Free bytes against the checkpoints that are still to be made, `made` of them being there.

    A run holds the newest `checkpoint.keep`, the best, and the one that is being written.
    """
    keep = recipe.checkpoint.keep
    most = max(1, keep + 2 - made)
    found = f"{run_dir}: {size(free)} free; {most} checkpoint(s) of {size(checkpoint)} to come"
    if free < checkpoint:
        return fail("run folder", found, "free some space, or set runs= to another disk")
    if free < most * checkpoint:
        return warn("run folder", found, "lower checkpoint.keep, free some space, or set runs= to another disk")
    return ok("run folder", found)
