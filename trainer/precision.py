"""What a network computes in, as `precision` of the recipe says.

`fp32` is IEEE single precision everywhere, on GPUs, too; `tf32` lets their tensor cores round the inputs of
convolutions and matrix products to 10 bits; under `bf16` and `fp16` these are computed in 16 bits (autocast), while
weights, their gradients, batch norm's statistics and the loss stay fp32.
"""

from __future__ import annotations

import platform
from typing import Final

import torch

from trainer.errors import UsageError
from trainer.recipe import Precision

AMPERE: Final = (8, 0)
"""Compute capability of the first NVIDIA GPUs with bf16 and TF32 arithmetic (CUDA C++ Programming Guide, table of
arithmetic instructions). Older ones emulate bf16."""

HALVES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


def use_precision(precision: Precision, device: torch.device) -> None:
    """Set what torch's kernels may do in this process, which computes on `device`.

    Raises:
        UsageError: it needs a GPU, or one of another generation.
    """
    if precision in ("fp16", "tf32") and device.type != "cuda":
        raise UsageError(f"precision is {precision}, which needs a GPU; use bf16 or fp32 on a CPU")
    if precision == "tf32" and torch.cuda.get_device_capability() < AMPERE:
        raise UsageError(
            f"precision is tf32, which {torch.cuda.get_device_name()} does not have (it came "
            "with Ampere); use fp16 or fp32"
        )
    allow_tf32(precision == "tf32")


def allow_tf32(allowed: bool) -> None:
    """For convolutions and matrix products alike; torch's own defaults differ between the two."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass."""
    half = HALVES.get(precision)
    return torch.autocast(device.type, dtype=half, enabled=half is not None)


def notice_of(device: torch.device, precision: Precision) -> str | None:
    """What a person should know of computing in `precision` here, if anything: a line."""
    if precision != "bf16":
        return None
    if device.type == "cpu" and not _cpu_has_bf16():
        return "precision is bf16, which this CPU only emulates, many times slower than precision=fp32"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < AMPERE:
        return "precision is bf16, which this GPU only emulates; precision=fp16 is faster"
    return None


def _cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX; on other architectures oneDNN knows."""
    if platform.machine() in ("x86_64", "AMD64"):
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch before 2.6 does not tell of all
        return any(getattr(torch.cpu, name, lambda: False)() for name in asked)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
