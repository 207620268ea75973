"""Images and betons that the tests of all rooms make for themselves."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image

from data_prep.images import Record
from data_prep.manifest import checksum
from data_prep.writer import BetonWriter
from trainer.data.beton import MODE_JPEG, MODE_RAW
from trainer.data.manifest import Checksums
from trainer.data.order import Request

Pixels = npt.NDArray[np.uint8]

REPOSITORY = Path(__file__).parents[1]
PYTHON = sys.executable


def smooth_image(width: int, height: int, seed: int) -> Pixels:
    """A picture without hard edges, so that JPEG changes little: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.array(PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC))


def jpeg(pixels: Pixels, quality: int = 90, mode: str = "RGB", **options: object) -> bytes:
    """Encode as JPEG in the colour `mode`."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


def without_its_scan(data: bytes) -> bytes:
    """A JPEG that ends behind its headers."""
    start = data.index(b"\xff\xda")
    return data[: start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]


def write_beton(path: Path, images: Sequence[Pixels | bytes], labels: Sequence[int]) -> Path:
    """A beton without a manifest: arrays are stored raw, bytes as the JPEGs that they are."""
    with open(path, "wb") as file:
        writer = BetonWriter(file, len(images))
        for image, label in zip(images, labels, strict=True):
            if isinstance(image, bytes):
                width, height = PIL.Image.open(io.BytesIO(image)).size
                writer.append(Record(MODE_JPEG, width, height, image), label)
            else:
                writer.append(Record(MODE_RAW, image.shape[1], image.shape[0], image.tobytes()), label)
        writer.finish()
    return path


def checksum_file(path: Path, page_size: int, first_page: int, table: int) -> Checksums:
    """The checksums of a whole beton, read again; `first_page` and `table` as of `page_region`."""
    starts = [0, *range(first_page, table, page_size), table]
    with open(path, "rb") as file:
        ends = [*starts[1:], path.stat().st_size]
        head, *pages, tail = (checksum(file.fileno(), start, end) for start, end in zip(starts, ends, strict=True))
    return Checksums(page_size, head, pages, tail)


def in_order(num_samples: int, batch: int) -> Iterator[Request]:
    """All samples as they lie in the file, in batches of up to `batch`."""
    for first in range(0, num_samples, batch):
        ids = np.arange(first, min(first + batch, num_samples))
        yield Request(np.zeros_like(ids), ids)
