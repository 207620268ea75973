"""FFCV's Loader, with its own decoders or with ours.

Its crops and flips come from numba's generators, which cannot be seeded: they are of the same kind, and not the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import (
    CenterCropRGBImageDecoder,
    RandomResizedCropRGBImageDecoder,
    ResizedCropRGBImageDecoder,
)
from ffcv.loader import Loader, OrderOption
from ffcv.reader import Reader
from ffcv.transforms import RandomHorizontalFlip, ToTensor

from trainer.bench.loader.work import Pixels, Work
from trainer.data.ffcv_ops import CropDecoder
from trainer.data.order import Request
from trainer.recipe import DataRecipe


def draw_scale_crop(height: int, width: int, sides: Any, size: int) -> tuple[int, int, int, int]:
    """The paper's scale crop, drawn as FFCV draws its random crops: top, left, height, width.

    Args:
        sides: the smallest and the largest shorter side that the image is resized to; integers, both included.
        size: of the output, in pixels.
    """
    shorter = min(int(height), int(width))
    side = int(np.random.uniform(sides[0], sides[1] + 1))
    window = min(max(round(size * shorter / side), 1), shorter)
    top = int(np.random.uniform(0, int(height) - window + 1))
    left = int(np.random.uniform(0, int(width) - window + 1))
    return top, left, window, window


class ScaleCropRGBImageDecoder(ResizedCropRGBImageDecoder):  # type: ignore[misc]
    """What FFCV lacks, made of its own abstract decoder, which calls the crop with `scale` and `ratio`."""

    def __init__(self, size: int, min_side: int, max_side: int) -> None:
        super().__init__((size, size))
        self.scale = (min_side, max_side)
        self.ratio = size

    @property
    def get_crop_generator(self) -> Callable[..., tuple[int, int, int, int]]:
        return draw_scale_crop


class FfcvLoader:
    """`ffcv.loader.Loader` in random order. A small data set is repeated to the length of an epoch."""

    def __init__(self, work: Work, workers: int, transforms: list[Any]) -> None:
        self._work = work
        reader = Reader(str(work.beton))
        handlers = reader.handlers
        image = next(name for name, field in handlers.items() if isinstance(field, RGBImageField))
        label = next(name for name, field in handlers.items() if isinstance(field, IntField))
        pipelines: dict[str, list[Any] | None] = dict.fromkeys(handlers)
        pipelines[image] = [*transforms, ToTensor()]
        pipelines[label] = [IntDecoder(), ToTensor()]
        self._place = [name for name in handlers if pipelines[name]].index(image)
        requests = work.requests(int(reader.num_samples), 0)
        self._loader = Loader(
            str(work.beton),
            batch_size=work.batch,
            num_workers=workers,
            os_cache=True,
            order=OrderOption.RANDOM,
            seed=work.seed,
            indices=np.concatenate([request.ids for request in requests]).astype(np.uint64),
            pipelines=pipelines,
        )

    def prepare(self, epoch: int) -> None:
        """Nothing: the Loader counts its epochs itself."""

    def batches(self) -> Iterator[torch.Tensor]:
        for fields in self._loader:
            yield fields[self._place]

    def pixels(self, batch: torch.Tensor) -> Pixels:
        return batch.numpy()

    def first_request(self) -> Request | None:
        return self._first_request(0) if self._work.crop == "center" else None

    def _first_request(self, epoch: int) -> Request:
        ids = np.asarray(self._loader.next_traversal_order()[: self._work.batch], np.int64)
        return Request(np.full_like(ids, epoch), ids)


class OursInFfcv(FfcvLoader):
    """The same Loader with `trainer.data.ffcv_ops` in the place of its decoder and flip."""

    def __init__(self, work: Work, workers: int) -> None:
        self._decoder = CropDecoder(work.policy())
        self._epoch = 0
        super().__init__(work, workers, [self._decoder])

    def prepare(self, epoch: int) -> None:
        self._epoch = epoch
        self._decoder.set_epoch(epoch)

    def batches(self) -> Iterator[torch.Tensor]:
        yield from super().batches()
        self._decoder.check()

    def first_request(self) -> Request:
        return self._first_request(self._epoch)


def _stock(work: Work) -> list[Any]:
    size = (work.size, work.size)
    if work.crop == "scale":
        data = DataRecipe()
        return [ScaleCropRGBImageDecoder(work.size, data.min_side, data.max_side), RandomHorizontalFlip()]
    if work.crop == "rrc":
        return [RandomResizedCropRGBImageDecoder(size), RandomHorizontalFlip()]
    return [CenterCropRGBImageDecoder(size, work.size / work.resize)]


def open_variant(name: str, work: Work, workers: int) -> FfcvLoader:
    return FfcvLoader(work, workers, _stock(work)) if name == "ffcv" else OursInFfcv(work, workers)
