"""The share of a machine that a container or a batch system leaves to this process: Linux control groups, v1 and v2.

Limits hold for all groups above a process's own, too; a v1 hierarchy and the v2 one may be mounted side by side.
Formats: cgroups(7), proc_pid_mountinfo(5), and the kernel's admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

PROCESS: Final = Path("/proc/self")

_UNLIMITED: Final = 2**60
"""v1 has no word for no limit, but a number near 2**63."""


def node_cores() -> float:
    """Cores, or the time of them, that the processes of a node share.

    A process that Accelerate bound to the cores next to its GPU tells by the launcher that started it.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = os.sched_getaffinity(0)
    if os.environ.get("ACCELERATE_CPU_AFFINITY") == "1":
        cores |= os.sched_getaffinity(os.getppid())
    return min(len(cores), cpu_quota() or math.inf)


def cpu_quota(process: Path = PROCESS) -> float | None:
    """Cores' worth of time that this process's groups may use, the smallest of all; None without a limit."""
    quotas = []
    for folder in _folders("cpu", process):
        if (both := _read(folder / "cpu.max")) is not None:  # v2: "max 100000" or "150000 100000"
            quota, period = [*both.split(), "", ""][:2]
        else:
            quota, period = _read(folder / "cpu.cfs_quota_us") or "", _read(folder / "cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit() and int(period) > 0:  # v1's -1, and v2's max, are no limit
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_room(process: Path = PROCESS) -> int | None:
    """Bytes that this process's groups may still use, their cached files among them; None without a limit.

    What a group holds in the page cache counts as room: the kernel gives it up before it refuses memory.
    """
    rooms = []
    for folder in _folders("memory", process):
        limit, used = _read(folder / "memory.max"), _read(folder / "memory.current")
        if limit is None:
            limit, used = _read(folder / "memory.limit_in_bytes"), _read(folder / "memory.usage_in_bytes")
        if limit is None or used is None or not limit.isdigit() or int(limit) >= _UNLIMITED:
            continue
        rooms.append(max(0, int(limit) - int(used) + _cached_files(_read(folder / "memory.stat") or "")))
    return min(rooms, default=None)


def free_memory() -> int:
    """Bytes that can be had without swapping, by giving up cached files if need be: MemAvailable of the machine, or
    less where a control group limits it."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if found is None:
        raise OSError("/proc/meminfo has no MemAvailable")
    room = memory_room()
    available = int(found[1]) * 1024
    return available if room is None else min(available, room)


def _cached_files(statistics: str) -> int:
    """Bytes of the page cache in a memory.stat. v1 has lines of the group alone, and total_ ones with those below."""
    values = {key: int(value) for key, value in re.findall(r"^(\w+) (\d+)$", statistics, re.MULTILINE)}
    prefix = "total_" if "total_inactive_file" in values else ""
    return sum(values.get(f"{prefix}{kind}_file", 0) for kind in ("inactive", "active"))


def _folders(controller: str, process: Path) -> Iterator[Path]:
    """The folders of this process's groups that may limit `controller`: its own, and those above it."""
    mounts = _mounts(process, controller)
    for line in (_read(process / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        kind = "cgroup2" if not controllers else "cgroup"
        if (kind == "cgroup" and controller not in controllers.split(",")) or kind not in mounts:
            continue
        root, mount = mounts[kind]
        # A container sees its own group as the mount's root, and may or may not be told the host's path to it.
        inside = PurePosixPath(path)
        below = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
        for parts in range(len(below.parts), -1, -1):
            yield mount.joinpath(*below.parts[:parts])


def _mounts(process: Path, controller: str) -> dict[str, tuple[PurePosixPath, Path]]:
    """By type (`cgroup`, `cgroup2`): the group that is mounted, and where."""
    mounts = {}
    for line in (_read(process / "mountinfo") or "").splitlines():
        before, separator, after = line.partition(" - ")
        if not separator:
            continue
        root, mount = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2" or (kind == "cgroup" and controller in options.split(",")):
            mounts[kind] = PurePosixPath(_unescape(root)), Path(_unescape(mount))
    return mounts


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def default_threads() -> int:
    """Cores of the node, a container's share of time counted as such, among its processes."""
    return max(1, math.ceil(node_cores()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
