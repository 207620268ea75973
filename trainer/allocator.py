"""Memory that is freed and needed again at once, as arrays of one image or activations of one batch are."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""Of glibc's mallopt(3)."""

LARGE: Final = 1 << 30
"""Bytes. Blocks above are still given back."""

MOST_OF_OLD: Final = 32 << 20
"""Bytes that glibc before 2.35 takes at most."""


def keep_freed_memory() -> None:
    """Let glibc keep what this process frees.

    By default it gives every large block back to the kernel, which has to clear its pages when the next one is asked
    for: a tenth of the time of a ResNet-18's training step at 64 pixels on a CPU, a third of that of drawing an image.
    Settings of GLIBC_TUNABLES have the last word; other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or "GLIBC_TUNABLES" in os.environ:
        return
    # Either of the two ends glibc's own adjustment, so the second only if the first was taken.
    if any(mallopt(M_MMAP_THRESHOLD, size) for size in (LARGE, MOST_OF_OLD)):
        mallopt(M_TRIM_THRESHOLD, 2 * LARGE - 1)
