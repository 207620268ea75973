"""What goes into a manifest: checksums of a file, versions. Its layout is in `trainer.data.manifest`."""

from __future__ import annotations

import os
from typing import Final

import numpy as np
import PIL
import PIL.features
from xxhash import xxh3_128

import trainer

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


def checksum(fd: int, start: int, end: int) -> str:
    """XXH3 in hex of the bytes [start, end) of an open file."""
    summed = xxh3_128()
    for offset in range(start, end, _CHUNK):
        summed.update(os.pread(fd, min(_CHUNK, end - offset), offset))
    return summed.hexdigest()
