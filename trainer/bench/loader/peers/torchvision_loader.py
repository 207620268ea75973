"""torch's DataLoader over worker processes that decode with Pillow or with torchvision.io.

Records come from a memory map, boxes are drawn for a whole batch at once: both faster than what user code does.
Pillow's draft mode stays off: it decodes at half the size or less, and never below the output, so it has nothing to
do for crops of less than twice the output, and other pixels where it has.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from trainer.bench.loader.work import Pixels, Work, crops_of, windows_of
from trainer.data.beton import Beton
from trainer.data.order import Request

PREFETCH: Final = 2
"""Batches a worker makes ahead: DataLoader's default."""

Item: TypeAlias = tuple[int, tuple[float, float, float, float], bool]
"""Sample, box and flip. The box is left, top, right, bottom for Pillow; left, top, width, height for torchvision."""


class TorchvisionLoader:
    """`DataLoader` with `workers` processes that live as long as it does, and the default collation."""

    def __init__(self, work: Work, workers: int, images: _PillowImages | _TorchvisionImages) -> None:
        self._batches = _Batches(work, images.beton, images.whole_pixels)
        self._channels_first = images.channels_first
        # Workers share the memory map by fork; nothing in this process has threads yet.
        self._loader = DataLoader(
            images,
            batch_sampler=self._batches,
            num_workers=workers,
            persistent_workers=True,
            prefetch_factor=PREFETCH,
            multiprocessing_context="fork",
        )

    def prepare(self, epoch: int) -> None:
        self._batches.prepare(epoch)

    def batches(self) -> Iterator[list[torch.Tensor]]:
        yield from self._loader

    def pixels(self, batch: list[torch.Tensor]) -> Pixels:
        images = batch[0]
        return (images.permute(0, 2, 3, 1) if self._channels_first else images).numpy()

    def first_request(self) -> Request:
        return self._batches.requests[0]


class _Batches(Sampler[list[Item]]):
    """What to load: the samples of a request with their boxes."""

    def __init__(self, work: Work, beton: Beton, whole_pixels: bool) -> None:
        self._work, self._beton, self._whole_pixels = work, beton, whole_pixels
        self.requests: list[Request] = []

    def prepare(self, epoch: int) -> None:
        self.requests = self._work.requests(len(self._beton), epoch)

    def __len__(self) -> int:
        return self._work.batches

    def __iter__(self) -> Iterator[list[Item]]:
        for request in self.requests:
            crops = crops_of(self._work, self._beton, request)
            boxes = windows_of(crops, self._beton, request) if self._whole_pixels else crops.boxes
            yield list(zip(request.ids.tolist(), map(tuple, boxes.tolist()), crops.flips.tolist(), strict=True))


class _PillowImages(Dataset[tuple[torch.Tensor, int]]):
    whole_pixels = False
    channels_first = False

    def __init__(self, work: Work) -> None:
        self.beton = Beton(work.beton)
        self._size = work.size

    def __getitem__(self, item: Item) -> tuple[torch.Tensor, int]:
        sample, box, flip = item
        image = Image.open(io.BytesIO(self.beton.record(sample)), formats=("JPEG",)).convert("RGB")
        image = image.resize((self._size, self._size), Image.Resampling.BILINEAR, box)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)), int(self.beton.labels[sample])


class _TorchvisionImages(Dataset[tuple[torch.Tensor, int]]):
    whole_pixels = True
    channels_first = True

    def __init__(self, work: Work) -> None:
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        self.beton = Beton(work.beton)
        self._size = [work.size, work.size]

    def __getitem__(self, item: Item) -> tuple[torch.Tensor, int]:
        sample, (left, top, width, height), flip = item
        data = torch.from_numpy(np.frombuffer(self.beton.record(sample), np.uint8))
        image = decode_jpeg(data, ImageReadMode.RGB)
        image = functional.resized_crop(image, int(top), int(left), int(height), int(width), self._size, antialias=True)
        if flip:
            image = functional.horizontal_flip(image)
        return image, int(self.beton.labels[sample])


def open_variant(name: str, work: Work, workers: int) -> TorchvisionLoader:
    torch.set_num_threads(1)  # the workers have one each; collation is theirs
    images = _PillowImages(work) if name == "torchvision" else _TorchvisionImages(work)
    return TorchvisionLoader(work, workers, images)
