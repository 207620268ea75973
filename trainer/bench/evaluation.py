"""`trainer bench evaluation`: what reading, decoding and cropping add to the forward passes of an evaluation.

Both are run in turn, in one process and on one device, and ratios are taken pair by pair.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator
from rich.table import Table

from trainer.bench.resources import describe_machine
from trainer.console import table_console
from trainer.data.beton import Beton
from trainer.data.colour import IMAGENET
from trainer.data.cut_loader import CutLoader
from trainer.errors import UsageError, did_you_mean
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.network import Network
from trainer.evaluation.protocols import PAPER_RESIZE, PAPER_SIZE, Protocol, all_cuts, center, ten_crop
from trainer.models import create_model

CLASSES = 1000
PROTOCOLS = {protocol.name: protocol for protocol in (center(PAPER_RESIZE), ten_crop(PAPER_RESIZE))}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    beton: Path
    model: str = "resnet50"
    protocol: str = "ten-crop"
    images: int = 256
    batch: int = 256
    repeats: int = 3


def bench_evaluation(options: Options) -> int:
    """Measure and print a table.

    Raises:
        UsageError: a value is wrong, or the beton cannot be used.
    """
    protocol = _check(options)
    device = Accelerator(mixed_precision="no").device
    torch.backends.cudnn.allow_tf32 = False
    model = create_model(options.model, CLASSES).to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    beton = Beton(options.beton)
    images = min(options.images, len(beton))
    loader = CutLoader(beton, all_cuts([protocol]), PAPER_SIZE, device)
    network = Network(model, PAPER_SIZE, IMAGENET, None, device)

    def evaluation() -> None:
        evaluate([network], [protocol], loader, classes=CLASSES, batch=options.batch, images=images)

    def forward_passes() -> None:
        _forward(model, images * len(protocol.views), options.batch, device)

    for warm_up in (evaluation, forward_passes):
        warm_up()
    pairs = [(_seconds(evaluation, device), _seconds(forward_passes, device)) for _ in range(options.repeats)]
    _print(options, images, pairs, device)
    return 0


@torch.no_grad()
def _forward(model: torch.nn.Module, count: int, batch: int, device: torch.device) -> None:
    """`count` images that lie on the device already, through the network and no further."""
    pixels = torch.zeros((min(batch, count), 3, PAPER_SIZE, PAPER_SIZE), device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    for first in range(0, count, batch):
        model(pixels[: count - first])


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _check(options: Options) -> Protocol:
    for name in ("images", "batch", "repeats"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} {getattr(options, name)}: must be 1 or more")
    if options.protocol not in PROTOCOLS:
        raise UsageError(f"--protocol: '{options.protocol}' is not known{did_you_mean(options.protocol, PROTOCOLS)}")
    return PROTOCOLS[options.protocol]


def _print(options: Options, images: int, pairs: list[tuple[float, float]], device: torch.device) -> None:
    passes = len(PROTOCOLS[options.protocol].views)
    evaluation, forward = (median(times) for times in zip(*pairs, strict=True))
    ratios = [whole / alone for whole, alone in pairs]
    table = Table(show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_row(f"evaluation of {images:,} images, {options.protocol}", f"{evaluation:.2f} s")
    table.add_row(f"{passes * images:,} forward passes alone, batches of {options.batch}", f"{forward:.2f} s")
    table.add_row(f"ratio, median of {len(pairs)} pairs (lowest to highest)", _range(ratios))
    table.add_row("images/s", f"{images / evaluation:,.1f}")
    machine = describe_machine()
    where = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{machine['cores']} cores, {machine['cpu']}"
    )
    console = table_console()
    console.print(f"{options.model} at {PAPER_SIZE} pixels, fp32, torch {torch.__version__}, {where}", markup=False)
    console.print(table)


def _range(ratios: list[float]) -> str:
    return f"[bold]{median(ratios):.3f}[/] ({min(ratios):.3f} to {max(ratios):.3f})"
