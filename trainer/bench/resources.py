"""What is measured on: CPU time and memory of processes, and the machine. From Linux's /proc."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import re
import resource
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from trainer.hardware import cpu_model

PACKAGES: Final = (
    "numpy",
    "torch",
    "torchvision",
    "timm",
    "triton",
    "pillow",
    "pillow-simd",
    "ffcv",
    "numba",
    "nvidia-dali-cuda130",
    "tensorflow-cpu",
)
"""Whose versions matter to the figures."""

SIMD: Final = ("sse4_2", "avx2", "avx512f", "avx512bw", "avx512_vnni", "asimd", "sve")

MIB: Final = 2**20


def cpu_seconds() -> float:
    """CPU time of this process and of its `multiprocessing` children so far, in seconds; exact to microseconds."""
    living = [child.pid for child in multiprocessing.active_children()]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)  # which does not know the living
    return ended.ru_utime + ended.ru_stime + sum(_cpu_seconds(pid) for pid in (os.getpid(), *living))


def _cpu_seconds(pid: int | None) -> float:
    clock = ctypes.c_int()
    if pid is None or ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        return 0.0
    return time.clock_gettime(clock.value)


def memory_of_session(leader: int) -> int | None:
    """Bytes of anonymous and shared memory of all processes of a session; None where Linux does not tell.

    Pages of files, such as the beton in the page cache and the libraries' code, are not in it; what several processes
    share is counted once (proportional set size).
    """
    sizes = [_private_bytes(pid) for pid in _session_members(leader)]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def _session_members(leader: int) -> list[int]:
    members = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                # The name, in parentheses, may hold anything; state, parent, group and session follow it.
                session = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[3]
            except OSError:  # it has ended meanwhile
                continue
            if int(session) == leader:
                members.append(int(entry))
    return members


def _private_bytes(pid: int) -> int | None:
    try:
        content = Path("/proc", str(pid), "smaps_rollup").read_text()
    except OSError:
        return None
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB", content, re.MULTILINE))
    if "Pss_Anon" not in fields:
        return None
    return 1024 * (int(fields["Pss_Anon"]) + int(fields["Pss_Shmem"]))


def describe_machine() -> dict[str, Any]:
    """CPU, cores, SIMD, memory, system and versions: everything that a figure means nothing without."""
    info = _read("/proc/cpuinfo")
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "simd": [name for name in SIMD if flags and name in flags[1].split()],
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "load_before": round(os.getloadavg()[0], 2),
        "environment": {
            name: os.environ[name] for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS") if name in os.environ
        },
    }


def machine_lines(machine: dict[str, Any]) -> str:
    """What `describe_machine` found, in two lines."""
    simd = f", {' '.join(machine['simd'])}" if machine["simd"] else ""
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores{simd}; load before: {machine['load_before']}\n"
        f"Python {machine['python']}, {versions}"
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
