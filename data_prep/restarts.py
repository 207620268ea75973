"""Whether crops of a beton's JPEGs decode the fast way: from restart markers, no segment of which crosses a row."""

from __future__ import annotations

from typing import Final

import numpy as np

from trainer.data.beton import MODE_JPEG, Beton
from trainer.jpeg import DecodeError, read_info

LOOKED_AT: Final = 1000
"""Headers that are read at most: all files of one conversion are alike, and each costs a read from the disk."""


def describe_restarts(beton: Beton) -> str:
    """How many of the JPEGs are restart-marked, for people; "" if there are none.

    Counted among `LOOKED_AT` of them, spread evenly over the file.
    """
    jpegs = np.flatnonzero(beton.modes == MODE_JPEG)
    if not len(jpegs):
        return ""
    samples = jpegs[np.linspace(0, len(jpegs) - 1, min(len(jpegs), LOOKED_AT)).round().astype(np.int64)].tolist()
    marked = sum(is_restart_marked(beton.record(sample)) for sample in samples)
    of = f"{len(samples):,}" + (" looked at" if len(samples) < len(jpegs) else "")
    if marked == len(samples):
        return f"restart-marked: all of {of}"
    return f"restart-marked: {marked:,} of {of} (convert again for the fast path)"


def is_restart_marked(jpeg: bytes | memoryview) -> bool:
    """Whether every segment between restart markers lies in one row of MCUs; False also for what is no JPEG."""
    try:
        info = read_info(jpeg)
    except DecodeError:
        return False
    return info.restart_interval > 0 and info.mcus_per_row % info.restart_interval == 0
