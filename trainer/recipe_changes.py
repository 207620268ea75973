"""What may be changed in a recipe whose run has been begun."""

from __future__ import annotations

from typing import Final

from trainer.errors import UsageError
from trainer.recipe import Recipe

NEVER_ALLOWED: Final = {
    "optimizer.global_batch": "its position is counted in whole batches",
    "optimizer.decay": "its momentum is stored in the order of the groups that this makes",
}


def refuse_changes(recipe: Recipe, changes: dict[str, str]) -> None:
    """Refuse to go on with `recipe.run_dir` if the recipe does not allow the `changes` (of `recipe.differences`).

    Raises:
        UsageError: naming them.
    """
    for key, reason in NEVER_ALLOWED.items():
        if key in changes:
            raise UsageError(
                f"{recipe.run_dir}: {changes[key]} cannot be changed in a run, {reason}; give a new one another name="
            )
    refused = {key: change for key, change in changes.items() if key not in recipe.resume.allow}
    if refused:
        raise UsageError(
            f"{recipe.run_dir}: this run was begun with another recipe ({'; '.join(refused.values())}); "
            "give the new one another name=, take the changes back to go on, or allow them: "
            f"resume.allow=[{','.join(changes)}]"
        )
