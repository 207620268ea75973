"""What is shown: the views themselves, as the loaders make them, and the facts of their crops, as the policies say."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.data.beton import MODE_JPEG, Beton
from trainer.data.colour import Preprocess
from trainer.data.crops import Boxes, CropPolicy, Crops, PaddedCrop, ScaleCrop, resized_sides
from trainer.data.dataset import Dataset, training_crops
from trainer.data.ffcv_engine import FfcvLoader
from trainer.data.loader import Loader
from trainer.data.order import Request
from trainer.data.views import FIVE_PLACES, views_of
from trainer.errors import RunError
from trainer.jpeg import DecodeError, Pixels, crop_pixels, decode_crop
from trainer.recipe import Recipe
from trainer.run_data import RunData

ROWS: Final = 6
EPOCHS: Final = 5


@dataclass(frozen=True)
class Stored:
    """An image of a beton."""

    beton: Beton
    sample: int
    class_name: str

    @property
    def width(self) -> int:
        return int(self.beton.widths[self.sample])

    @property
    def height(self) -> int:
        return int(self.beton.heights[self.sample])

    def resized(self, width: int, height: int) -> Pixels:
        """The whole image, uint8 [height, width, 3].

        Raises:
            RunError: it does not decode.
        """
        size, whole = (self.width, self.height), (0.0, 0.0, float(self.width), float(self.height))
        out, record = np.empty((height, width, 3), np.uint8), self.beton.record(self.sample)
        try:
            if self.beton.modes[self.sample] == MODE_JPEG:
                decode_crop(record, size, whole, False, out)
            else:
                crop_pixels(np.frombuffer(record, np.uint8).reshape(self.height, self.width, 3), whole, False, out)
        except DecodeError as error:
            raise RunError(f"{self.beton.describe(self.sample)}: {error}") from error
        return out


@dataclass(frozen=True)
class View:
    """One crop: what the network sees of an image, and how it was cut out."""

    pixels: Pixels
    """uint8 [size, size, 3], its colours as augmented."""
    box: list[float]
    """Left, top, right, bottom in pixels of the stored image."""
    facts: list[str]
    """Short lines."""


@dataclass(frozen=True)
class Row:
    """An image of the training stream, and its views in epochs 0, 1, ..."""

    image: Stored
    views: list[View]


@dataclass(frozen=True)
class Validation:
    """An image of the validation data, its centre crop, and the boxes of its ten crops."""

    image: Stored
    center: Pixels
    """The centre crop, uint8 [size, size, 3]."""
    corners: Boxes
    """float64 [6, 4], see `corner_boxes`."""


def training_rows(recipe: Recipe, data: RunData) -> list[Row]:
    """The first images of the stream, as training gets them in its first epochs."""
    beton, policy = data.train.beton, training_crops(recipe)
    first = data.order.take(0, min(ROWS, len(beton)))
    # Where the recipe replaces what does not decode, these are the replacements, so that every row is of one image.
    samples = _load(data.train_loader, data.preprocess, first).samples
    request = Request(np.tile(np.arange(EPOCHS), len(samples)), np.repeat(samples, EPOCHS))
    made = _load(data.train_loader, data.preprocess, request)
    facts = _facts(policy, request, beton)
    if data.preprocess.augments:
        facts = [
            [*lines, "RGB " + ", ".join(f"{x:+.1f}" for x in rgb)]
            for lines, rgb in zip(facts, made.levels, strict=True)
        ]
    boxes = _crops(policy, request, beton).boxes.tolist()
    views = [View(*view) for view in zip(made.pixels, boxes, facts, strict=True)]
    return [
        Row(_stored(data.train, sample), views[EPOCHS * row : EPOCHS * (row + 1)])
        for row, sample in enumerate(samples.tolist())
    ]


def validation_view(recipe: Recipe, data: RunData) -> Validation:
    """The first image of the validation data."""
    first = data.val_loader.requests(np.zeros(1, np.int64), 1)
    with contextlib.closing(data.val_loader.load(first)) as batches:
        center = next(batches).blocks[0].images[0].cpu().numpy().copy()
    image = _stored(data.val, 0)
    return Validation(image, center, corner_boxes(recipe, image.width, image.height))


def corner_boxes(recipe: Recipe, width: int, height: int) -> Boxes:
    """The crops of ten-crop as they lie in an image of `width` x `height`, in pixels of it: float64 [6, 4].

    The corners, the centre, and the centre of the mirror image, which is off by a pixel where the margin is odd; the
    corners of the mirror image are those of the image.
    """
    sides = np.array([width]), np.array([height])
    cuts = dict.fromkeys(view.cut for view in views_of(recipe.evaluation.resize, FIVE_PLACES, flip=True))
    return np.concatenate([cut.boxes(recipe.validation_size, *sides)[0] for cut in cuts])


def resized_to(shorter: int, width: int, height: int) -> tuple[int, int]:
    """Width and height when the shorter of them is resized to `shorter`."""
    across, down = resized_sides(shorter, np.array([width]), np.array([height]))
    return int(across[0]), int(down[0])


@dataclass(frozen=True)
class _Made:
    samples: npt.NDArray[np.int64]
    pixels: Pixels
    """uint8 [b, size, size, 3]."""
    levels: list[list[float]]
    """[b][3]: colour shifts."""


def _load(loader: Loader | FfcvLoader, preprocess: Preprocess, request: Request) -> _Made:
    """One batch, as the network sees it."""
    with contextlib.closing(loader.load([request])) as batches:
        batch = next(batches)
        rgb = preprocess.to_rgb(preprocess(batch.images, batch.colour))
        return _Made(batch.ids, rgb.numpy(), preprocess.levels(batch.colour).tolist())


def _crops(policy: CropPolicy, request: Request, beton: Beton) -> Crops:
    widths, heights = (sides[request.ids].astype(np.int64) for sides in (beton.widths, beton.heights))
    return policy(request.epochs, request.ids, widths, heights)


def _facts(policy: CropPolicy, request: Request, beton: Beton) -> list[list[str]]:
    """What was drawn for each crop, and where it is."""
    crops = _crops(policy, request, beton)
    lefts, tops, rights, bottoms = np.rint(crops.boxes.T).astype(np.int64)
    widths, heights = rights - lefts, bottoms - tops
    flips = np.where(crops.flips, "flip", "no flip")
    if isinstance(policy, PaddedCrop):  # always of one size: where it is says all
        return [[f"at ({left:+d}, {top:+d}), {flip}"] for left, top, flip in zip(lefts, tops, flips, strict=True)]
    if isinstance(policy, ScaleCrop):
        drawn = [f"S {side}" for side in policy.shorter_sides(request.epochs, request.ids)]
    else:
        areas = beton.widths[request.ids].astype(np.int64) * beton.heights[request.ids]
        drawn = [f"area {share:.0%}" for share in widths * heights / areas]
    places = zip(drawn, flips, widths, heights, lefts, tops, strict=True)
    return [[f"{what}, {flip}", f"{w}×{h} at ({left}, {top})"] for what, flip, w, h, left, top in places]


def _stored(data: Dataset, sample: int) -> Stored:
    return Stored(data.beton, sample, data.classes[int(data.beton.labels[sample])])
