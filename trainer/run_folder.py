"""The folder of a run: begun once, gone on with ever after, and only by the same recipe and data."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from trainer import __version__, checkpoint
from trainer.data.dataset import Dataset
from trainer.errors import UsageError
from trainer.files import write_atomically
from trainer.recipe import Recipe, differences, load_recipe


def open_run_folder(
    recipe: Recipe, train_data: Dataset, val_data: Dataset, accelerator: Accelerator
) -> dict[str, Any] | None:
    """Begin the run folder, or find the state to go on from. All ranks decide alike: the main process looks.

    Raises:
        UsageError: the folder holds a run of another recipe or of other data.
    """
    found: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = _begin_run_folder(recipe)
        except UsageError as error:
            found[1] = str(error)
    broadcast_object_list(found)
    last, refusal = found
    if refusal is not None:
        raise UsageError(refusal)
    if last is None:
        return None
    state = checkpoint.load(last)
    for data, digest in ((train_data, state["data_digest"]), (val_data, state["val_digest"])):
        if data.digest != digest:
            raise UsageError(
                f"{data.beton.path}: not the data that {recipe.run_dir} was begun with; give this run another name="
            )
    return state


def _begin_run_folder(recipe: Recipe) -> str | None:
    path = recipe.run_dir / "recipe.yaml"
    if path.exists():
        changes = differences(load_recipe(path), recipe)
        if changes:
            raise UsageError(
                f"{recipe.run_dir}: this run was begun with another recipe ({'; '.join(changes)}); "
                "give the new one another name=, or take the changes back to go on"
            )
    try:
        recipe.run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, recipe.to_yaml().encode())
    except OSError as error:
        raise UsageError(f"{recipe.run_dir}: cannot write the run folder: {error.strerror}") from error
    last = checkpoint.checkpoints_dir(recipe.run_dir) / "last"
    return str(last) if last.exists() else None


def versions() -> dict[str, str]:
    """Versions that a run's numbers depend on."""
    packages = ("torch", "accelerate", "timm", "numpy")
    return {"imagenet-trainer": __version__, **{package: version(package) for package in packages}}
