"""What an image is looked at through when it is evaluated: crops and whole images at several scales (section 3.4).

    "for comparison studies we adopt the standard 10-crop testing. For best results, we adopt the fully-convolutional
    form [...], and average the scores at multiple scales (images are resized such that the shorter side is in {224,
    256, 384, 480, 640})."

A `Cut` is made once by the C library; a `View` is a cut as the network sees it, as it is or mirrored by the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from trainer.data.crops import Boxes, Ints, Numbers, middle_of, resized_sides, stored_boxes

Place = Literal["top-left", "top-right", "bottom-left", "bottom-right", "center", "mirrored center", "whole"]
"""`mirrored center` is what the centre of the mirrored image is the mirror image of: where the margin is odd, a centre
is off the middle by half a pixel."""


@dataclass(frozen=True)
class Cut:
    """A part of the image whose shorter side is resized to `resize` pixels: a square crop, or the whole of it."""

    resize: int
    place: Place

    def boxes(self, size: int, widths: Ints, heights: Ints) -> tuple[Boxes, Ints, Ints]:
        """Boxes in pixels of the stored images, float64 [b, 4], and heights and widths of what comes out, int64 [b].

        Args:
            size: side of a crop in pixels.
            widths, heights: of the stored images, int64 [b].
        """
        across, down = resized_sides(self.resize, widths, heights)
        if self.place == "whole":
            zeros = np.zeros(len(widths))
            return np.stack([zeros, zeros, widths, heights], axis=1).astype(np.float64), down, across
        left, top = self._corner(across - size, down - size)
        side = np.full(len(widths), size, np.int64)
        return stored_boxes(left, top, size, (across, down), (widths, heights)), side, side

    def _corner(self, right: Ints, bottom: Ints) -> tuple[Numbers, Numbers]:
        """Where the crop begins, [b] each; `right` and `bottom` are the last places, so also the margins."""
        across: dict[str, Numbers] = {"left": 0 * right, "right": right}
        if self.place == "center":
            return middle_of(right), middle_of(bottom)
        if self.place == "mirrored center":
            return right - middle_of(right), middle_of(bottom)
        row, column = self.place.split("-")
        return across[column], bottom if row == "bottom" else 0 * bottom


@dataclass(frozen=True)
class View:
    """A cut as the network sees it."""

    cut: Cut
    mirrored: bool = False


_MIRRORED: Final[dict[Place, Place]] = {
    "top-left": "top-right",
    "top-right": "top-left",
    "bottom-left": "bottom-right",
    "bottom-right": "bottom-left",
    "center": "mirrored center",
    "whole": "whole",
}
"""The cut of an image whose mirror image is that place of the mirrored image."""

FIVE_PLACES: Final[tuple[Place, ...]] = ("top-left", "top-right", "bottom-left", "bottom-right", "center")
"""Of torchvision's FiveCrop, in its order."""


def views_of(resize: int, places: tuple[Place, ...], flip: bool) -> tuple[View, ...]:
    """The `places` of an image and, if `flip`, of its mirror image, as torchvision's TenCrop."""
    plain = [View(Cut(resize, place)) for place in places]
    mirrored = [View(Cut(resize, _MIRRORED[place]), mirrored=True) for place in places]
    return (*plain, *mirrored) if flip else tuple(plain)
