"""Statistics of the pixels: mean and standard deviation a channel, PCA of RGB, and the mean image.

Each image is seen as training sees it: as it is stored, through the centre crop of evaluation. All sums are of
integers, so they are exact and the result depends neither on the order of the images nor on how many processes share
the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.data.crops import CenterCrop
from trainer.data.manifest import Statistics
from trainer.jpeg import Box, crop_pixels, decode, decode_crop

CROP: Final = CenterCrop(size=224, resize=256)
_DIGITS: Final = 6
"""Decimals that are kept: the last bits of an eigenvector are those of the linear algebra library."""


@dataclass
class Sums:
    """Exact sums over images of one size."""

    pixels: npt.NDArray[np.uint32]
    """uint32 [height, width, 3]: sum over images, at each place. Exact for 16 million images."""
    products: npt.NDArray[np.uint64]
    """uint64 [3, 3]: sum of the products of channels over all images and places."""
    images: int = 0

    @staticmethod
    def zero(shape: tuple[int, ...]) -> Sums:
        """No image yet, of the shape [height, width, 3]."""
        return Sums(np.zeros(shape, np.uint32), np.zeros((3, 3), np.uint64))

    def add(self, image: npt.NDArray[np.uint8]) -> None:
        """Take in an image, uint8 [height, width, 3]."""
        # Exact in float64, whose dot product is far faster than that of integers: the sums stay below 2**53.
        planes = np.ascontiguousarray(image.reshape(-1, 3).T, np.float64)
        for i, j in combinations_with_replacement(range(3), 2):
            self.products[i, j] = self.products[j, i] = self.products[i, j] + np.uint64(planes[i] @ planes[j])
        self.pixels += image
        self.images += 1

    def merge(self, other: Sums) -> None:
        """Take in other sums over images of the same size."""
        self.products += other.products
        self.pixels += other.pixels
        self.images += other.images


@dataclass
class Totals:
    """Sums of the crops, and of whole images as long as all have one size below the crop's."""

    crops: Sums | None = None
    whole: Sums | None = None
    mixed: bool = False

    def add(self, image: npt.NDArray[np.uint8]) -> None:
        """Take in an image, uint8 [height, width, 3]."""
        crop = np.empty((CROP.size, CROP.size, 3), np.uint8)
        crop_pixels(image, _centre(image.shape[1], image.shape[0]), False, crop)
        self._add_crop(crop)
        self._expect(image.shape)
        if self.whole:
            self.whole.add(image)

    def add_jpeg(self, data: bytes, width: int, height: int) -> None:
        """Take in an image of this size in pixels, given as JPEG; of a large one only the crop is decoded."""
        if min(width, height) < CROP.size:
            self.add(decode(data))
            return
        crop = np.empty((CROP.size, CROP.size, 3), np.uint8)
        decode_crop(data, (width, height), _centre(width, height), False, crop)
        self._add_crop(crop)
        self._expect((height, width, 3))

    def _add_crop(self, crop: npt.NDArray[np.uint8]) -> None:
        self.crops = self.crops or Sums.zero(crop.shape)
        self.crops.add(crop)

    def merge(self, other: Totals) -> None:
        """Take in what another process has summed up."""
        if other.crops is None:
            return
        self.crops = self.crops or Sums.zero(other.crops.pixels.shape)
        self.crops.merge(other.crops)
        self._expect(other.whole.pixels.shape if other.whole else None)
        if self.whole and other.whole:
            self.whole.merge(other.whole)

    def _expect(self, shape: tuple[int, ...] | None) -> None:
        """Prepare for images of this size (None: of several), if they may still be the only size there is."""
        if shape is None or min(shape[:2]) >= CROP.size or (self.whole and self.whole.pixels.shape != shape):
            self.mixed, self.whole = True, None
        elif not self.mixed and self.whole is None:
            self.whole = Sums.zero(shape)

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


@lru_cache(maxsize=4096)  # photographs share few sizes
def _centre(width: int, height: int) -> Box:
    none = np.zeros(1, np.int64)
    left, top, right, bottom = CROP(none, none, np.array([width]), np.array([height])).boxes[0].tolist()
    return left, top, right, bottom


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
