"""How fast the data come from their disk when they are not in memory."""

from __future__ import annotations

import errno
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.doctor.check import MIB, Check, ok, size, warn

BLOCK_BYTES: Final = 4 * MIB
MOST_BYTES: Final = 256 * MIB
MOST_SECONDS: Final = 2.0
"""The file is read in blocks at random places, until so much is read or the time is over."""

READERS: Final = 4
"""Blocks that are read at once: arrays, solid state and networks are fast with several requests only."""

LEAST_BYTES: Final = 16 * MIB
"""Of less, the time is that of a few requests."""


@dataclass(frozen=True)
class Rate:
    """What was read, in how long, and the share of the blocks that the kernel would not drop from memory before."""

    bytes: int
    seconds: float
    kept: float

    @property
    def per_second(self) -> float:
        return self.bytes / self.seconds


def read_rate(path: Path) -> Rate:
    """Read some of a file from its disk, up to 256 MiB or 2 s. Blocks are dropped from the page cache before they are
    read, which puts them there again."""
    file = os.open(path, os.O_RDONLY)
    try:
        starts = list(range(0, os.fstat(file).st_size, BLOCK_BYTES))
        random.shuffle(starts)  # anew each time: a server or an array would remember
        began = time.perf_counter()

        def read(start: int) -> tuple[int, bool]:
            if time.perf_counter() - began > MOST_SECONDS:
                return 0, False
            os.posix_fadvise(file, start, BLOCK_BYTES, os.POSIX_FADV_DONTNEED)
            kept = _in_memory(file, start)
            return len(os.pread(file, BLOCK_BYTES, start)), kept

        with ThreadPoolExecutor(READERS) as readers:
            blocks = [block for block in readers.map(read, starts[: MOST_BYTES // BLOCK_BYTES]) if block[0]]
        seconds = time.perf_counter() - began
    finally:
        os.close(file)
    return Rate(sum(count for count, _ in blocks), seconds, sum(kept for _, kept in blocks) / max(1, len(blocks)))


def judge_disk(folder: Path, rate: Rate, record: float, speed: float | None, *, fits: bool, chunked: bool) -> Check:
    """The rate of a disk against what decodes.

    Args:
        record: mean bytes of an image.
        speed: images/s that the node decodes; None if that is not known, and then no rate is too low.
        fits: the data fit into memory, so that only the first epoch reads them.
        chunked: they are read in chunks already.
    """
    if rate.bytes < LEAST_BYTES:
        return ok("disk", f"{folder}: only {size(rate.bytes)} to read, too little to time")
    if rate.kept > 0.5:
        return ok("disk", f"{folder}: the data are kept in memory, by another process or the file system; not timed")
    images = rate.per_second / record
    found = f"{folder}: {rate.per_second / 1e6:,.0f} MB/s, at most {images:,.0f} images/s of {record / 1e3:,.0f} kB"
    if speed is None or images >= speed:
        return ok("disk", found)
    if fits:
        return ok("disk", f"{found}; less than decodes, which the first epoch will feel")
    advice = "copy the data to a faster disk" + ("" if chunked else ", or take data.order=chunked, which reads least")
    return warn("disk", f"{found}; {speed:,.0f} would decode", advice)


def _in_memory(file: int, position: int) -> bool:
    """Whether a byte of the file can be had without waiting; False also where the file system cannot tell."""
    try:
        return os.preadv(file, [bytearray(1)], position, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
