"""`trainer bench evaluation`: what reading, decoding and cropping add to the forward passes of an evaluation.

Both are run in turn, in one process and on one device, and ratios are taken pair by pair. The forward passes are of as
many crops of the same size; whole images at several scales have none to be compared with, so only their rate is told.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from trainer.bench.resources import describe_machine
from trainer.bench.spread import Spread, ratios, spread
from trainer.console import table_console
from trainer.data.beton import Beton
from trainer.data.colour import IMAGENET
from trainer.data.cut_loader import CutLoader
from trainer.errors import UsageError, did_you_mean
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.network import Network
from trainer.evaluation.protocols import (
    PAPER_RESIZE,
    PAPER_SCALES,
    PAPER_SIZE,
    Protocol,
    all_cuts,
    center,
    multi_scale,
    multi_scale_dense,
    ten_crop,
)
from trainer.files import check_output, write_atomically
from trainer.models import create_model
from trainer.processes import start_accelerator_in_fp32

CLASSES = 1000
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        center(PAPER_RESIZE),
        ten_crop(PAPER_RESIZE),
        multi_scale(PAPER_SCALES),
        multi_scale_dense(PAPER_SCALES, "dense"),
    )
}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    beton: Path
    model: str = "resnet50"
    protocol: str = "ten-crop"
    images: int = 256
    batch: int = 256
    repeats: int = 3
    json: Path | None = None


def bench_evaluation(options: Options) -> int:
    """Measure and print a table.

    Raises:
        UsageError: a value is wrong, or the beton cannot be used.
    """
    protocol = _check(options)
    device = start_accelerator_in_fp32().device
    model = create_model(options.model, CLASSES).to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    beton = Beton(options.beton)
    images = min(options.images, len(beton))
    loader = CutLoader(beton, all_cuts([protocol]), PAPER_SIZE, device)
    network = Network(model, PAPER_SIZE, IMAGENET, None, device)

    def evaluation() -> None:
        evaluate([network], [protocol], loader, classes=CLASSES, batch=options.batch, images=images)

    def forward_passes() -> None:
        _forward(model, images * len(protocol.views), options.batch, device)

    works = [evaluation] if protocol.pool is not None else [evaluation, forward_passes]
    for warm_up in works:
        warm_up()
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(options.repeats):
        for times, work in zip(seconds, works, strict=True):
            times.append(_seconds(work, device))
    _report(options, images, seconds, device)
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
    if options.json is not None:
        check_output(options.json, "--json")
    return PROTOCOLS[options.protocol]


def _report(options: Options, images: int, seconds: list[list[float]], device: torch.device) -> None:
    """Print, and write what was asked for. `seconds`: of the evaluations and, pair by pair, of the forward passes."""
    rate = spread([images / once for once in seconds[0]])
    ratio = ratios(seconds[0], seconds[1]) if len(seconds) > 1 else None
    assert rate is not None
    machine = describe_machine()
    where = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{machine['cores']} cores, {machine['cpu']}"
    )
    table = Table(show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_row(f"images/s, {images:,} images, {options.protocol}", _range(rate, ".2f"))
    if ratio is not None:
        crops = images * len(PROTOCOLS[options.protocol].views)
        table.add_row(f"time over that of {crops:,} forward passes alone, pairs", _range(ratio, ".3f"))
    console = table_console()
    console.print(f"{options.model} at {PAPER_SIZE} pixels, fp32, torch {torch.__version__}, {where}", markup=False)
    console.print(table)
    if options.json is not None:
        content: dict[str, Any] = {
            "benchmark": "evaluation",
            "beton": str(options.beton),
            "model": options.model,
            "protocol": options.protocol,
            "images": images,
            "batch": options.batch,
            "device": where,
            "machine": machine,
            "images_per_s": asdict(rate),
            "times_forward_passes": asdict(ratio) if ratio is not None else None,
            "seconds": dict(zip(("evaluation", "forward_passes"), seconds, strict=False)),
        }
        write_atomically(options.json, (json.dumps(content, indent=1) + "\n").encode())
        console.print(f"written: {options.json}", markup=False, soft_wrap=True)


def _range(value: Spread, form: str) -> str:
    return f"[bold]{value.median:,{form}}[/] ({value.min:,{form}} to {value.max:,{form}})"
