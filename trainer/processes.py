"""The processes of a run: started by Accelerate's launcher, sharing one global batch."""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from typing import Any, Final

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from trainer.errors import UsageError
from trainer.recipe import Recipe

WORLD_SIZE: Final = "TRAINER_WORLD_SIZE"
"""The variable in which a launch script says how many processes it starts, on all nodes together."""


def start_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate as its launcher configured it, with the recipe's precision, for training.

    Raises:
        UsageError: the launcher started fewer processes than it was asked for, the precision needs a GPU, or
            Accelerate's configuration contradicts the recipe.
    """
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("precision is fp16, which needs a GPU; use bf16 or fp32 on a CPU")
    deterministic = recipe.trainer.deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses what follows
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.allow_tf32 = recipe.precision != "fp32"
    # BN buffers are not broadcast from rank 0: every rank's statistics count, see `batch_norm`.
    # torch would have another argument, which Accelerate does not pass on.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    timeout = InitProcessGroupKwargs(timeout=timedelta(seconds=recipe.trainer.timeout))
    precision = "no" if recipe.precision == "fp32" else recipe.precision
    accelerator = _join(mixed_precision=precision, kwargs_handlers=[ddp, timeout])
    if accelerator.gradient_accumulation_steps != 1:
        raise UsageError(
            "accelerate is configured for gradient accumulation, which is the recipe's business here "
            "(optimizer.micro_batch); set gradient_accumulation_steps to 1"
        )
    return accelerator


def start_accelerator_in_fp32() -> Accelerator:
    """Accelerate as its launcher configured it, for what is computed of a trained network.

    Raises:
        UsageError: the launcher started fewer processes than it was asked for.
    """
    return _join(mixed_precision="no")


def _join(**options: Any) -> Accelerator:
    # On CPUs `accelerate launch --num_processes N` starts one process, and says nothing; this is how it shows.
    launched = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if launched and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            "accelerate launch was asked for several processes and started one, as it does on CPUs; "
            "write ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N ..."
        )
    accelerator = Accelerator(**options)
    asked = os.environ.get(WORLD_SIZE)
    if asked is not None and asked != str(accelerator.num_processes):
        raise UsageError(
            f"{WORLD_SIZE} is {asked}, and this launch has {accelerator.num_processes} process(es); start {asked} that "
            "know of each other (on CPUs: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N ..., "
            f"not --cpu), or unset {WORLD_SIZE}"
        )
    return accelerator


def check_world_size(recipe: Recipe, world_size: int) -> None:
    """Refuse a number of processes that cannot share the global batch evenly (law 2).

    Raises:
        UsageError: with the numbers of processes that can.
    """
    micro_batches = recipe.optimizer.global_batch // recipe.optimizer.micro_batch
    if micro_batches % world_size:
        possible = [n for n in range(1, micro_batches + 1) if micro_batches % n == 0]
        raise UsageError(
            f"{world_size} processes cannot share a global batch of {recipe.optimizer.global_batch} in "
            f"micro-batches of {recipe.optimizer.micro_batch}; use {', '.join(map(str, possible))} processes, "
            "or another optimizer.micro_batch"
        )
