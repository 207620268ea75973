"""What a worker process does: read a few images, make their records, sum up their pixels."""

from __future__ import annotations

import os
from collections import Counter
from typing import NamedTuple

import numpy as np

from data_prep.images import BadImage, Encoding, Record, encode_file, encode_pixels
from data_prep.sources import FileItem, Item
from data_prep.statistics import Totals
from trainer.data.beton import MODE_JPEG
from trainer.errors import RunError


class Chunk(NamedTuple):
    """A few images to convert."""

    start: int
    """Place of the first in the order of the conversion."""
    items: list[Item]
    sampled: bool
    """Whether they count in the statistics."""
    encoding: Encoding


class Converted(NamedTuple):
    """What became of a chunk."""

    records: list[Record | str]
    """For each image its record, or why it is bad."""
    totals: Totals
    bytes_read: int
    why_lossy: Counter[str]
    """How many were encoded although they should have been kept losslessly, by reason."""


def convert_chunk(chunk: Chunk) -> Converted:
    """Convert the images of a chunk.

    Raises:
        RunError: a file cannot be read, which is no property of an image.
    """
    records: list[Record | str] = []
    totals, bytes_read, why_lossy = Totals(), 0, Counter[str]()
    for item in chunk.items:
        try:
            if isinstance(item, FileItem):
                data = _read(item)
                bytes_read += len(data)
                record, reason = encode_file(data, chunk.encoding)
            else:
                pixels = np.frombuffer(item.pixels, np.uint8).reshape(item.height, item.width, 3)
                bytes_read += len(item.pixels)
                record, reason = encode_pixels(pixels, chunk.encoding), None
        except BadImage as error:
            records.append(str(error))
            continue
        records.append(record)
        if reason is not None:
            why_lossy[reason] += 1
        if chunk.sampled:
            _sum_up(record, totals)
    return Converted(records, totals, bytes_read, why_lossy)


def _sum_up(record: Record, totals: Totals) -> None:
    if record.mode == MODE_JPEG:
        totals.add_jpeg(record.data, record.width, record.height)
    else:
        totals.add(np.frombuffer(record.data, np.uint8).reshape(record.height, record.width, 3))


def record_bytes(converted: Converted) -> int:
    """Bytes of the records of a chunk."""
    return sum(len(record.data) for record in converted.records if isinstance(record, Record))


def _read(item: FileItem) -> bytes:
    try:
        fd = os.open(item.path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size if item.size < 0 else item.size
            data = os.pread(fd, size, item.offset)
        finally:
            os.close(fd)
    except OSError as error:
        raise RunError(f"{item.path}: cannot read it: {error.strerror}") from error
    if len(data) < size:
        raise RunError(f"{item.path}: it became shorter while it was read")
    return data
