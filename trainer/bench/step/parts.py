"""What `trainer plan` computes with: forward and backward of a micro-batch and of one image, and the optimizer.

On a GPU the time of one image is the time that the host needs to launch the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from statistics import median
from typing import Final

import torch

from trainer.bench.resources import describe_machine
from trainer.bench.step.clock import seconds_of
from trainer.bench.step.contest import Contest
from trainer.bench.step.ours import LR, Ours
from trainer.data.loader import Batch
from trainer.errors import UsageError
from trainer.plan.network import network_cost
from trainer.plan.saved import StepFigure, device_key

SECONDS: Final = 0.2
"""That a measurement takes at least: short work is done several times in it."""


@dataclass(frozen=True)
class Parts:
    """Seconds of one execution, a repetition each."""

    step: list[float]
    step_of_one: list[float]
    optimizer: list[float]


def measure_parts(contest: Contest, repeats: int) -> Parts:
    """Each to warm up, then `repeats` times all three in turn.

    Raises:
        UsageError: one image is too small for batch norm, which needs two values a channel.
    """
    ours, parts = Ours(contest), Parts([], [], [])
    one = first_of(ours.batch)

    kinds: list[tuple[list[float], Callable[[], None]]] = [
        (parts.step, lambda: _step(ours, ours.batch)),
        (parts.step_of_one, lambda: _step(ours, one)),
        (parts.optimizer, lambda: _update(ours)),
    ]
    try:
        for _, work in kinds:
            _seconds(work, contest.device)
    except ValueError as error:  # torch's, of batch norm
        raise UsageError(
            f"--save times a step of one image, which {contest.network} cannot do at {contest.size} px ({error}); give "
            "a larger data.size"
        ) from error
    for _ in range(repeats):
        for seconds, work in kinds:
            seconds.append(_seconds(work, contest.device))
    return parts


def _step(ours: Ours, batch: Batch) -> None:
    ours.step(batch, 0, LR)


def _update(ours: Ours) -> None:
    """The optimizer alone, on gradients that a step would have left."""
    for group in ours.step.optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
    ours.step.optimizer.step()


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Of `work`, done as often as fills `SECONDS`."""
    once = seconds_of(work, device)
    times = max(1, round(SECONDS / once))

    def often() -> None:
        for _ in range(times):
            work()

    return seconds_of(often, device) / times


def first_of(batch: Batch) -> Batch:
    """The first image of a batch, as a batch."""
    return replace(batch, images=batch.images[:1], labels=batch.labels[:1], colour=batch.colour[:1], ids=batch.ids[:1])


def figure_of(contest: Contest, parts: Parts) -> tuple[str, StepFigure]:
    """What `--gpu` calls this device, and its figure."""
    on_gpu, model = contest.device.type == "cuda", contest.recipe.model
    name = torch.cuda.get_device_name(contest.device) if on_gpu else str(describe_machine()["cpu"])
    optimizer = median(parts.optimizer)
    figure = StepFigure(
        name=name,
        date=date.today().isoformat(),
        torch=str(torch.__version__),
        model=model.name,
        size=contest.size,
        micro_batch=contest.batch,
        threads=1 if on_gpu else torch.get_num_threads(),
        seconds=median(parts.step) - optimizer,
        seconds_of_one=median(parts.step_of_one) - optimizer,
        seconds_of_optimizer=optimizer,
        network=network_cost(model, contest.size, contest.classes),
    )
    return device_key(name) if on_gpu else "cpu", figure
