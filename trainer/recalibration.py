"""Batch norm's statistics of a network that is trained: averages over many images of the training data (trap T5).

The images are those that training would see next: the recipe's stream of samples from the position of the checkpoint
on, cropped, mirrored and coloured as in training, in micro-batches of the recipe's BN batch. The micro-batches are
numbered over all ranks and dealt out in turn, so the result is the same for any number of ranks. It is computed in
fp32, whatever the run's precision is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from trainer import checkpoint
from trainer.agreement import lost_contact
from trainer.batch_norm import (
    Changes,
    average_statistics,
    changes,
    gather_statistics,
    population_statistics,
    statistics_in,
    with_statistics,
)
from trainer.data.colour import ColourStatistics, Preprocess
from trainer.data.dataset import (
    Dataset,
    check_same_classes,
    check_training_crops,
    open_dataset,
    read_ahead,
    training_order,
)
from trainer.data.readahead import reading_ahead
from trainer.errors import RunError, UsageError
from trainer.files import check_output
from trainer.models import create_model
from trainer.processes import start_accelerator_in_fp32
from trainer.recipe import Recipe, recipe_from_dict
from trainer.run_data import native_loader

if TYPE_CHECKING:
    from trainer.train import Run


@dataclass(frozen=True)
class Population:
    """Statistics over many images, and what they are of."""

    samples: int
    """The position of the run: the weights are those after so many samples, the images those that follow."""
    images: int
    data_digest: str
    statistics: torch.Tensor
    """float32 [values], as `batch_norm.flat_statistics` has them."""
    of_ema: torch.Tensor | None
    """Of the average of the weights, where there is one."""

    def facts(self) -> dict[str, Any]:
        """For the checkpoint, which has the statistics in its networks."""
        return {"samples": self.samples, "images": self.images, "data_digest": self.data_digest}

    @classmethod
    def in_state(cls, network: nn.Module, state: dict[str, Any]) -> Population | None:
        """Of a checkpoint of `network`; None if it is not recalibrated."""
        if state["recalibrated"] is None:
            return None
        ema = state["ema"]
        of_ema = statistics_in(network, ema["model"]) if ema is not None else None
        return cls(**state["recalibrated"], statistics=statistics_in(network, state["model"]), of_ema=of_ema)


@dataclass(frozen=True)
class TrainingImages:
    """What a network gets to see in training.

    Args:
        recipe: its stream of samples, crops, colours and micro-batches.
    """

    recipe: Recipe
    data: Dataset
    statistics: ColourStatistics
    mean_image: torch.Tensor | None

    def micro_batches(
        self, position: int, count: int, rank: int, world_size: int, device: torch.device
    ) -> Generator[torch.Tensor, None, None]:
        """This rank's of the `count` micro-batches that follow on `position`: float32 [b, 3, size, size]."""
        size = self.recipe.optimizer.micro_batch
        order = training_order(self.recipe, self.data)
        asked = (order.take(position + number * size, size) for number in range(rank, count, world_size))
        preprocess = Preprocess(self.statistics, self.recipe.data.colour, self.mean_image).to(device)
        loader = native_loader(self.recipe, self.data, self.statistics, device)
        with (
            reading_ahead(read_ahead(self.recipe, self.data, order.chunks), asked) as requests,
            contextlib.closing(loader.load(requests)) as batches,
        ):
            for batch in batches:
                yield preprocess(batch.images, batch.colour)


def recalibrate(
    images: TrainingImages,
    networks: Sequence[nn.Module],
    position: int,
    count: int,
    accelerator: Accelerator,
    after_batch: Callable[[int], None] = lambda batches: None,
) -> list[torch.Tensor]:
    """The population statistics of networks over the same images, those of all ranks.

    Args:
        networks: on the device. Their running statistics are used up.
        position: samples that the run has seen.
        count: micro-batches over all ranks.
        after_batch: called with the number of this rank's micro-batches done; it may raise.

    Returns:
        For each network, float32 [values] as `batch_norm.flat_statistics` has them.

    Raises:
        RunError: they are not finite.
    """
    stream = images.micro_batches(
        position, count, accelerator.process_index, accelerator.num_processes, accelerator.device
    )
    # Not in TF32, and by algorithms that give the same twice.
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with cudnn, contextlib.closing(stream):
        found = population_statistics(networks, stream, after_batch)
    if not torch.cat(found).isfinite().all():
        raise RunError("batch norm cannot be recalibrated: means or variances over the training images are not finite")
    return found


def recalibrate_run(run: Run, after_batch: Callable[[int, int], None]) -> tuple[Population, Changes]:
    """The statistics of a run at its position, and how far they are from the moving averages. All ranks call this; the
    run is left as it is.

    Args:
        after_batch: called with the number of this rank's micro-batches done, and the least that any rank has; it may
            raise.
    """
    recipe, data = run.recipe, run.data
    count = micro_batches_of(recipe.batch_norm.images, recipe)
    trained = [run.module] if run.ema is None else [run.module, run.ema.network]
    found = recalibrate(
        TrainingImages(recipe, data.train, data.statistics, data.mean_image),
        # Not the networks of the run: their running statistics are used up.
        [_network(recipe, data.train.classes, network.state_dict(), run.accelerator.device) for network in trained],
        run.samples,
        count,
        run.accelerator,
        lambda batches: after_batch(batches, count // run.world_size),
    )
    images, of_ema = count * recipe.optimizer.micro_batch, None if run.ema is None else found[1]
    moving = average_statistics(gather_statistics(run.module))
    return Population(run.samples, images, data.train.digest, found[0], of_ema), changes(run.module, moving, found[0])


def micro_batches_of(images: int, recipe: Recipe) -> int:
    """As many micro-batches as it takes to have so many images."""
    return -(-images // recipe.optimizer.micro_batch)


def recalibrate_checkpoint(path: str, data_path: str, *, images: int | None = None, out: Path | None = None) -> Path:
    """Write a checkpoint like the one at `path`, but with batch norm's statistics over training images.

    All else is as it was, each rank's moving averages too. An average of the weights gets statistics of its own.

    Args:
        path: a run folder, a checkpoint's folder or its state file.
        data_path: training data.
        images: how many; None: as many as the checkpoint's recipe says.
        out: the new checkpoint's folder; None: `recalibrated-NAME` beside the one of `path`.

    Returns:
        The new checkpoint's folder.

    Raises:
        UsageError: checkpoint or data cannot be read, their classes differ, or the new folder exists.
        RunError: an image does not decode, or the checkpoint cannot be written.
    """
    if images is not None and images < 1:
        raise UsageError(f"--images is {images}, expected at least one")
    file = checkpoint.find(path).resolve()
    out = out or _beside(file)
    if out.exists():
        raise UsageError(f"{out}: exists already; remove it, or give another folder with --out")
    check_output(out, "--out", size=file.stat().st_size, with_parents=True)
    state = checkpoint.load(file)
    recipe = recipe_from_dict(state["recipe"], str(file))
    images = recipe.batch_norm.images if images is None else images
    data = open_dataset(data_path)
    check_same_classes(data, state["classes"], str(file))
    check_training_crops(recipe, data)
    accelerator = start_accelerator_in_fp32()
    with lost_contact("Start again"):
        _recalibrate_state(state, recipe, data, micro_batches_of(images, recipe), accelerator)
        if accelerator.is_main_process:
            checkpoint.write(out, state)
            print(f"written: {out}", flush=True)
        accelerator.wait_for_everyone()
    accelerator.end_training()
    return out


def _recalibrate_state(
    state: dict[str, Any], recipe: Recipe, data: Dataset, count: int, accelerator: Accelerator
) -> None:
    """Put the statistics into `state`; the main process shows how far it is and what has changed."""
    began = time.perf_counter()
    console = Console(quiet=not accelerator.is_main_process, highlight=False, soft_wrap=True)
    if data.digest != state["data_digest"]:
        console.print(f"note: {data.beton.path}: not the data that it was trained on", markup=False)
    holders = [state] if state["ema"] is None else [state, state["ema"]]
    networks = [_network(recipe, state["classes"], holder["model"], accelerator.device) for holder in holders]
    images = TrainingImages(recipe, data, ColourStatistics(**state["colour"]), state["mean_image"])
    with _progress(console, count) as show:
        found = recalibrate(
            images, networks, state["samples"], count, accelerator, lambda n: show(n * accelerator.num_processes)
        )
    number = count * recipe.optimizer.micro_batch
    what = f"{recipe.model.name}, step {state['step']:,}, on {data.beton.path}"
    took = f"{number:,} images in micro-batches of {recipe.optimizer.micro_batch}, {time.perf_counter() - began:.1f} s"
    console.print(f"{what}: batch norm recalibrated over {took}", markup=False)
    for name, holder, network, values in zip(("weights", "ema"), holders, networks, found, strict=False):
        console.print(f"{name}: moved {changes(network, statistics_in(network, holder['model']), values.cpu())}")
        holder["model"] = with_statistics(network, holder["model"], values.cpu())
    state["recalibrated"] = Population(state["samples"], number, data.digest, found[0], None).facts()


def _network(recipe: Recipe, classes: list[str], weights: dict[str, Any], device: torch.device) -> nn.Module:
    network = create_model(num_classes=len(classes), **asdict(recipe.model)).to(device)
    network.load_state_dict(weights)
    return network.to(memory_format=torch.channels_last)


def _beside(file: Path) -> Path:
    name = file.parent if file.name == checkpoint.STATE else file.with_suffix("")
    return name.with_name(f"{checkpoint.RECALIBRATED}{name.name}")


@contextlib.contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """What takes the number of micro-batches done and shows it, on a terminal."""
    columns = TextColumn("recalibrating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown = console.is_terminal and not console.quiet
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.update(task, completed=min(done, total))
