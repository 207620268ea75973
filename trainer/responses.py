"""The strength of layers' responses: Figure 7 of the paper.

    "The responses are the outputs of each 3x3 layer, after BN and before the nonlinearity."

Their standard deviations, over all images, positions and channels, show that the layers of a residual network change
their input less than those of a plain one do (section 4.2, "Analysis of Layer Responses").
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from rich.table import Table
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.agreement import lost_contact
from trainer.console import table_console
from trainer.data.colour import Preprocess
from trainer.data.crops import CenterCrop
from trainer.data.dataset import Dataset, check_same_classes, open_dataset, read_ahead
from trainer.data.loader import Loader
from trainer.data.order import Request, evaluation_ids
from trainer.data.readahead import reading_ahead
from trainer.errors import RunError, UsageError
from trainer.files import check_output, write_atomically
from trainer.processes import start_accelerator_in_fp32
from trainer.record import RESPONSES
from trainer.trained import Trained, load_trained


@dataclass(frozen=True)
class Response:
    """One layer: the name of its convolution, the standard deviation of what follows it."""

    name: str
    std: float


def response_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The name of each 3x3 convolution with the batch normalisation that follows it, in order of depth.

    Order and neighbourhood are those in which a network has its modules, which in this project's are those of Figure 5.
    """
    layers = list[tuple[str, nn.Module]]()
    convolution: str | None = None
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            convolution = name if module.kernel_size == (3, 3) else None
        elif isinstance(module, _BatchNorm) and convolution is not None:
            layers.append((convolution, module))
            convolution = None
    return layers


@torch.no_grad()
def measure_responses(
    model: nn.Module, loader: Loader, requests: Iterable[Request], preprocess: Preprocess, images: int
) -> list[Response]:
    """Measure on this rank's `requests`, combined over all ranks. The model has to be in evaluation mode.

    `sqrt(E[x^2] - E[x]^2)` of sums in float64: what batches and ranks the images come in changes no more than the
    rounding of the network itself.

    Args:
        images: how many the requests of all ranks have together.

    Raises:
        RunError: they had another number, or a response is not finite.
    """
    layers = response_layers(model)
    sums = torch.zeros(len(layers), 3, dtype=torch.float64, device=loader.device)  # count, sum, sum of squares
    seen = 0
    with _summing_up([layer for _, layer in layers], sums), contextlib.closing(loader.load(requests)) as batches:
        for batch in batches:
            model(preprocess(batch.images, batch.colour))
            seen += len(batch.ids)
    totals = torch.cat([sums.flatten(), sums.new_tensor([seen])])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(totals)
    *values, total = totals.tolist()
    if int(total) != images:
        raise RunError(f"{loader.beton.path}: {int(total)} images were seen instead of {images}")
    return [Response(name, _standard_deviation(name, *values[3 * i : 3 * i + 3])) for i, (name, _) in enumerate(layers)]


@contextlib.contextmanager
def _summing_up(layers: list[nn.Module], sums: torch.Tensor) -> Iterator[None]:
    """While in it, count, sum and sum of squares of the outputs of each of the `layers` are added to its row."""

    def hook(row: torch.Tensor) -> Any:
        def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            values = output.double()  # now: the nonlinearity that follows overwrites the output
            row.add_(torch.stack([row.new_tensor(values.numel()), values.sum(), values.square_().sum()]))

        return add

    handles = [layer.register_forward_hook(hook(row)) for layer, row in zip(layers, sums, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _standard_deviation(name: str, count: float, total: float, squares: float) -> float:
    variance = squares / count - (total / count) ** 2
    if not math.isfinite(variance):
        raise RunError(f"{name}: its responses are not finite; the checkpoint is of a run that diverged")
    return math.sqrt(max(variance, 0.0))


def layer_responses(
    path: str, data_path: str, *, images: int | None = None, ema: bool = False, out: Path | None = None
) -> list[Response]:
    """Measure the responses of a checkpoint's network to the centre crops of a beton; write them, print them.

    Under `accelerate launch` this runs in every process, which share the images; the main one writes.

    Args:
        path: a run folder, a checkpoint's folder or its state file.
        images: so many, evenly spread over the file, as it may be sorted by class; None: all.
        ema: of the moving average of its weights.
        out: the file to write; None: `responses.json` in the run folder that the checkpoint lies in.

    Raises:
        UsageError: checkpoint or data cannot be read, their classes differ, they have fewer images, the network has no
            3x3 layer, or nothing says where to write.
    """
    accelerator = start_accelerator_in_fp32()
    torch.backends.cudnn.allow_tf32 = False  # what is reported is computed in fp32, whatever it was trained in
    trained = load_trained(path, ema=ema)
    data = open_dataset(data_path)
    check_same_classes(data, trained.classes, str(trained.file))
    if not response_layers(trained.model):
        raise UsageError(f"{trained.file}: {trained.recipe.model.name} has no 3x3 layer followed by batch norm")
    images = _count(data, images)
    file = _destination(trained, out)
    with lost_contact("Start again"):
        responses = _measure(trained, data, images, accelerator)
    if accelerator.is_main_process:
        content = {
            "step": trained.step,
            "samples": trained.samples,
            "ema": ema,
            "data": data_path,
            "data_digest": data.digest,
            "images": images,
            "layers": [asdict(response) for response in responses],
        }
        title = f"{trained.title}, on {images:,} images of {data_path}"
        convolutions = sum(isinstance(module, nn.Conv2d) for module in trained.model.modules())
        _print(responses, title, convolutions)
        write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())
        print(f"written: {file}", flush=True)
    accelerator.end_training()
    return responses


def _measure(trained: Trained, data: Dataset, images: int, accelerator: Accelerator) -> list[Response]:
    recipe, device, count = trained.recipe, accelerator.device, len(data.beton)
    crops = CenterCrop(recipe.validation_size, recipe.evaluation.resize)
    loader = Loader(data.beton, crops, device, threads=recipe.data.threads)
    ids = evaluation_ids(images, accelerator.process_index, accelerator.num_processes) * count // images
    starts = range(0, len(ids), recipe.evaluation.batch)
    order = (ids[first : first + recipe.evaluation.batch] for first in starts)
    preprocess = Preprocess(trained.statistics, mean_image=trained.mean_image).to(device)
    with reading_ahead(read_ahead(recipe, data), (Request(np.zeros_like(part), part) for part in order)) as requests:
        return measure_responses(trained.on(device), loader, requests, preprocess, images)


def _count(data: Dataset, images: int | None) -> int:
    if images is not None and not 1 <= images <= len(data.beton):
        raise UsageError(f"--images is {images}, expected 1 to {len(data.beton)}, which is what {data.beton.path} has")
    return len(data.beton) if images is None else images


def _destination(trained: Trained, out: Path | None) -> Path:
    if out is None:
        if trained.run_dir is None:
            raise UsageError(f"{trained.file}: not in a run folder; say where to write the responses: --out FILE.json")
        out = trained.run_dir / RESPONSES
    check_output(out, "--out")
    return out


def _print(responses: list[Response], title: str, convolutions: int) -> None:
    table = Table("3x3 layer", show_footer=True)
    table.columns[0].footer = "mean"
    table.add_column("std", f"{fmean(response.std for response in responses):.4f}", justify="right")
    for response in responses:
        table.add_row(response.name, f"{response.std:.4f}")
    console = table_console()
    console.print(title, style="bold", highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        "Standard deviations after batch norm, before the nonlinearity; "
        f"{len(responses)} of {convolutions} convolutions are 3x3",
        highlight=False,
        soft_wrap=True,
    )
