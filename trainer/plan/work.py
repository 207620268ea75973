"""What a recipe asks for: of devices, of cores, of memory and of storage."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.beton import MODE_JPEG
from trainer.data.crops import CenterCrop, CropPolicy
from trainer.data.dataset import Dataset, open_dataset, resizing_of, training_crops
from trainer.plan import constants
from trainer.plan.cost import NetworkCost, mean_cost
from trainer.plan.network import network_cost
from trainer.plan.saved import Saved
from trainer.recipe import IMAGENET_SAMPLES, Recipe

CROPS_TRIED = 1000
"""Of which the mean is taken."""


@dataclass(frozen=True)
class Images:
    """One data set."""

    count: int
    bytes: float
    """Of the file, an image."""
    widths: np.ndarray
    heights: np.ndarray
    """Pixels, of up to `CROPS_TRIED` of them."""
    raw: bool
    """Stored as pixels, not as JPEG."""
    found: bool
    """Its file was looked at; else it is taken to be ImageNet (or CIFAR-10, if crops are padded)."""

    @property
    def total_bytes(self) -> float:
        return self.count * self.bytes

    def shrunk(self, max_short_side: int) -> Images:
        """As `data_prep convert --max-short-side` would make them. Bytes are counted in proportion to pixels."""
        scale = np.minimum(1.0, max_short_side / np.minimum(self.widths, self.heights))
        part = float((scale**2 * self.widths * self.heights).sum() / (self.widths * self.heights).sum())
        widths, heights = (self.widths * scale).astype(np.int64), (self.heights * scale).astype(np.int64)
        return Images(self.count, self.bytes * part, widths, heights, self.raw, self.found)


@dataclass(frozen=True)
class Work:
    """A whole run."""

    recipe: Recipe
    sizes: dict[int, float]
    """Sides of the training's crops in pixels, ascending, and which fraction of the run has them."""
    network: NetworkCost
    """For a training crop; where they grow, the mean over the run."""
    validation_network: NetworkCost
    """For a crop of the validation."""
    train: Images
    val: Images
    loader_factor: float = 1.0
    """By which this loader's decoding takes longer than the table says, on cores that were measured."""

    @property
    def gradient_bytes(self) -> int:
        """That are reduced over all devices a step: fp32, whatever the precision; fp64 where it is to be exact."""
        return self.network.parameters * (8 if self.recipe.trainer.deterministic else 4)

    @property
    def decoding(self) -> float:
        """Seconds of a core for a training crop. Where they grow, small ones cost as much: what is read and decoded is
        the box, which is the same."""
        return self.loader_factor * _crop_seconds(self.train, training_crops(self.recipe))

    @property
    def validation_decoding(self) -> float:
        """Seconds of a core for the crop of a validation, which is exact."""
        policy = CenterCrop(self.recipe.validation_size, self.recipe.evaluation.resize)
        return self.loader_factor * constants.EXACT_FACTOR * _crop_seconds(self.val, policy)

    @property
    def read_bytes(self) -> float:
        """From storage for a training image that is not in the page cache."""
        data = self.recipe.data
        alone = data.order == "random" and data.read_ahead == 0
        return self.train.bytes * (constants.WITHOUT_READ_AHEAD if alone else 1.0)

    @property
    def cached_bytes(self) -> float:
        """That a node's memory has to hold for nothing to be read twice."""
        return self.train.total_bytes + self.val.total_bytes

    @property
    def samples(self) -> int:
        return self.recipe.samples(self.recipe.schedule.budget)

    @property
    def validation_images(self) -> int:
        """In all validations of the run."""
        validations = -(-self.samples // self.recipe.samples(self.recipe.evaluation.every))
        return validations * self.val.count

    @property
    def recalibration_images(self) -> int:
        return self.recipe.batch_norm.images if self.recipe.batch_norm.recalibrate else 0


def work_of(recipe: Recipe, saved: Saved) -> Work:
    """Count. Data that are there are looked at.

    Raises:
        UsageError: the recipe's network does not exist, or its data are damaged.
    """
    padded = recipe.data.crop == "padded"
    train = _images(recipe.data.train, constants.CIFAR_IMAGES[0] if padded else IMAGENET_SAMPLES, recipe)
    val = _images(recipe.data.val, constants.CIFAR_IMAGES[1] if padded else constants.VALIDATION_IMAGES, recipe)
    classes = _classes(recipe.data.train) or (10 if padded else 1000)
    sizes = _sizes(recipe)
    network = mean_cost([network_cost(recipe.model, size, classes) for size in sizes], list(sizes.values()))
    validation = network_cost(recipe.model, recipe.validation_size, classes)
    return Work(recipe, sizes, network, validation, train, val, saved.loader.factor if saved.loader else 1.0)


def table_rate(data: Images, policy: CropPolicy) -> float:
    """Images/s of a core that the table has for these crops."""
    return 1 / _crop_seconds(data, policy)


def images_of(data: Dataset) -> Images:
    """The facts of a data set that is there."""
    beton = data.beton
    some = np.linspace(0, len(beton) - 1, min(len(beton), CROPS_TRIED)).astype(np.int64)
    widths, heights = beton.widths[some].astype(np.int64), beton.heights[some].astype(np.int64)
    raw = bool(np.mean(beton.modes != MODE_JPEG) > 0.5)
    return Images(len(beton), beton.length / len(beton), widths, heights, raw, found=True)


def _sizes(recipe: Recipe) -> dict[int, float]:
    resizing = resizing_of(recipe)
    if resizing is None:
        return {recipe.data.size: 1.0}
    steps = range(0, recipe.samples(recipe.schedule.budget), recipe.optimizer.global_batch)
    counts = Counter(map(resizing.size, steps))
    return {size: counts[size] / len(steps) for size in sorted(counts)}


def _images(path: str, count: int, recipe: Recipe) -> Images:
    if Path(path).exists():
        return images_of(open_dataset(path))
    padded = recipe.data.crop == "padded"
    width, height = (recipe.data.size,) * 2 if padded else constants.IMAGE_SIZE
    size = 3 * width * height if padded else constants.IMAGE_BYTES
    return Images(count, size, np.full(CROPS_TRIED, width), np.full(CROPS_TRIED, height), raw=padded, found=False)


def _classes(path: str) -> int:
    return len(open_dataset(path).classes) if Path(path).exists() else 0


def _crop_seconds(data: Images, policy: CropPolicy) -> float:
    made = policy.size**2
    if data.raw:
        return constants.RAW_SECONDS * made / 32**2
    ids = np.arange(len(data.widths))
    boxes = policy(np.zeros_like(ids), ids, data.widths, data.heights).boxes
    covered = float(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).mean())
    return constants.DECODING.seconds(made, covered)
