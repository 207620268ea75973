"""What a checkpoint holds of a run, and how the run takes it up again.

No random generator is in it: every draw is a function of the seed and the position (law 1), those of the network too,
see `trainer.step.seed_network`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trainer.batch_norm import (
    average_statistics,
    gather_statistics,
    set_statistics,
    statistics_for,
    with_statistics,
)
from trainer.errors import UsageError
from trainer.recalibration import Population
from trainer.recipe import recipe_to_dict
from trainer.run_folder import versions

if TYPE_CHECKING:
    from trainer.train import Run


def state_of(run: Run) -> dict[str, Any]:
    """Everything. All ranks call this: the model has BN's statistics of all of them.

    Each rank goes on with its own statistics, so that a run that was stopped is bit for bit the one that was not; also
    from its end, where the model has those of the population.
    """
    moving = gather_statistics(run.module)
    population = run.population if run.is_recalibrated else None
    statistics = average_statistics(moving) if population is None else population.statistics
    scaler = run.sgd.scaler
    return {
        "step": run.step_number,
        "samples": run.samples,
        "model": with_statistics(run.module, run.module.state_dict(), statistics),
        "batch_norm_of_ranks": moving,
        "ema": None if run.ema is None else run.ema.state_dict(None if population is None else population.of_ema),
        "recalibrated": None if population is None else population.facts(),
        "optimizer": run.sgd.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler.is_enabled() else None,
        "schedule": run.schedule.state_dict(),
        "validated": run.validated,
        "best": run.best,
        "skipped": run.skipped,
        "nonfinite": run.nonfinite,
        "recipe": recipe_to_dict(run.recipe),
        "classes": run.data.train.classes,
        "colour": asdict(run.data.statistics),
        "mean_image": run.data.mean_image,
        "data_digest": run.data.train.digest,
        "val_digest": run.data.val.digest,
        "world_size": run.world_size,
        "versions": versions(),
    }


def restore(run: Run, state: dict[str, Any]) -> None:
    """Take up `state`, after the model was given to DDP, which gives every rank the buffers of the first one.

    Raises:
        UsageError: it is of another network.
    """
    try:
        run.module.load_state_dict(state["model"])
        run.sgd.load_optimizer(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{run.recipe.run_dir}: its checkpoint is of another network than {run.recipe.model.name} ({reason[:500]})"
        ) from error
    set_statistics(run.module, statistics_for(state["batch_norm_of_ranks"], run.rank, run.world_size))
    if run.ema is not None and state["ema"] is not None:
        run.ema.load_state_dict(state["ema"], run.rank, run.world_size)
    elif run.ema is not None:
        run.ema.begin()
    run.population = Population.in_state(run.module, state)
    if run.sgd.scaler.is_enabled() and state["scaler"] is not None:
        run.sgd.scaler.load_state_dict(state["scaler"])
    run.schedule.load_state_dict(state["schedule"])
    run.samples, run.validated, run.best = state["samples"], state["validated"], state["best"]
    run.skipped, run.nonfinite = state["skipped"], state["nonfinite"]
