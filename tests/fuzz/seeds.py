"""Inputs to start fuzzing from: a small JPEG of every kind, and behind it the parameters that fuzz_jpegcrop.c reads."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.jpeg.pictures import KINDS, picture
from tests.jpeg.symbols import LENGTHS, of_symbols, symbols_of
from tests.samples import jpeg
from trainer.jpeg import TranscodeError, transcode

SIZES = ((1, 1), (8, 8), (17, 9), (33, 40), (64, 48))


def parameters(rng: np.random.Generator, *, rgb_width: int = 0) -> bytes:
    """Corners of a box, an output's size, flip and fill, kind, exactness: `rgb_width` is of pixels, 0 for a JPEG."""
    corners, sizes = rng.integers(0, 1 << 16, 4), rng.integers(0, 80, 2)
    flags = int(rng.integers(0, 4)) | (7 << 2 if rgb_width else 0) | int(rng.integers(0, 2)) << 5
    return struct.pack(">4H4B", *corners, *sizes, flags, max(rgb_width, 1) - 1)


def seeds(photographs: Path | None = None) -> Iterator[bytes]:
    """Generated ones, and up to 20 of the JPEGs below `photographs` that have at most 20 KB."""
    rng = np.random.default_rng(0)
    for encode in KINDS.values():
        for width, height in SIZES:
            source = encode(picture(width, height), int(rng.integers(30, 96)))
            if len(source) > 20000:  # metadata
                continue
            yield source + parameters(rng)
            try:
                yield transcode(source) + parameters(rng)
            except TranscodeError:
                continue
    blocks = [symbols_of([5, *range(-31, 32)]), symbols_of([-9, *([0] * 62), 1])]
    for lengths in LENGTHS.values():
        yield of_symbols(blocks, lengths) + parameters(rng)
    twice_as_large = [[(0, 0), *([(0x0A, 0x155)] * 63)]] * 85  # when it is transcoded
    yield of_symbols(twice_as_large, LENGTHS["short and long"], commonest=0x0A) + parameters(rng)
    pixels = picture(33, 40)
    for refused in (
        jpeg(pixels, mode="CMYK"),
        jpeg(pixels, keep_rgb=True),
        jpeg(pixels, keep_rgb=True, progressive=True),
    ):
        yield refused + parameters(rng)
    for width, height in SIZES:
        yield picture(width, height).tobytes() + parameters(rng, rgb_width=width)
    if photographs and photographs.is_dir():
        small = [path for path in sorted(photographs.rglob("*.JP*G")) if path.stat().st_size <= 20000]
        yield from (path.read_bytes() + parameters(rng) for path in small[:20])


def write_seeds(folder: Path, photographs: Path | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds(photographs):
        (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
