"""python run_ffcv_engine.py GOOD.beton DAMAGED.beton OUT.npz: what `data.engine: ffcv` yields.

A program of its own, because what FFCV compiles outlives the interpreter's patience with it when it exits.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from tests.samples import in_order
from trainer.data.beton import Beton
from trainer.data.crops import CropPolicy, PaddedCrop, ScaleCrop
from trainer.data.ffcv_engine import FfcvLoader
from trainer.data.loader import Batch
from trainer.data.order import Request, TrainingOrder
from trainer.errors import RunError

good, damaged, out = Beton(sys.argv[1]), Beton(sys.argv[2]), sys.argv[3]
SCALE = ScaleCrop(32, 36, 60, seed=1)
found: dict[str, Any] = {}


def engine(beton: Beton = good, crops: CropPolicy = SCALE, **options: Any) -> FfcvLoader:
    return FfcvLoader(beton, crops, torch.device("cpu"), colour_seed=1, **options)


def requests(start: int, stop: int, rank: int = 0, world_size: int = 1) -> Iterator[Request]:
    return TrainingOrder(len(good), seed=1).batches(start, stop, 16, rank, world_size)


def keep(name: str, batches: Iterable[Batch]) -> None:
    kept = [
        (batch.images.numpy().copy(), batch.labels.numpy().copy(), batch.colour.numpy().copy(), batch.ids)
        for batch in batches
    ]
    found[f"{name}_sizes"] = [len(ids) for *_, ids in kept]
    for number, part in enumerate(("images", "labels", "colour", "ids")):
        found[f"{name}_{part}"] = np.concatenate([batch[number] for batch in kept])


def end_of(batches: Generator[Batch, None, None]) -> str:
    """How many batches there were, and the error that ended them."""
    count = 0
    try:
        for _ in batches:
            count += 1
    except (RunError, ZeroDivisionError) as error:
        return f"{count} {type(error).__name__}: {error}"
    return f"{count} and no error"


def broken() -> Iterator[Request]:
    yield from requests(0, 32)
    raise ZeroDivisionError("from the order")


torch.set_num_threads(2)
for threads in (1, 2):
    loader = engine(threads=threads, prefetch=threads)
    keep(f"threads{threads}", loader.load(requests(0, 160)))
keep("middle", loader.load(requests(64, 160)))
keep("rank1of4", loader.load(requests(0, 160, 1, 4)))
keep("evaluation", loader.load(in_order(len(good), 12)))
keep("padded", engine(crops=PaddedCrop(32, 4, seed=1), fill=(1, 2, 3)).load(requests(0, 160)))
found["nothing"] = end_of(loader.load([]))
found["order"] = end_of(loader.load(broken()))
found["too_large"] = [len(batch.ids) for batch in loader.load(in_order(len(good), 40))]
found["damaged"] = end_of(engine(damaged).load(in_order(len(damaged), 8)))
with contextlib.closing(loader.load(requests(0, 16_000_000))) as stream:
    next(stream)
found["threads"] = [repr(thread) for thread in threading.enumerate() if type(thread).__name__ == "CheckedPass"]
found["torch_threads"] = torch.get_num_threads()
np.savez(out, **found)
