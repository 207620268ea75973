"""Decoding with Pillow. One resize kernel everywhere: antialiased bilinear (the triangle filter)."""

from __future__ import annotations

import io
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the stored image, fractions allowed."""

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""


class DecodeError(Exception):
    """These bytes cannot be decoded, or not to what was asked for; the message says why."""


def decode(data: bytes | memoryview) -> Pixels:
    """Decode a whole JPEG to uint8 [height, width, 3]. Grayscale becomes RGB; EXIF orientation is ignored."""
    return np.array(_open(data))


def decode_crop(data: bytes | memoryview, size: tuple[int, int], box: Box, flip: bool, out: Pixels) -> None:
    """Decode a JPEG of `size` (width, height); write its crop `box`, resized and mirrored if `flip`, into `out`.

    The result is what resizing the whole image and then cropping gives: pixels around the box take part in the
    filter at its edges.

    Raises:
        DecodeError: the bytes do not decode, the image has another size, or the box leaves it.
    """
    image = _open(data)
    if image.size != size:
        raise DecodeError(f"the JPEG is {image.width}x{image.height}, its record says {size[0]}x{size[1]}")
    _resize(image, box, flip, out)


def crop_pixels(pixels: Pixels, box: Box, flip: bool, out: Pixels) -> None:
    """`decode_crop` for an image that is stored as pixels, uint8 [height, width, 3]."""
    _resize(Image.fromarray(pixels), box, flip, out)


def _open(data: bytes | memoryview) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DecodeError(f"not a readable JPEG ({len(data)} bytes)") from error
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise DecodeError(f"damaged JPEG: {error}") from error
    return image if image.mode == "RGB" else image.convert("RGB")


def _resize(image: Image.Image, box: Box, flip: bool, out: Pixels) -> None:
    left, top, right, bottom = box
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise DecodeError(f"crop {box} is outside of the image of {image.width}x{image.height}")
    height, width, _ = out.shape
    if (right - left, bottom - top) == (width, height) and left == int(left) and top == int(top):
        resized = image.crop((int(left), int(top), int(right), int(bottom)))
    else:
        resized = image.resize((width, height), Image.Resampling.BILINEAR, box)
    pixels = np.asarray(resized)
    out[:] = pixels[:, ::-1] if flip else pixels
