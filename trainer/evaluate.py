"""Evaluation: the error over a data set, every image counted once (law 3)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from torch import nn

from trainer import checkpoint
from trainer.data.colour import ColourStatistics, Preprocess
from trainer.data.crops import CenterCrop
from trainer.data.dataset import check_same_classes, open_dataset, read_ahead
from trainer.data.loader import Loader
from trainer.data.order import Request, evaluation_batches
from trainer.data.readahead import reading_ahead
from trainer.errors import RunError, UsageError
from trainer.models import create_model
from trainer.recipe import recipe_from_dict


@dataclass(frozen=True)
class Result:
    """Integer counts over all ranks, and the mean loss."""

    images: int
    top1_correct: int
    top5_correct: int
    loss: float
    seconds: float

    @property
    def top1_error(self) -> float:
        """Fraction of images whose label is not the best score."""
        return 1.0 - self.top1_correct / self.images

    @property
    def top5_error(self) -> float:
        """Fraction of images whose label is not among the five best scores."""
        return 1.0 - self.top5_correct / self.images


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Loader,
    requests: Iterable[Request],
    preprocess: Preprocess,
    after_batch: Callable[[int], None] = lambda batches: None,
) -> Result:
    """Evaluate this rank's `requests` and sum over all ranks. The model is left in the mode it was in.

    Args:
        after_batch: called with the number of batches done; it may raise.

    Raises:
        RunError: the ranks together did not see each image of the loader's beton once.
    """
    began = time.perf_counter()
    training = model.training
    model.eval()
    images = 0
    sums = torch.zeros(3, dtype=torch.float64, device=loader.device)  # top-1, top-5, loss; counts are exact to 2**53
    with contextlib.closing(loader.load(requests)) as batches:  # before the requests are, if something is raised
        for number, batch in enumerate(batches, start=1):
            scores = model(preprocess(batch.images, batch.colour)).float()
            sums += torch.stack(_counts(scores, batch.labels))
            images += len(batch.ids)
            after_batch(number)
    model.train(training)
    counts = torch.cat([sums, sums.new_tensor([images])])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
    top1, top5, loss, total = counts.tolist()
    if int(total) != len(loader.beton):
        raise RunError(f"{loader.beton.path}: {int(total)} images were evaluated, it has {len(loader.beton)}")
    return Result(int(total), int(top1), int(top5), loss / total, time.perf_counter() - began)


def _counts(scores: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    loss = F.cross_entropy(scores, labels, reduction="sum")
    return [value.double() for value in (best[:, 0].sum(), best.sum(), loss)]


def evaluate_checkpoint(path: str, data_path: str, *, resize: int | None = None, batch: int = 256) -> Result:
    """Evaluate the centre crop of a checkpoint's model on a beton and print the result from the main process.

    Args:
        path: a run folder, a checkpoint's folder or its state file.
        resize: shorter side before the crop, pixels; None: that of the checkpoint's recipe.
        batch: images a batch, in each process.

    Raises:
        UsageError: checkpoint or data cannot be read, or their classes differ.
    """
    file = checkpoint.find(path)
    state = checkpoint.load(file)
    recipe = recipe_from_dict(state["recipe"], str(file))
    data = open_dataset(data_path)
    check_same_classes(data, state["classes"], str(file))
    size = recipe.data.size
    resize = recipe.evaluation.resize if resize is None else resize
    if resize < size or batch < 1:
        raise UsageError(f"--resize is {resize} and --batch {batch}, expected at least {size} (the crop) and 1")
    torch.backends.cudnn.allow_tf32 = False  # what is reported is computed in fp32, whatever it was trained in
    accelerator = Accelerator(mixed_precision="no")
    model = create_model(num_classes=len(state["classes"]), **asdict(recipe.model))
    model.load_state_dict(state["model"])
    model.to(accelerator.device).to(memory_format=torch.channels_last)
    preprocess = Preprocess(ColourStatistics(**state["colour"]), mean_image=state["mean_image"]).to(accelerator.device)
    loader = Loader(data.beton, CenterCrop(size, resize), accelerator.device, threads=recipe.data.threads)
    order = evaluation_batches(len(data.beton), batch, accelerator.process_index, accelerator.num_processes)
    with reading_ahead(read_ahead(recipe, data), order) as requests:
        result = evaluate(model, loader, requests, preprocess)
    if accelerator.is_main_process:
        title = f"{recipe.model.name}, step {state['step']:,}, on {data_path}"
        _print_result(result, f"{title}: centre crop {size} from shorter side {resize}, fp32")
    accelerator.end_training()
    return result


def _print_result(result: Result, title: str) -> None:
    table = Table()
    for name in ("top-1 error", "top-5 error", "loss", "images", "seconds"):
        table.add_column(name, justify="right")
    table.add_row(
        f"{result.top1_error:.2%}",
        f"{result.top5_error:.2%}",
        f"{result.loss:.4f}",
        f"{result.images:,}",
        f"{result.seconds:.1f}",
    )
    console = Console()
    console.print(title, style="bold", highlight=False, soft_wrap=True)
    console.print(table)
