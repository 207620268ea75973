"""One image: sniffed by content, decoded where it must be, capped, and handed back as what a beton stores.

Every JPEG that comes out is baseline, with the standard Huffman tables and restart markers: its crops decode fast.
Pillow decides which images are bad: what `trainer.jpeg` refuses, to transcode or to shrink, is decoded by Pillow.

EXIF orientation and colour profiles are ignored and transparency is dropped, as Pillow's `convert("RGB")`, and with it
torchvision's ImageFolder, does.
"""

from __future__ import annotations

import io
import operator
import re
from dataclasses import dataclass
from enum import Enum
from pickle import PickleBuffer
from typing import Any, Final, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL.Image import Resampling

from trainer.data.beton import MAX_SIDE, MODE_JPEG, MODE_RAW
from trainer.jpeg import DecodeError, TranscodeError, decode_crop, read_info, restart_interval, transcode

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
"""What torchvision's ImageFolder takes, told apart by content. Pillow's other plugins stay out: one runs PostScript."""

END_OF_IMAGE: Final = b"\xff\xd9"

_JPEG_MAX_SIDE: Final = 65500
"""JPEG_MAX_DIMENSION of libjpeg's jmorecfg.h."""

_MCU_WIDTH: Final = 16
"""Pixels, of the 4:2:0 that is encoded here."""

Pixels = npt.NDArray[np.uint8]


class Store(str, Enum):
    """How pixels become bytes."""

    JPEG = "jpeg"
    """Every image is encoded again."""
    LOSSLESS = "lossless"
    """JPEGs within the cap keep their coefficients and so every pixel, all else is encoded."""
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

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Pickled, `data` can go its own way, without being copied."""
        data = PickleBuffer(self.data) if operator.index(protocol) >= 5 else self.data
        return Record, (self.mode, self.width, self.height, data)


class Encoded(NamedTuple):
    """What became of an image file."""

    record: Record
    why_lossy: str | None
    """Why it was encoded although it should have been kept losslessly."""


class BadImage(Exception):
    """This image cannot be stored; the message says why."""


def encode_file(data: bytes, encoding: Encoding) -> Encoded:
    """The record for an image file.

    Raises:
        BadImage: empty, truncated, no image, or of a size that cannot be stored.
    """
    why_lossy = None
    if encoding.store is Store.LOSSLESS:
        try:
            return Encoded(_transcode(data, encoding.max_short_side), None)
        except TranscodeError as error:
            why_lossy = _kind(str(error))
    image = _shrink_jpeg(data, encoding.max_short_side)
    if image is None:
        source = _decode(data)
        if why_lossy is not None and source.format not in ("JPEG", "MPO"):
            why_lossy = f"{source.format}, not JPEG"
        image = _cap(_to_rgb(source), encoding.max_short_side)
    return Encoded(_record(image, encoding), why_lossy)


def encode_pixels(pixels: Pixels, encoding: Encoding) -> Record:
    """The record for an image that is given as pixels, uint8 [height, width, 3]. Lossless means raw here."""
    capped = _cap(PIL.Image.fromarray(pixels), encoding.max_short_side)
    return _record(capped, encoding, raw=encoding.store is not Store.JPEG)


def _transcode(data: bytes, max_short_side: int) -> Record:
    """The record of a JPEG within the cap. Nothing is decoded: `transcode` reads every coefficient, and refuses all
    that Pillow refuses and more.

    Raises:
        TranscodeError: it is no such JPEG.
    """
    try:
        info = read_info(data)
    except DecodeError as error:
        transcode(data)  # says it better
        raise TranscodeError(str(error)) from error
    if 0 < max_short_side < min(info.width, info.height):
        raise TranscodeError(f"shorter side above {max_short_side}")
    if _is_too_large(info.width, info.height):
        raise TranscodeError("too many pixels")
    return Record(MODE_JPEG, info.width, info.height, transcode(data))


def _kind(reason: str) -> str:
    """The reason without what differs between files, so that files of one kind can be counted."""
    return re.sub(r"\b(0x[0-9a-f]+|\d+)\b", "N", reason) if reason.startswith("libjpeg warns") else reason


def _shrink_jpeg(data: bytes, max_short_side: int) -> PIL.Image.Image | None:
    """A JPEG above the cap, in half of Pillow's time: its planes are resized before they become RGB.

    None for all else, and for what Pillow has to judge: that is all that does not end as a whole JPEG does.
    """
    if not data.endswith(END_OF_IMAGE):
        return None
    try:
        info = read_info(data)
    except DecodeError:
        return None
    full = info.width, info.height
    if not 0 < max_short_side < min(full) or _is_too_large(*full):
        return None
    width, height = _capped_size(full, max_short_side)
    pixels = np.empty((height, width, 3), np.uint8)
    try:
        decode_crop(data, full, (0, 0, *full), False, pixels)
    except DecodeError:
        return None
    return PIL.Image.fromarray(pixels)


def _is_too_large(width: int, height: int) -> bool:
    """Between once and twice its limit Pillow only warns."""
    return PIL.Image.MAX_IMAGE_PIXELS is not None and width * height > PIL.Image.MAX_IMAGE_PIXELS


def _decode(data: bytes) -> PIL.Image.Image:
    if not data:
        raise BadImage("empty file")
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        if _is_too_large(image.width, image.height):
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
    if not 0 < max_short_side < min(image.size):
        return image
    return image.resize(_capped_size(image.size, max_short_side), Resampling.BILINEAR)


def _capped_size(size: tuple[int, int], max_short_side: int) -> tuple[int, int]:
    """Width and height, rounded to the nearest."""
    shorter = min(size)
    width, height = ((2 * side * max_short_side + shorter) // (2 * shorter) for side in size)
    return width, height


def _record(image: PIL.Image.Image, encoding: Encoding, raw: bool | None = None) -> Record:
    raw = encoding.store is Store.RAW if raw is None else raw
    limit = MAX_SIDE if raw else _JPEG_MAX_SIDE
    if max(image.size) > limit:
        raise BadImage(f"{image.width}x{image.height} pixels: a side is above {limit}")
    if raw:
        return Record(MODE_RAW, image.width, image.height, image.tobytes())
    return Record(MODE_JPEG, image.width, image.height, _jpeg(image, encoding.quality))


def _jpeg(image: PIL.Image.Image, quality: int) -> bytes:
    """What `transcode` would make of 4:2:0 of this quality: standard Huffman tables, restart markers within rows."""
    image.info = {}  # or comments of the source would be stored with every image
    interval = restart_interval(-(-image.width // _MCU_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", restart_marker_blocks=interval)
    return buffer.getvalue()
