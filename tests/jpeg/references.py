"""What other decoders make of a JPEG: the planes of libjpeg-turbo's accurate inverse DCT, and Pillow's pixels."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import io
from collections.abc import Sequence

import numpy as np
import PIL
import PIL.Image
import pytest

from tests.jpeg.surgery import sampling, size
from trainer.jpeg import Box, Pixels, read_info

PILLOW_SIMD = ".post" in PIL.__version__
"""Its resizing has weights of fewer bits than Pillow's."""

ACCURATE_DCT = 4096  # TJFLAG_ACCURATEDCT


@functools.cache
def _turbojpeg() -> ctypes.CDLL:
    name = ctypes.util.find_library("turbojpeg")
    if not name:
        pytest.skip("libturbojpeg is not installed")
    library = ctypes.CDLL(name)
    library.tjInitDecompress.restype = ctypes.c_void_p
    library.tjGetErrorStr.restype = ctypes.c_char_p
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.tjDestroy.argtypes = [pointer]
    library.tjDecompressToYUVPlanes.argtypes = [
        *(pointer, ctypes.c_char_p, ctypes.c_ulong, pointer),
        *(number, pointer, number, number),
    ]
    return library


def turbojpeg_planes(jpeg: bytes) -> list[Pixels]:
    """The planes as stored, by libturbojpeg: of gray, 4:4:4, 4:2:2, 4:2:0, 4:4:0 and 4:1:1."""
    library, info = _turbojpeg(), read_info(jpeg)
    most_h, most_v = (max(factors) for factors in zip(*info.sampling, strict=True))
    # It pads the image to whole pixels of chroma.
    width, height = -(-info.width // most_h) * most_h, -(-info.height // most_v) * most_v
    planes = [np.zeros((height * v // most_v, width * h // most_h), np.uint8) for h, v in info.sampling]
    addresses = (ctypes.c_void_p * 3)(*[plane.ctypes.data for plane in planes])
    handle = library.tjInitDecompress()
    failed = library.tjDecompressToYUVPlanes(
        handle, jpeg, len(jpeg), addresses, info.width, None, info.height, ACCURATE_DCT
    )
    library.tjDestroy(handle)
    assert not failed, library.tjGetErrorStr()
    return [plane[:height, :width] for plane, (width, height) in zip(planes, info.planes, strict=True)]


def pillow_planes(jpeg: bytes) -> dict[int, Pixels]:
    """The components, by number, that Pillow's libjpeg gives as stored: it makes others larger by smoothing."""
    factors = sampling(jpeg)
    if len(factors) == 1:
        return {0: np.asarray(PIL.Image.frombytes("L", size(jpeg), jpeg, "jpeg", "L", "L", 1, 0))}
    pixels = np.asarray(PIL.Image.frombytes("YCbCr", size(jpeg), jpeg, "jpeg", "YCbCr", "YCbCr", 1, 0))
    most_h, most_v = (max(of_all) for of_all in zip(*factors, strict=True))
    ratios = [(most_h // h, most_v // v) for h, v in factors]
    smoothed = {(2, 1), (2, 2), (1, 2)}
    return {i: pixels[::v, ::h, i] for i, (h, v) in enumerate(ratios) if (h, v) not in smoothed}


def pillow_crop(jpeg: bytes, box: Box, out_size: tuple[int, int], flip: bool = False) -> Pixels:
    """Pillow's full decode, resized (antialiased bilinear) to `out_size`, width and height."""
    return resized(np.asarray(PIL.Image.open(io.BytesIO(jpeg)).convert("RGB")), box, out_size, flip)


def resized(pixels: Pixels, box: Sequence[float], out_size: tuple[int, int], flip: bool = False) -> Pixels:
    """Pillow's resize of a box."""
    image = PIL.Image.fromarray(pixels).resize(out_size, PIL.Image.Resampling.BILINEAR, box=tuple(box))
    return np.asarray(image)[:, ::-1] if flip else np.asarray(image)


def bilinear(pixels: Pixels, out_size: tuple[int, int]) -> Pixels:
    """Pillow's BILINEAR of a whole image, uint8 [height, width, 3], in its arithmetic: rows, then columns, each rounded
    to bytes; weights of 22 bits. An axis that keeps its length is left alone."""
    for axis, length in ((1, out_size[0]), (0, out_size[1])):
        if pixels.shape[axis] != length:
            sums = np.tensordot(_weights(pixels.shape[axis], length), pixels.astype(np.float64), axes=(1, axis))
            pixels = np.clip(np.moveaxis((sums + (1 << 21)) // (1 << 22), 0, axis), 0, 255).astype(np.uint8)
    return pixels


def _weights(length: int, out_length: int) -> np.ndarray:
    """Of a triangle as wide as two pixels of the smaller image: float64 [out_length, length], whole numbers."""
    scale = length / out_length
    support = max(scale, 1.0)
    weights = np.zeros((out_length, length))
    for row, centre in zip(weights, (np.arange(out_length) + 0.5) * scale, strict=True):
        reached = np.arange(max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), length))
        triangle = np.maximum(1 - np.abs((reached + 0.5 - centre) / support), 0)
        row[reached] = np.floor(triangle / triangle.sum() * (1 << 22) + 0.5)
    return weights
