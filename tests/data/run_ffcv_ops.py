"""python run_ffcv_ops.py GOOD.beton DAMAGED.beton OUT.npz: what stock FFCV's Loader yields with our decoders.

A program of its own, because FFCV sets torch's threads when it is imported, and what it compiles outlives the
interpreter's patience with it when it exits. Labels are the samples' numbers.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from ffcv.fields.basics import IntDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.transforms import ToTensor

from trainer.data.ffcv_ops import CenterCropDecoder, CropDecoder, RandomResizedCropDecoder, ScaleCropDecoder, checked
from trainer.errors import RunError

good, damaged, out = sys.argv[1:]
found: dict[str, Any] = {}


def loader(path: str, decoder: CropDecoder, *transforms: Any, **options: Any) -> Loader:
    options = {"num_workers": 1, "os_cache": True, "drop_last": False, **options}
    pipelines = {"image": [decoder, ToTensor(), *transforms], "label": [IntDecoder(), ToTensor()]}
    return Loader(path, 8, pipelines=pipelines, **options)


def scale() -> ScaleCropDecoder:
    return ScaleCropDecoder(32, 36, 60, seed=1)


def keep(name: str, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    copies = [(images.numpy().copy(), labels.numpy()[:, 0].copy()) for images, labels in batches]
    found[f"{name}_images"] = np.concatenate([images for images, _ in copies])
    found[f"{name}_labels"] = np.concatenate([labels for _, labels in copies])


def message_of(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> str:
    """The error that ends the iteration, after as many batches as the number before it."""
    count = 0
    try:
        for _ in batches:
            count += 1
    except (RunError, ZeroDivisionError) as error:
        return f"{count} {type(error).__name__}: {error}"
    return f"{count} and no error"


class Broken(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("from FFCV's thread")


def right_pixels() -> None:
    # Every pair of them; FFCV compiles seconds for each.
    for workers, os_cache, order in ((1, 1, "SEQUENTIAL"), (1, 0, "RANDOM"), (2, 1, "RANDOM"), (2, 0, "SEQUENTIAL")):
        name = f"{workers}_{os_cache}_{order}"
        stock = loader(good, scale(), num_workers=workers, os_cache=bool(os_cache), order=OrderOption[order], seed=5)
        keep(f"{name}_0", stock)
        keep(f"{name}_1", checked(stock))
    keep("rrc", loader(good, RandomResizedCropDecoder(32, seed=1)))
    keep("center", loader(good, CenterCropDecoder(32, 40)))


def epochs() -> None:
    decoder = scale()
    stock = loader(good, decoder)
    decoder.set_epoch(7)
    keep("set_7", stock)
    keep("after_7", stock)
    stock.next_epoch = 3
    keep("resumed_3", checked(stock))
    again = loader(good, decoder, recompile=True)
    keep("used_again", checked(again))
    keep("recompiled_1", checked(again))


def failures() -> None:
    stock = loader(damaged, scale())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keep("damaged", stock)
    found["warning"] = str(caught[-1].message)
    found["next_pass"] = message_of(stock)
    found["checked"] = message_of(checked(loader(damaged, scale(), batches_ahead=1)))
    found["in_thread"] = message_of(checked(loader(good, scale(), Broken())))


def left_early() -> None:
    endless = np.tile(np.arange(8), 100_000)
    for os_cache in (True, False):
        batches = checked(loader(good, scale(), os_cache=os_cache, indices=endless))
        next(batches)
        batches.close()
    found["threads"] = [repr(thread) for thread in threading.enumerate() if isinstance(thread, EpochIterator)]
    next(iter(loader(good, scale(), indices=endless)))  # and the program ends


right_pixels()
epochs()
failures()
left_early()
np.savez(out, **found)
