"""One image: sniffed by content, decoded where it must be, capped, and handed back as what a beton stores.

EXIF orientation and colour profiles are ignored and transparency is dropped, as Pillow's `convert("RGB")`, and with it
torchvision's ImageFolder, does.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL.Image import Resampling
from PIL.JpegImagePlugin import JpegImageFile

from trainer.data.beton import MAX_SIDE, MODE_JPEG, MODE_RAW

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
"""What torchvision's ImageFolder takes, told apart by content. Pillow's other plugins stay out: one runs PostScript."""

_JPEG_MAX_SIDE: Final = 65500
"""JPEG_MAX_DIMENSION of libjpeg's jmorecfg.h."""

Pixels = npt.NDArray[np.uint8]


class Store(str, Enum):
    """How pixels become bytes."""

    JPEG = "jpeg"
    """Every image is encoded again."""
    LOSSLESS = "lossless"
    """Standard JPEGs within the cap are stored byte for byte, all else is encoded."""
    RAW = "raw"
    """Decoded pixels."""


@dataclass(frozen=True)
class Encoding:
    """What to store of an image. `max_short_side` in pixels, 0 for no cap; `quality` is libjpeg's, 1 to 100."""

    store: Store
    quality: int
    max_short_side: int


class Record(NamedTuple):
    """What a beton stores of one image."""

    mode: int
    width: int
    height: int
    data: bytes


class BadImage(Exception):
    """This image cannot be stored; the message says why."""


def encode_file(data: bytes, encoding: Encoding) -> tuple[Record, PIL.Image.Image]:
    """The record for an image file, and its pixels in RGB as they were before a JPEG encoding.

    Raises:
        BadImage: empty, truncated, no image, or of a size that cannot be stored.
    """
    image = _decode(data)
    rgb = _to_rgb(image)
    capped = _cap(rgb, encoding.max_short_side)
    if encoding.store is Store.LOSSLESS and capped is rgb and _is_standard_jpeg(image):
        return Record(MODE_JPEG, rgb.width, rgb.height, data), rgb
    return _record(capped, encoding), capped


def encode_pixels(pixels: Pixels, encoding: Encoding) -> tuple[Record, PIL.Image.Image]:
    """`encode_file` for an image that is given as pixels, uint8 [height, width, 3]. Lossless means raw here."""
    capped = _cap(PIL.Image.fromarray(pixels), encoding.max_short_side)
    return _record(capped, encoding, raw=encoding.store is not Store.JPEG), capped


def _decode(data: bytes) -> PIL.Image.Image:
    if not data:
        raise BadImage("empty file")
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        # Between once and twice the limit Pillow only warns.
        if PIL.Image.MAX_IMAGE_PIXELS and image.width * image.height > PIL.Image.MAX_IMAGE_PIXELS:
            raise BadImage(f"{image.width}x{image.height} pixels are above the limit of {PIL.Image.MAX_IMAGE_PIXELS}")
        image.load()
    except PIL.UnidentifiedImageError as error:
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise BadImage(f"not a {kinds} image, or its header is damaged or zero-sized") from error
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # on damaged bytes, a decoder may raise anything
        raise BadImage(f"{error}" or type(error).__name__) from error
    return image


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # convert() would clip 16 bits to 255. Pillow keeps the high byte of 16-bit colour: so for gray.
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise BadImage(f"pixels of mode {image.mode} have no defined range; save it with 8 or 16 bits a channel")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise BadImage(f"pixels of mode {image.mode}: {error}") from error


def _cap(image: PIL.Image.Image, max_short_side: int) -> PIL.Image.Image:
    """Shrink to this shorter side, with the resize kernel of training (antialiased bilinear); never enlarge."""
    shorter = min(image.size)
    if not 0 < max_short_side < shorter:
        return image
    width, height = ((2 * side * max_short_side + shorter) // (2 * shorter) for side in image.size)
    return image.resize((width, height), Resampling.BILINEAR)


def _is_standard_jpeg(image: PIL.Image.Image) -> bool:
    """Whether it is a JPEG in gray or YCbCr, by libjpeg's rules (default_decompress_parms in jdapimin.c)."""
    if not isinstance(image, JpegImageFile):
        return False
    if image.layers != 3 or "jfif" in image.info:
        return image.layers in (1, 3)
    if "adobe" in image.info:
        return image.info.get("adobe_transform") != 0
    return bytes(component[0] for component in image.layer) != b"RGB"


def _record(image: PIL.Image.Image, encoding: Encoding, raw: bool | None = None) -> Record:
    raw = encoding.store is Store.RAW if raw is None else raw
    limit = MAX_SIDE if raw else _JPEG_MAX_SIDE
    if max(image.size) > limit:
        raise BadImage(f"{image.width}x{image.height} pixels: a side is above {limit}")
    if raw:
        return Record(MODE_RAW, image.width, image.height, image.tobytes())
    return Record(MODE_JPEG, image.width, image.height, _jpeg(image, encoding.quality))


def _jpeg(image: PIL.Image.Image, quality: int) -> bytes:
    """Baseline, 4:2:0, with the standard Huffman tables: decoders can keep their look-up tables between files."""
    image.info = {}  # or comments of the source would be stored with every image
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()
