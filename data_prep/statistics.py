"""Statistics of the pixels: mean and standard deviation a channel, PCA of RGB, and the mean image.

Each image is seen through the centre crop of evaluation. All sums are of integers, so they are exact and the result
depends neither on the order of the images nor on how many processes share the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.data.crops import CenterCrop
from trainer.data.manifest import Statistics
from trainer.jpeg import crop_pixels

CROP: Final = CenterCrop(size=224, resize=256)
_DIGITS: Final = 6
"""Decimals that are kept: the last bits of an eigenvector are those of the linear algebra library."""


@dataclass(frozen=True)
class Sums:
    """Exact sums over images of one size."""

    pixels: npt.NDArray[np.uint64]
    """uint64 [height, width, 3]: sum over images, at each place."""
    products: npt.NDArray[np.uint64]
    """uint64 [3, 3]: sum of the products of channels over all images and places."""
    images: int = 1

    @staticmethod
    def of(image: npt.NDArray[np.uint8]) -> Sums:
        """The sums of one image, uint8 [height, width, 3]."""
        # In float64, for the fast product of matrices: exact, as all its sums are integers far below 2**53.
        flat = image.reshape(-1, 3).astype(np.float64)
        return Sums(image.astype(np.uint64), (flat.T @ flat).astype(np.uint64))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.pixels + other.pixels, self.products + other.products, self.images + other.images)


@dataclass
class Totals:
    """Sums of the crops, and of whole images as long as all have one size below the crop's."""

    crops: Sums | None = None
    whole: Sums | None = None
    mixed: bool = False

    def add(self, image: npt.NDArray[np.uint8]) -> None:
        """Take in an image, uint8 [height, width, 3]."""
        small = min(image.shape[:2]) < CROP.size
        self.merge(Totals(Sums.of(_centre(image)), Sums.of(image) if small else None, not small))

    def merge(self, other: Totals) -> None:
        """Take in what another process has summed up."""
        self.crops = _sum(self.crops, other.crops)
        self.mixed |= other.mixed or _differ(self.whole, other.whole)
        self.whole = None if self.mixed else _sum(self.whole, other.whole)

    def finish(self, same_size: bool, mean_image: str) -> tuple[Statistics, npt.NDArray[np.float32]]:
        """Statistics, and the mean image as float32 [height, width, 3], whose file will be called `mean_image`.

        Args:
            same_size: all images of the data set, sampled or not, have one size; if it is below the crop's, the mean
                image is of whole images.
        """
        sums = self.whole if same_size and self.whole is not None else self.crops
        assert sums is not None, "no image was sampled"
        mean, covariance = _moments(sums)
        eigenvalues, eigenvectors = _principal_components(covariance)
        statistics = Statistics(
            images=sums.images,
            mean=_rounded(mean),
            std=_rounded(np.sqrt(np.diag(covariance))),
            eigenvalues=_rounded(eigenvalues),
            eigenvectors=[_rounded(row) for row in eigenvectors],
            mean_image=mean_image,
        )
        return statistics, (sums.pixels / sums.images).astype(np.float32)


def _centre(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = np.array([image.shape[0]]), np.array([image.shape[1]])
    left, top, right, bottom = CROP(np.zeros(1, np.int64), np.zeros(1, np.int64), width, height).boxes[0]
    crop = np.empty((CROP.size, CROP.size, 3), np.uint8)
    crop_pixels(image, (left, top, right, bottom), False, crop)
    return crop


def _differ(one: Sums | None, other: Sums | None) -> bool:
    return one is not None and other is not None and one.pixels.shape != other.pixels.shape


def _sum(one: Sums | None, other: Sums | None) -> Sums | None:
    if one is None or other is None:
        return one or other
    return one + other


def _moments(sums: Sums) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean [3] and population covariance [3, 3], from integers without a limit: E[xy] - E[x]E[y] would cancel."""
    count = sums.images * sums.pixels.shape[0] * sums.pixels.shape[1]
    total = [int(channel) for channel in sums.pixels.sum(axis=(0, 1))]
    covariance = [
        [(int(sums.products[i, j]) * count - total[i] * total[j]) / count**2 for j in range(3)] for i in range(3)
    ]
    return np.array([channel / count for channel in total]), np.array(covariance)


def _principal_components(
    covariance: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Eigenvalues, largest first, and eigenvectors as columns, each with its largest component positive."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1].round(_DIGITS)
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(3)])


def _rounded(values: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(value), _DIGITS) + 0.0 for value in values]
