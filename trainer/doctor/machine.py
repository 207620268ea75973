"""Cores, memory and limits of a node against what the processes of a run will ask for."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from trainer.cgroup import default_threads, free_memory, node_cores
from trainer.doctor.check import GIB, MIB, Check, guarded, ok, size, warn
from trainer.recipe import Recipe

OPEN_FILES: Final = 1024
"""What Linux gives a process by default; a run opens few files, and a socket for some of the other ranks."""

SHARED_MEMORY: Final = GIB
"""Processes of a node speak through /dev/shm; Docker gives 64 MiB, NCCL's guide asks for `--shm-size=1g`
(Troubleshooting, Docker)."""

WINDOW_MARGIN: Final = 2
"""Windows of chunks that have to fit: training's own, and as much for what the kernel reads ahead and keeps a while."""


def local_processes() -> int:
    """Processes of this run on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def machine_checks(recipe: Recipe | None, data_bytes: int) -> list[Check]:
    """This node, for a recipe (None: its defaults) and the bytes of its data."""
    wanted = recipe or Recipe()
    return [
        *guarded("cores", lambda: _cores(wanted)),
        *guarded("cpu threads", _cpu_threads),
        *guarded("memory", lambda: _memory(wanted, data_bytes)),
        *(guarded("batches ahead", lambda: _batches(wanted)) if recipe else []),
        *guarded("open files", _open_files),
        *guarded("shared memory", _shared_memory),
        *guarded("locked memory", _locked_memory),
        *guarded("core dumps", _core_dumps),
    ]


def data_bytes(recipe: Recipe | None, betons: Sequence[Path]) -> int:
    """Size of the recipe's data and the `betons`, as far as they are there, each file once."""
    named = [Path(recipe.data.train), Path(recipe.data.val)] if recipe else []
    files = {path.resolve() for path in [*named, *betons] if path.is_file()}
    return sum(path.stat().st_size for path in files)


def _cores(recipe: Recipe) -> Check:
    threads = recipe.data.threads or default_threads()
    return judge_cores(node_cores(), os.cpu_count() or 1, threads, local_processes())


def judge_cores(usable: float, cores: int, threads: int, processes: int) -> Check:
    """Decoding threads of all processes of a node against the cores that they may use."""
    found = f"{usable:g} of {cores} usable; {processes} process(es) with {threads} decoding thread(s)"
    if threads * processes <= usable:
        return ok("cores", found)
    if processes > usable:
        advice = "start fewer processes, or ask for more cores (SLURM: --cpus-per-task, containers: --cpus)"
    else:
        advice = f"set data.threads={int(usable // processes)}, or ask for more cores (SLURM: --cpus-per-task)"
    return warn("cores", found, advice)


def _cpu_threads() -> Check:
    return judge_cpu_threads(torch.get_num_threads(), local_processes(), node_cores())


def judge_cpu_threads(threads: int, processes: int, usable: float) -> Check:
    """OpenMP's threads, which compute what is computed on the CPU; too many of them slow all down."""
    setting = os.environ.get("OMP_NUM_THREADS")
    found = (
        f"{threads} a process, {processes} process(es) (OMP_NUM_THREADS {f'is {setting}' if setting else 'not set'})"
    )
    if threads * processes <= math.ceil(usable):
        return ok("cpu threads", found)
    return warn("cpu threads", found, f"export OMP_NUM_THREADS={max(1, int(usable // processes))}")


def _memory(recipe: Recipe, data_bytes: int) -> Check:
    window = recipe.data.chunk_mb * MIB * recipe.data.window if recipe.data.order == "chunked" else None
    return judge_memory(free_memory(), data_bytes, window)


def judge_memory(free: int, data_bytes: int, window: int | None) -> Check:
    """The page cache that is to be had against the data; or, where they are read in chunks, against their window."""
    if data_bytes == 0:
        return ok("memory", f"{size(free)} free")
    found = f"{size(free)} free for {size(data_bytes)} of data"
    if data_bytes <= free:
        return ok("memory", f"{found}: read from the disk once")
    if window is None:
        return warn(
            "memory", f"{found}: read from the disk again in every epoch, record by record", "data.order=chunked"
        )
    if window * WINDOW_MARGIN <= free:
        return ok("memory", f"{found}: read in chunks, {size(window)} at a time")
    return warn("memory", f"{found}, and for a window of {size(window)}", "lower data.window or data.chunk_mb")


def _batches(recipe: Recipe) -> Check:
    share = recipe.optimizer.global_batch / int(os.environ.get("WORLD_SIZE", "1"))
    taken = round((recipe.data.prefetch + 1) * share * 3 * recipe.data.size**2)
    return judge_batches(taken, local_processes(), free_memory())


def judge_batches(taken: int, processes: int, free: int) -> Check:
    """Host memory of the batches that are made ahead, in bytes a process, against what is free."""
    found = f"{size(taken)} a process"
    if taken * processes <= free / 2:
        return ok("batches ahead", found)
    return warn("batches ahead", f"{found}, {size(free)} free on this node", "lower data.prefetch")


def _open_files() -> Check:
    return judge_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def judge_open_files(soft: int, hard: int) -> Check:
    """RLIMIT_NOFILE."""
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return ok("open files", _limit(soft))
    rest = "" if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES else f" (root has to raise the limit of {hard})"
    return warn("open files", _limit(soft), f"ulimit -n {OPEN_FILES}{rest}")


def _shared_memory() -> Check:
    room = os.statvfs("/dev/shm")
    several = max(local_processes(), torch.cuda.device_count()) > 1
    return judge_shared_memory(room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize, several)


def judge_shared_memory(free: int, total: int, several: bool) -> Check:
    """/dev/shm, for `several` processes a node or one."""
    found = f"/dev/shm: {size(free)} of {size(total)} free"
    if free >= SHARED_MEMORY:
        return ok("shared memory", found)
    if not several:
        return ok("shared memory", f"{found}, enough for one process a node")
    return warn("shared memory", found, "containers: --shm-size=1g (or --ipc=host); else remove what fills it")


def _locked_memory() -> Check:
    devices = Path("/sys/class/infiniband")
    infiniband = devices.is_dir() and any(devices.iterdir())
    return judge_locked_memory(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], infiniband)


def judge_locked_memory(soft: int, infiniband: bool) -> Check:
    """RLIMIT_MEMLOCK, which InfiniBand's registered buffers count against; GPUs' pinned memory does not."""
    found = "unlimited" if soft == resource.RLIM_INFINITY else size(soft)
    if not infiniband:
        return ok("locked memory", f"{found}; no InfiniBand that needs it")
    if soft == resource.RLIM_INFINITY:
        return ok("locked memory", found)
    return warn(
        "locked memory", f"{found}, and InfiniBand needs it", "ulimit -l unlimited (containers: --ulimit memlock=-1)"
    )


def _core_dumps() -> Check:
    soft = resource.getrlimit(resource.RLIMIT_CORE)[0]
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    return ok(
        "core dumps", "off" if soft == 0 else f"on ({pattern}): a crash writes a process's memory, up to {_limit(soft)}"
    )


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"
