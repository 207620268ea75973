"""What a batch job needs to know of a run, looked at before it waits in a queue: for the scripts in `launch`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import UsageError
from trainer.lock import holder_of
from trainer.recipe import Recipe, load_recipe


def describe_job(
    file: Path, overrides: list[str], *, sweep: bool, processes: int | None, data_later: bool
) -> Iterator[str]:
    """Lines `key=value` of the job of a recipe, or of each run of a sweep: `recipe`, the words that `trainer train`
    takes, quoted for a shell; `run`, the run folder; the betons `train` and `val`.

    Args:
        processes: check that so many can share the global batch, that data and network go together, that no trainer is
            at work in the run folder and that its disk has room; None looks at the recipe only.
        data_later: the betons are still to be made.

    Raises:
        UsageError: something of this is wrong, with the place of the run in the sweep.
    """
    if not sweep:
        recipe = load_recipe(file, overrides)
        if processes is not None:
            check_job(recipe, processes, data_later)
        yield from _lines(recipe, [str(file), *overrides])
        return
    from trainer.sweep.plan import load_plan

    entries = load_plan(file, overrides)
    for entry in entries:
        with entry.blamed():
            if processes is not None:
                check_job(entry.recipe, processes, data_later)
    for entry in entries:
        yield from _lines(entry.recipe, entry.words)


def _lines(recipe: Recipe, words: list[str]) -> list[str]:
    return [
        f"recipe={shlex.join(words)}",
        f"run={recipe.run_dir}",
        f"train={recipe.data.train}",
        f"val={recipe.data.val}",
    ]


def check_job(recipe: Recipe, processes: int, data_later: bool) -> None:
    """Refuse what would fail as soon as the job starts, perhaps days after it was submitted.

    Raises:
        UsageError: processes, data, network, run folder or free space.
    """
    from trainer.doctor.run_folder import CLASSES, run_folder_checks
    from trainer.processes import check_world_size
    from trainer.sweep.inputs import check_input, check_network

    check_world_size(recipe, processes)
    if (holder := holder_of(recipe.run_dir)) is not None:
        raise UsageError(f"{recipe.run_dir}: another trainer is at work in this run folder ({holder})")
    if data_later:
        check_network(recipe, CLASSES)
    else:
        check_input(recipe)
    for check in run_folder_checks(recipe):
        if check.status == "fail":
            raise UsageError(f"{check.found}; {check.advice}")
