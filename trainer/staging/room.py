"""How much a folder can take: the room of its file system, and the memory of the node where it is in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from trainer.cgroup import free_memory

RESERVE_SHARE: Final = 0.05
MOST_RESERVE: Final = 16 * 10**9
"""Left free of a file system: this share of it, or so many bytes if that is less."""

MEMORY_SHARE: Final = 0.75
"""Of the free memory, what copies may take. The rest is for those who read them: batches, libraries, CUDA."""


def room(folder: Path) -> int:
    """Bytes that may be written into `folder`; below zero if its reserve has been touched.

    Raises:
        OSError: it cannot be told.
    """
    status = os.statvfs(folder)
    reserve = min(RESERVE_SHARE * status.f_blocks * status.f_frsize, MOST_RESERVE)
    free = int(status.f_bavail * status.f_frsize - reserve)
    return min(free, int(MEMORY_SHARE * free_memory())) if is_memory(folder) else free


def is_memory(folder: Path) -> bool:
    """Whether what is written into `folder` stays in memory: proc_pid_mountinfo(5) has the type by the device."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            return after.split()[0] in ("tmpfs", "ramfs")
    return False
