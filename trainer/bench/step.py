"""`trainer bench step`: how fast this device does a recipe's training step, its batches lying on it already.

Three things are timed in turn, again and again, so that what changes on the machine meanwhile reaches all of them: the
forward and backward pass of a micro-batch, those of one image (on a GPU the time that the host needs to launch the
work), and the optimizer. `trainer plan` computes with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Final

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from rich.table import Table

from trainer.bench.resources import describe_machine
from trainer.console import table_console
from trainer.data.colour import IMAGENET, Preprocess
from trainer.errors import RunError, UsageError
from trainer.files import check_output
from trainer.models import create_model, parameter_groups
from trainer.plan.network import network_cost
from trainer.plan.saved import StepFigure, device_key, save_step
from trainer.processes import start_accelerator
from trainer.recipe import Recipe, load_recipe

SECONDS: Final = 0.2
"""That a measurement takes at least: short work is done several times in it."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one execution, a repetition each."""

    micro_batch: list[float]
    one: list[float]
    optimizer: list[float]


class Step:
    """The parts of the trainer's step (`Run.step`), on one device and one synthetic micro-batch of images."""

    def __init__(self, recipe: Recipe, classes: int, accelerator: Accelerator) -> None:
        self.device, self.accelerator = accelerator.device, accelerator
        module = create_model(num_classes=classes, **asdict(recipe.model))
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(
            parameter_groups(module, recipe.optimizer.decay, recipe.optimizer.weight_decay),
            lr=1e-6,  # the weights stay finite, however often
            momentum=recipe.optimizer.momentum,
        )
        self.model, self.optimizer = accelerator.prepare(module, optimizer)
        self.model.train()
        self.preprocess = Preprocess(IMAGENET, recipe.data.colour).to(self.device)
        batch, size = recipe.optimizer.micro_batch, recipe.data.size
        self.images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8).to(self.device)
        self.labels = torch.randint(0, classes, (batch,)).to(self.device)
        self.colour = torch.zeros(batch, 3, device=self.device)

    def forward_backward(self, images: int) -> None:
        """Of so many of the images."""
        self.optimizer.zero_grad()
        scores = self.model(self.preprocess(self.images[:images], self.colour[:images]))
        self.accelerator.backward(F.cross_entropy(scores, self.labels[:images]))

    def update(self) -> None:
        """Gradients stay, so that it can be done again."""
        self.optimizer.step()

    def seconds(self, work: Callable[[], None]) -> float:
        """Of `work`, done as often as fills `SECONDS`."""
        done, began = 0, time.perf_counter()
        while not done or time.perf_counter() - began < SECONDS:
            work()
            self._wait()
            done += 1
        return (time.perf_counter() - began) / done

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def bench_step(recipe_path: str, overrides: Sequence[str], repeats: int, save: Path | None) -> int:
    """Measure, print, and put the figures into `save`.

    Raises:
        UsageError: the recipe is wrong, or this is run under a launcher.
        RunError: a micro-batch does not fit into the device's memory.
    """
    if repeats < 1:
        raise UsageError(f"--repeats {repeats}: must be 1 or more")
    if save is not None:
        check_output(save, "--save")
    recipe = load_recipe(recipe_path, list(overrides))
    accelerator = start_accelerator(recipe)
    if accelerator.num_processes > 1:
        raise UsageError("bench step times one device: run it without accelerate launch")
    classes = 10 if recipe.data.crop == "padded" else 1000
    try:
        step = Step(recipe, classes, accelerator)
        timing = measure(step, recipe.optimizer.micro_batch, repeats)
    except torch.OutOfMemoryError as error:
        raise RunError(f"out of GPU memory with optimizer.micro_batch={recipe.optimizer.micro_batch}") from error
    key, figure = _figure(recipe, classes, accelerator.device, timing)
    _print(recipe, figure, timing)
    if save is not None:
        save_step(save, key, recipe.precision, figure)
        print(f"saved: {save}; `trainer plan --gpu {key}` computes with it")
    return 0


def measure(step: Step, micro_batch: int, repeats: int) -> Timing:
    """Once to warm up, then `repeats` times each of the three, in turn."""
    timing = Timing([], [], [])
    kinds: list[tuple[list[float], Callable[[], None]]] = [
        (timing.micro_batch, lambda: step.forward_backward(micro_batch)),
        (timing.one, lambda: step.forward_backward(1)),
        (timing.optimizer, step.update),
    ]
    for _, work in kinds:
        work()
        work()
    for _ in range(repeats):
        for seconds, work in kinds:
            seconds.append(step.seconds(work))
    return timing


def _figure(recipe: Recipe, classes: int, device: torch.device, timing: Timing) -> tuple[str, StepFigure]:
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else str(describe_machine()["cpu"])
    figure = StepFigure(
        name=name,
        date=date.today().isoformat(),
        torch=str(torch.__version__),
        model=recipe.model.name,
        size=recipe.data.size,
        micro_batch=recipe.optimizer.micro_batch,
        threads=1 if on_gpu else torch.get_num_threads(),
        seconds=median(timing.micro_batch),
        seconds_of_one=median(timing.one),
        seconds_of_optimizer=median(timing.optimizer),
        network=network_cost(recipe.model, recipe.data.size, classes),
    )
    return device_key(name) if on_gpu else "cpu", figure


def _print(recipe: Recipe, figure: StepFigure, timing: Timing) -> None:
    table = Table(show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_row(f"forward and backward of {figure.micro_batch} images", _range(timing.micro_batch))
    table.add_row("forward and backward of one image", _range(timing.one))
    table.add_row("optimizer", _range(timing.optimizer))
    steps = [batch + update for batch, update in zip(timing.micro_batch, timing.optimizer, strict=True)]
    low, middle, high = (figure.micro_batch / seconds for seconds in (max(steps), median(steps), min(steps)))
    table.add_row("images/s, one micro-batch a step", f"[bold]{middle:,.1f}[/] ({low:,.1f} to {high:,.1f})")
    console = table_console()
    where = figure.name if figure.threads == 1 else f"{figure.name}, {figure.threads} threads"
    title = f"{figure.model} at {figure.size} px, {recipe.precision}, torch {figure.torch}, {where}"
    console.print(title, markup=False, soft_wrap=True)
    console.print(table)


def _range(seconds: list[float]) -> str:
    low, high = 1e3 * min(seconds), 1e3 * max(seconds)
    return f"[bold]{1e3 * median(seconds):,.2f} ms[/] ({low:,.2f} to {high:,.2f})"
