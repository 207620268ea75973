"""How far a run is, by its folder alone, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.checkpoint import saved_samples
from trainer.lock import holder_of
from trainer.recipe import Recipe, differences, load_recipe
from trainer.recipe_changes import refuse_changes
from trainer.record import METRICS, read_metrics


@dataclass(frozen=True)
class Progress:
    """What is known of a run."""

    budget: int
    """Samples."""
    saved: int | None
    """Samples that its last checkpoint has seen; None if there is none."""
    lines: list[dict[str, Any]]
    """Its metrics, oldest first."""
    recalibrates: bool
    """Whether its last validation is to be of recalibrated statistics."""
    holder: str | None
    """Who trains it at this moment, for people; None if nobody does."""

    @property
    def done(self) -> bool:
        """Whether the last checkpoint is at the end of the budget, and was validated."""
        if self.saved is None or self.saved < self.budget:
            return False
        ends = [line for line in self.lines_of("validation") if line["samples"] >= self.budget]
        return any(line.get("recalibrated", False) or not self.recalibrates for line in ends)

    @property
    def share(self) -> float | None:
        """Of the budget, in [0, 1]; None if it is not begun. What is not saved counts only while it is trained."""
        if self.saved is None and not self.lines:
            return None
        trained = max((line["samples"] for line in self.lines_of("train")), default=0) if self.holder else 0
        return min(max(trained, self.saved or 0) / self.budget, 1.0)

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop, and saved, the last time it was trained."""
        return bool(self.lines) and self.lines[-1]["kind"] == "stop"

    @property
    def why_not_now(self) -> str:
        """Why not to start it, "" if it is to be started."""
        if self.done:
            return "done"
        return f"in use ({self.holder})" if self.holder else ""

    def lines_of(self, kind: str) -> list[dict[str, Any]]:
        """The metrics of one kind."""
        return [line for line in self.lines if line["kind"] == kind]


def look(recipe: Recipe) -> Progress:
    """Look into the recipe's run folder, which need not exist."""
    run_dir = recipe.run_dir
    # The checkpoint first: what it has is in the record already.
    saved = saved_samples(run_dir)
    lines = read_metrics(run_dir) if (run_dir / METRICS).exists() else []
    return Progress(
        recipe.samples(recipe.schedule.budget), saved, lines, recipe.batch_norm.recalibrate, holder_of(run_dir)
    )


def check_begun(recipe: Recipe) -> None:
    """Refuse a recipe whose run folder holds a run of another one, as training would.

    Raises:
        UsageError: naming what differs, which the recipe does not allow.
    """
    if saved_samples(recipe.run_dir) is not None and (recipe.run_dir / "recipe.yaml").exists():
        refuse_changes(recipe, differences(load_recipe(recipe.run_dir), recipe))
