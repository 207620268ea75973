"""The GPUs of a node, and what is between them and the network: driver, CUDA, NCCL. Looks only: no mode is changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Final

import torch

from trainer.compiled import missing_for
from trainer.doctor.check import Check, fail, guarded, ok, size, warn
from trainer.precision import AMPERE
from trainer.recipe import Recipe

USED: Final = 0.2
"""Share of a GPU's memory that may be in use without a word: contexts of this run's processes, a desktop."""


def gpu_checks(recipe: Recipe | None) -> list[Check]:
    """GPUs and CUDA of this node; one warning if there are none."""
    if not torch.cuda.is_available():
        return guarded("gpu", _no_gpu)
    return [
        *guarded("gpu", _gpus),
        *guarded("gpu precision", lambda: _precision(recipe)),
        *guarded("compiler", lambda: judge_compiler(missing_for(torch.device("cuda", 0)), recipe)),
        *guarded("gpu memory", _memory),
        *guarded("gpu use", lambda: judge_use(torch.cuda.device_count(), os.environ.get("LOCAL_WORLD_SIZE"))),
        *guarded("cuda", _cuda),
    ]


def gpu_facts() -> dict[str, str]:
    """What has to be the same on all nodes of a run."""
    return {"CUDA": torch.version.cuda or "none", "NCCL": nccl_version() or "none"}


def nccl_version() -> str | None:
    if not torch.cuda.is_available() or not torch.distributed.is_nccl_available():
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))


def _no_gpu() -> Check:
    present = sorted(Path("/dev").glob("nvidia[0-9]*"))
    if not present:
        return warn("gpu", "no GPU: training runs on the CPU", "fine to try things out; ImageNet needs GPUs")
    if torch.version.cuda is None:
        return fail(
            "gpu",
            f"{present[0]} is there, this PyTorch ({torch.__version__}) is built without CUDA",
            "install the build of PyTorch for this driver: https://pytorch.org/get-started",
        )
    try:
        torch.cuda.init()
        why = "it is hidden (CUDA_VISIBLE_DEVICES)"
    except Exception as error:
        why = " ".join(str(error).split())
    return fail("gpu", f"{present[0]} is there, PyTorch cannot use it: {why}", "see that `nvidia-smi` lists the GPUs")


def _gpus() -> list[Check]:
    kinds: Counter[str] = Counter()
    checks = []
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        kinds[f"{gpu.name}, {size(gpu.total_memory)}, compute capability {gpu.major}.{gpu.minor}"] += 1
        if not runs_on((gpu.major, gpu.minor), torch.cuda.get_arch_list()):
            checks.append(
                fail(
                    f"gpu {index}",
                    f"{gpu.name}: PyTorch {torch.__version__} has no code for {gpu.major}.{gpu.minor}",
                    "install a build of PyTorch that has: https://pytorch.org/get-started",
                )
            )
    found = "; ".join(f"{count} × {kind}" for kind, count in kinds.items())
    return [
        ok("gpu", found) if len(kinds) == 1 else warn("gpu", found, "steps take as long as on the slowest"),
        *checks,
    ]


def runs_on(capability: tuple[int, int], built_for: list[str]) -> bool:
    """Whether code built for `sm_XY` and `compute_XY` runs on a GPU.

    Machine code does within a major version, from its minor version on; PTX does from its version on (CUDA C++
    Programming Guide, binary and PTX compatibility). Variants such as `sm_90a` run on their own capability alone.
    """
    for kind, major, minor, variant in re.findall(r"(sm|compute)_(\d+)(\d)([a-z]?)", " ".join(built_for)):
        built = int(major), int(minor)
        if variant:
            if built == capability:
                return True
        elif built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def _precision(recipe: Recipe | None) -> Check:
    capability = min(torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))
    return judge_precision(capability, recipe.precision if recipe else "fp32")


def judge_precision(capability: tuple[int, int], precision: str) -> Check:
    """Whether the GPUs compute in the recipe's precision themselves."""
    if capability >= AMPERE:
        return ok("gpu precision", "bf16, tf32 and fp16 in hardware")
    if precision == "tf32":
        return fail("gpu precision", "precision is tf32, which this GPU does not have", "take precision=fp16")
    if precision == "bf16":
        return warn("gpu precision", "precision is bf16, which this GPU only emulates", "take precision=fp16")
    return ok("gpu precision", "fp16 in hardware, bf16 is emulated")


def judge_compiler(missing: str | None, recipe: Recipe | None) -> Check:
    """Whether `step.compile` can have what it asks for; None asks for it where it is to be had."""
    asked = recipe.step.compile if recipe else None
    if missing is None:
        return ok("compiler", "the step can be compiled")
    if asked is False:
        return ok("compiler", f"step.compile is false ({missing})")
    judge = fail if asked else warn
    return judge("compiler", "the step cannot be compiled, which costs speed", missing)


def judge_use(gpus: int, processes: str | None) -> list[Check]:
    """The GPUs of a node against the processes that were launched on it (None: nobody launched any)."""
    if processes is None or int(processes) >= gpus:
        return []
    advice = f"accelerate launch --multi_gpu --num_processes {gpus} (times the number of nodes)"
    return [warn("gpu use", f"{processes} process(es) for {gpus} GPUs", advice)]


def _memory() -> list[Check]:
    checks = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        if free < (1 - USED) * total:
            checks.append(
                warn(
                    f"gpu memory {index}",
                    f"{size(total - free)} of {size(total)} are in use",
                    "`nvidia-smi` shows whose processes these are",
                )
            )
    return checks or [ok("gpu memory", "free on all")]


def _cuda() -> Check:
    found = f"driver {_driver() or 'unknown'}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    nccl = nccl_version()
    if nccl is None:
        return warn("cuda", f"{found}, no NCCL", "several GPUs need it: install the usual build of PyTorch")
    return ok("cuda", f"{found}, NCCL {nccl}")


def _driver() -> str | None:
    """The version of NVIDIA's kernel module; from nvidia-smi where /proc does not tell."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.\d[\d.]*)", Path("/proc/driver/nvidia/version").read_text())
        if found:
            return found[1]
    except OSError:
        pass
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else None
