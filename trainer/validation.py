"""Validation while training: the centre crop, and what a run makes of its error."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from trainer.batch_norm import combine_statistics, statistics_set
from trainer.data.dataset import read_ahead
from trainer.evaluation.evaluate import Result, Share, evaluate
from trainer.precision import autocast
from trainer.recalibration import Population, recalibrate_run

if TYPE_CHECKING:
    from trainer.train import Run


def validate(run: Run) -> Result:
    """Top-1 and top-5 error of the centre crop; the schedule takes note of it.

    At the end of the budget it is of the population's statistics, if the recipe says so. They are no part of the
    training: neither the schedule nor the moving averages get to know of them, and a longer budget trains on as if they
    had not been. Only `best` knows them, and later validations have to be better.

    Raises:
        Stopped: all ranks were asked to stop; nothing was noted.
    """
    population = _recalibrate(run) if run.ends_recalibrated else None
    result = _measure(run, population)
    if population is None:
        run.validated = run.samples
    else:
        run.population = population
    best = _keep_best(run, result)
    run.note(
        "validation",
        top1_error=result.top1_error,
        top5_error=result.top5_error,
        loss=result.loss,
        images=result.images,
        seconds=round(result.seconds, 3),
        recalibrated=population is not None,
    )
    run.console.message(
        f"epoch-equivalent {run.status.epoch:.4g}, step {run.step_number:,}: "
        f"validation top-1 error {result.top1_error:.2%}, top-5 {result.top5_error:.2%}, "
        f"loss {result.loss:.4f}{' (best)' if best else ''}"
    )
    drop = run.schedule.observe(run.samples, result.top1_error) if population is None else None
    if drop is not None:
        run.console.message(f"the error plateaus: learning rate {drop.lr:.4g} from step {run.step_number:,}")
        if run.record is not None:
            run.record.write_milestones(run.schedule.drops, run.global_batch)
    return result


def _measure(run: Run, population: Population | None) -> Result:
    run.status.activity = "validating"
    data, batch = run.data, run.recipe.evaluation.batch
    smallest = np.arange(len(data.val.beton) // run.world_size)
    requests_of_all = len(data.val_loader.requests(smallest, batch))
    if population is None:
        combine_statistics(run.module)
    statistics = contextlib.nullcontext() if population is None else statistics_set(run.module, population.statistics)
    with statistics, autocast(run.accelerator.device, run.recipe.precision):
        results = evaluate(
            [run.network],
            [data.protocol],
            data.val_loader,
            classes=len(data.train.classes),
            batch=batch,
            share=Share(run.rank, run.world_size),
            read_ahead=read_ahead(run.recipe, data.val),
            after_request=lambda requests, images: run.ask_to_stop(requests, requests_of_all),
        )
    return results[data.protocol.name]


def _keep_best(run: Run, result: Result) -> bool:
    run.status.val_error = result.top1_error
    best = run.best is None or result.top1_error < run.best["top1_error"]
    if best:
        errors = {"top1_error": result.top1_error, "top5_error": result.top5_error}
        run.best = {**errors, "samples": run.samples, "step": run.step_number}
        run.status.best_error = result.top1_error
    return best


def _recalibrate(run: Run) -> Population:
    run.status.activity = "recalibrating"
    run.console.message(f"recalibrating batch norm over {run.recipe.batch_norm.images:,} images (batch_norm.images)")
    began = time.perf_counter()
    population, changes = recalibrate_run(run, run.ask_to_stop)
    seconds = time.perf_counter() - began
    run.note("recalibration", images=population.images, seconds=round(seconds, 3), **asdict(changes))
    run.console.message(f"batch norm recalibrated over {population.images:,} images, {seconds:.1f} s; moved {changes}")
    return population
