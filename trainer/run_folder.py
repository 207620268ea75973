"""The folder of a run: begun once, gone on with ever after, by one trainer at a time, the same recipe and data."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from trainer import __version__, checkpoint
from trainer.data.dataset import Dataset, explain_other_data
from trainer.errors import RunError, UsageError
from trainer.files import write_atomically
from trainer.lock import RunLock
from trainer.recipe import Recipe, ResumeRecipe, differences, load_recipe, recipe_from_dict
from trainer.recipe_changes import refuse_changes


@dataclass
class Opened:
    """A run folder that is this process's to write to."""

    state: dict[str, Any] | None = None
    """Of the checkpoint to go on from; None at the beginning."""
    notes: list[str] = field(default_factory=list)
    """What has to be said of it."""
    lock: RunLock | None = None
    """Held by the main process."""


def open_run_folder(recipe: Recipe, train_data: Dataset, val_data: Dataset, accelerator: Accelerator) -> Opened:
    """Begin the run folder, or find the state to go on from. All ranks decide alike: the main process looks.

    Raises:
        UsageError: another trainer works in it, it holds a run of another recipe or of other data, it cannot be
            written, or no checkpoint is intact.
    """
    opened = Opened()
    found: list[Any] = [None, None]  # the checkpoint, and why not to go on
    if accelerator.is_main_process:
        try:
            opened.lock = _enter(recipe)
            found[0], opened.notes = checkpoint.newest_intact(recipe.run_dir)
            opened.state = checkpoint.load(found[0]) if found[0] is not None else None
            opened.notes += _settle_recipe(recipe, opened.state)
        except (UsageError, RunError) as error:
            found[1] = str(error)
        except OSError as error:
            found[1] = f"{error.filename or recipe.run_dir}: cannot write the run folder: {error.strerror}"
        if found[1] is not None and opened.lock is not None:
            opened.lock.release()
    broadcast_object_list(found)
    last, refusal = found
    if refusal is not None:
        raise UsageError(refusal)
    if opened.lock is not None and opened.lock.note:
        opened.notes.append(opened.lock.note)
    if last is not None:
        opened.state = opened.state or checkpoint.load(last)
        if accelerator.is_main_process:
            checkpoint.go_on_from(recipe.run_dir, opened.state)
        opened.notes += _check_data(recipe, opened.state, train_data, val_data)
    return opened


def _enter(recipe: Recipe) -> RunLock:
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    return RunLock(recipe.run_dir)


def _settle_recipe(recipe: Recipe, state: dict[str, Any] | None) -> list[str]:
    """Compare with what the checkpoint was made with, and write down what holds from now on.

    Before there is a checkpoint nothing is at stake: a change is only told of. Returns what has to be said.
    """
    path = recipe.run_dir / "recipe.yaml"
    notes, allowed = [], list[str]()
    if state is not None:
        changes = differences(recipe_from_dict(state["recipe"], f"{recipe.run_dir}: its checkpoint"), recipe)
        refuse_changes(recipe, changes)
        allowed = list(changes)
    elif path.exists() and (changes := differences(load_recipe(path), recipe)):
        notes.append(f"begun with another recipe ({'; '.join(changes.values())}); nothing was saved of it")
    # What was allowed once is not allowed for ever: only until there is a checkpoint that was made with it.
    written = replace(recipe, resume=ResumeRecipe(allow=allowed))
    write_atomically(path, written.to_yaml().encode())
    return notes


def _check_data(recipe: Recipe, state: dict[str, Any], train_data: Dataset, val_data: Dataset) -> list[str]:
    """Refuse other classes, and other data unless they are allowed. Returns what has to be said."""
    if train_data.manifest is not None and train_data.classes != state["classes"]:
        raise UsageError(
            f"{train_data.beton.path}: its classes are not those that {recipe.run_dir} was begun with "
            f"({_first_difference(state['classes'], train_data.classes)}); give a new run another name="
        )
    notes = []
    sets = (("data.train", train_data, state["data_digest"]), ("data.val", val_data, state["val_digest"]))
    for key, data, digest in sets:
        if data.digest == digest:
            continue
        if key not in recipe.resume.allow:
            raise UsageError(
                f"{explain_other_data(data, digest)}; or give a new run another name=, or allow other data: "
                f"resume.allow=[{key}]"
            )
        notes.append(f"{data.beton.path}: not the data that this run was begun with, as resume.allow says")
    if len(train_data.classes) != len(state["classes"]):  # without a manifest there are no names to compare
        raise UsageError(
            f"{train_data.beton.path}: it has {len(train_data.classes)} classes, {recipe.run_dir} was begun with "
            f"{len(state['classes'])}; give a new run another name="
        )
    return notes


def _first_difference(begun: list[str], now: list[str]) -> str:
    if len(begun) != len(now):
        return f"{len(begun)} then, {len(now)} now"
    place = next(i for i, (ours, theirs) in enumerate(zip(begun, now, strict=True)) if ours != theirs)
    return f"class {place} was {begun[place]} and is {now[place]}"


def versions() -> dict[str, str]:
    """Versions that a run's numbers depend on."""
    packages = ("torch", "accelerate", "timm", "numpy")
    found = {package: version(package) for package in packages}
    return {"imagenet-trainer": __version__, "python": platform.python_version(), **found}
