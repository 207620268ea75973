"""What a manifest says of its file: checksums, the digest, versions. Its layout is in `trainer.data.manifest`."""

from __future__ import annotations

import hashlib
import os
from typing import Final

import numpy as np
import PIL
import PIL.features
from xxhash import xxh3_128

import trainer
from trainer.data.beton import ALLOCATION_DTYPE, align_up
from trainer.data.manifest import Checksums

_CHUNK: Final = 1 << 20


def versions() -> dict[str, str]:
    """Versions of whatever decides about the bytes of a beton."""
    jpeg = PIL.features.version_feature("libjpeg_turbo") or PIL.features.version_codec("jpg") or "none"
    return {
        "imagenet-trainer": trainer.__version__,
        "libjpeg": jpeg,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def digest_of(checksums: Checksums) -> str:
    """SHA-256 in hex that identifies the data: over head, pages and tail in hex, one a line."""
    return hashlib.sha256("\n".join([checksums.head, *checksums.pages, checksums.tail]).encode("ascii")).hexdigest()


def page_region(length: int, num_samples: int, num_pages: int, page_size: int) -> tuple[int, int]:
    """Where the pages of a beton that `convert` wrote begin, and where they end and the allocation table begins.

    Args:
        length: of the file, in bytes.
        num_samples, num_pages, page_size: as the manifest and its checksums have them. The file's own header is not
            asked: it may be what is damaged. The first page cannot be computed from `num_samples`, as room was made
            for images that were skipped.
    """
    table = length - num_samples * ALLOCATION_DTYPE.itemsize
    return align_up(table, page_size) - num_pages * page_size, table


def checksum(fd: int, start: int, end: int) -> str:
    """XXH3 in hex of the bytes [start, end) of an open file."""
    summed = xxh3_128()
    for offset in range(start, end, _CHUNK):
        summed.update(os.pread(fd, min(_CHUNK, end - offset), offset))
    return summed.hexdigest()
