"""Where each image is cropped, whether it is mirrored and how its colours shift: pure functions of (seed, epoch, id).

A crop is a box in the stored image that is resized to the network's input in one step. That is the paper's "resize
the shorter side to s, then crop" (sections 3.4) without computing the pixels that the crop throws away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from trainer.data.random import UInt64, counter_uint64, integers, normal, uniform

STREAM_SCALE: Final = 2
STREAM_LEFT: Final = 3
STREAM_TOP: Final = 4
STREAM_FLIP: Final = 5
STREAM_COLOUR: Final = 6
"""Streams STREAM_COLOUR ... STREAM_COLOUR + 5 draw the three normal numbers of the colour augmentation."""
STREAM_AREA: Final = 12
STREAM_RATIO: Final = 13

RESIZED_CROP_ATTEMPTS: Final = 10
"""Boxes that `RandomResizedCrop` draws for an image, of which it takes the first that fits."""

Ints = npt.NDArray[np.int64]
Boxes = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.float64] | Ints


@dataclass(frozen=True)
class Crops:
    """How to cut a batch out of its images."""

    boxes: npt.NDArray[np.float64]
    """float64 [b, 4]: left, top, right, bottom in pixels of the stored images. It may leave the image only for
    `PaddedCrop`, whose boxes are whole pixels of the output's size."""
    flips: npt.NDArray[np.bool_]
    """bool [b]: mirror left and right."""


class CropPolicy(Protocol):
    """A way of cropping; `size` is the side of the square output in pixels."""

    @property
    def size(self) -> int: ...

    def __call__(self, epochs: Ints, ids: Ints, widths: Ints, heights: Ints) -> Crops: ...


@dataclass(frozen=True)
class ScaleCrop:
    """The paper's training crop (section 3.4): a shorter side s in [min_side, max_side], a random crop, a flip."""

    size: int
    min_side: int
    max_side: int
    seed: int
    flip: bool = True

    def __call__(self, epochs: Ints, ids: Ints, widths: Ints, heights: Ints) -> Crops:
        """Integers s and places are drawn uniformly; the window of the stored image has side round(size*short/s)."""
        shorter = np.minimum(widths, heights).astype(np.int64)
        streams = (STREAM_SCALE, STREAM_LEFT, STREAM_TOP, STREAM_FLIP)
        scale_bits, left_bits, top_bits, flip_bits = _draw(self.seed, streams, epochs, ids)
        sides = self._sides(scale_bits)
        window = np.clip(np.rint(self.size * shorter / sides).astype(np.int64), 1, shorter)
        left = integers(left_bits, widths - window + 1)
        top = integers(top_bits, heights - window + 1)
        boxes = np.stack([left, top, left + window, top + window], axis=1).astype(np.float64)
        return Crops(boxes, _flips(flip_bits, self.flip))

    def shorter_sides(self, epochs: Ints, ids: Ints) -> Ints:
        """The s of each image: int64 [b]."""
        return self._sides(counter_uint64(self.seed, STREAM_SCALE, epochs, ids))

    def _sides(self, bits: npt.NDArray[np.uint64]) -> Ints:
        return self.min_side + integers(bits, self.max_side - self.min_side + 1)


@dataclass(frozen=True)
class RandomResizedCrop:
    """The crop of Inception (Szegedy et al. 2015, section 6), a box of random area and shape, with a flip.

    torchvision's algorithm on counter-based draws: the first of ten boxes that fits, its area a share of the image's
    that is uniform in `scale`, the logarithm of its width / height uniform between those of `ratio`, its place uniform;
    if none fits, the largest centred box of an allowed ratio. Boxes are whole pixels.
    """

    size: int
    seed: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __call__(self, epochs: Ints, ids: Ints, widths: Ints, heights: Ints) -> Crops:
        width, height = self._sides(epochs, ids, widths, heights)
        fits = (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
        first = fits.argmax(axis=0), np.arange(len(ids))
        found = fits[first]
        largest = self._largest(widths, heights)
        width = np.where(found, width[first], largest[0])
        height = np.where(found, height[first], largest[1])
        streams = (STREAM_LEFT, STREAM_TOP, STREAM_FLIP)
        left_bits, top_bits, flip_bits = _draw(self.seed, streams, epochs, ids)
        left = integers(left_bits, widths - width + 1)
        top = integers(top_bits, heights - height + 1)
        left = np.where(found, left, (widths - width) // 2)
        top = np.where(found, top, (heights - height) // 2)
        boxes = np.stack([left, top, left + width, top + height], axis=1).astype(np.float64)
        return Crops(boxes, _flips(flip_bits, self.flip))

    def _sides(self, epochs: Ints, ids: Ints, widths: Ints, heights: Ints) -> tuple[Ints, Ints]:
        """Widths and heights of all attempts, each int64 [attempts, b]: cheaper at once than one by one."""
        attempts = np.arange(RESIZED_CROP_ATTEMPTS)[:, None]
        share = uniform(counter_uint64(self.seed, STREAM_AREA, epochs, ids, attempts))
        shape = uniform(counter_uint64(self.seed, STREAM_RATIO, epochs, ids, attempts))
        area = widths * heights * (self.scale[0] + (self.scale[1] - self.scale[0]) * share)
        low, high = np.log(self.ratio)
        ratio = np.exp(low + (high - low) * shape)
        return np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)

    def _largest(self, widths: Ints, heights: Ints) -> tuple[Ints, Ints]:
        """Sides of the largest box whose ratio is allowed (up to rounding, at least a pixel), each int64 [b]."""
        width = np.minimum(widths, np.rint(heights * self.ratio[1])).astype(np.int64)
        height = np.minimum(heights, np.rint(widths / self.ratio[0])).astype(np.int64)
        return np.maximum(width, 1), np.maximum(height, 1)


@dataclass(frozen=True)
class PaddedCrop:
    """The paper's crop for CIFAR-10 (section 4.2): pad each side by `padding`, a random crop of `size`, a flip."""

    size: int
    padding: int
    seed: int
    flip: bool = True

    def __call__(self, epochs: Ints, ids: Ints, widths: Ints, heights: Ints) -> Crops:
        room = 2 * self.padding - self.size + 1
        streams = (STREAM_LEFT, STREAM_TOP, STREAM_FLIP)
        left_bits, top_bits, flip_bits = _draw(self.seed, streams, epochs, ids)
        left = integers(left_bits, widths + room) - self.padding
        top = integers(top_bits, heights + room) - self.padding
        boxes = np.stack([left, top, left + self.size, top + self.size], axis=1).astype(np.float64)
        return Crops(boxes, _flips(flip_bits, self.flip))


@dataclass(frozen=True)
class CenterCrop:
    """The evaluation view: the shorter side resized to `resize`, the centre `size` x `size` of it.

    Rounds as torchvision's Resize and CenterCrop do, so that the same pixels come out.
    """

    size: int
    resize: int

    def __call__(self, epochs: Ints, ids: Ints, widths: Ints, heights: Ints) -> Crops:
        resized = resized_sides(self.resize, widths, heights)
        left, top = (middle_of(side - self.size) for side in resized)
        boxes = stored_boxes(left, top, self.size, resized, (widths, heights))
        return Crops(boxes, np.zeros(len(ids), np.bool_))


def resized_sides(resize: int, widths: Ints, heights: Ints) -> tuple[Ints, Ints]:
    """Widths and heights once the shorter side is `resize` pixels, rounded as torchvision's Resize does."""
    shorter = np.minimum(widths, heights).astype(np.int64)
    return widths.astype(np.int64) * resize // shorter, heights.astype(np.int64) * resize // shorter


def middle_of(margin: Ints) -> npt.NDArray[np.float64]:
    """Where a centre crop begins, rounded as torchvision's CenterCrop does."""
    return np.rint(margin / 2.0)


def stored_boxes(
    left: Numbers, top: Numbers, size: int, resized: tuple[Ints, Ints], stored: tuple[Ints, Ints]
) -> Boxes:
    """Boxes of side `size` in resized images, in pixels of the stored ones: float64 [b, 4].

    Args:
        left, top: where they begin, [b].
        resized, stored: widths and heights, int64 [b] each.
    """
    across, down = stored[0] / resized[0], stored[1] / resized[1]
    right, bottom = np.minimum((left + size) * across, stored[0]), np.minimum((top + size) * down, stored[1])
    return np.stack([left * across, top * down, right, bottom], axis=1)


def draw_colour(seed: int, epochs: Ints, ids: Ints) -> npt.NDArray[np.float32]:
    """Three standard normal numbers an image for the PCA colour augmentation: float32 [b, 3]."""
    bits = _draw(seed, range(STREAM_COLOUR, STREAM_COLOUR + 6), epochs, ids)
    return np.ascontiguousarray(normal(bits[0::2], bits[1::2]).T, np.float32)


def _draw(seed: int, streams: Sequence[int], epochs: Ints, ids: Ints) -> UInt64:
    """Random bits for each of the streams and samples: uint64 [s, b]."""
    return counter_uint64(seed, np.asarray(streams)[:, None], epochs, ids)


def _flips(bits: UInt64, flip: bool) -> npt.NDArray[np.bool_]:
    """Mirror half of the images, or none. bool [b]."""
    return integers(bits, 2).astype(np.bool_) if flip else np.zeros(len(bits), np.bool_)
