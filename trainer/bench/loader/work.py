"""What is asked of every loader that takes part: the same images, crops and flips, in batches of one size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from trainer.data.beton import Beton
from trainer.data.crops import CenterCrop, CropPolicy, Crops, RandomResizedCrop, ScaleCrop
from trainer.data.order import Request, TrainingOrder
from trainer.jpeg import decode_crop
from trainer.recipe import DataRecipe, EvaluationRecipe

CropKind = Literal["scale", "rrc", "center"]

CROPS: Final[tuple[CropKind, ...]] = ("scale", "rrc", "center")
"""The paper's scale augmentation, RandomResizedCrop, and the view of the validation."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Work:
    """Epochs of `batches` batches of `batch` images of `beton`, cropped to `size` x `size`.

    Every epoch has the same images, so that after one of them they are in the page cache; its crops are its own.
    A data set with fewer images than an epoch is gone through again, with other crops.
    """

    beton: Path
    crop: CropKind
    size: int
    batch: int
    batches: int
    seed: int = 0

    @property
    def images(self) -> int:
        """Images in an epoch."""
        return self.batches * self.batch

    def policy(self) -> CropPolicy:
        """The crop with the options that recipes have by default."""
        data = DataRecipe()
        if self.crop == "scale":
            return ScaleCrop(self.size, data.min_side, data.max_side, self.seed)
        if self.crop == "rrc":
            return RandomResizedCrop(self.size, self.seed)
        return CenterCrop(self.size, self.resize)

    @property
    def resize(self) -> int:
        """The shorter side that the centre crop is cut from, in pixels: 256 for 224."""
        return round(self.size * EvaluationRecipe().resize / DataRecipe().size)

    def requests(self, num_samples: int, epoch: int) -> list[Request]:
        """The batches of one epoch. Their crops differ from epoch to epoch."""
        order = TrainingOrder(num_samples, self.seed)
        passes = -(-self.images // num_samples)
        taken = [order.take(start, self.batch) for start in range(0, self.images, self.batch)]
        return [Request(request.epochs + epoch * passes, request.ids) for request in taken]


def crops_of(work: Work, beton: Beton, request: Request) -> Crops:
    """Boxes and flips of one batch."""
    ids = request.ids
    widths, heights = beton.widths[ids].astype(np.int64), beton.heights[ids].astype(np.int64)
    return work.policy()(request.epochs, ids, widths, heights)


def windows_of(crops: Crops, beton: Beton, request: Request) -> npt.NDArray[np.int64]:
    """Boxes in whole pixels, for decoders that know no fractions: int64 [b, 4], left, top, width and height."""
    limits = np.stack([beton.widths[request.ids], beton.heights[request.ids]], axis=1).astype(np.int64)
    start = np.minimum(np.rint(crops.boxes[:, :2]).astype(np.int64), limits - 1)
    stop = np.clip(np.rint(crops.boxes[:, 2:]).astype(np.int64), start + 1, limits)
    return np.concatenate([start, stop - start], axis=1)


def reference(work: Work, beton: Beton, request: Request) -> Pixels:
    """What this project's decoder makes of a request: uint8 [b, size, size, 3]."""
    crops = crops_of(work, beton, request)
    images = np.empty((len(request.ids), work.size, work.size, 3), np.uint8)
    for place, sample in enumerate(request.ids.tolist()):
        left, top, right, bottom = crops.boxes[place].tolist()
        size = int(beton.widths[sample]), int(beton.heights[sample])
        decode_crop(beton.record(sample), size, (left, top, right, bottom), bool(crops.flips[place]), images[place])
    return images
