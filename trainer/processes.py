"""The processes of a run: started by Accelerate's launcher, sharing one global batch."""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from typing import Any, Final

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DynamoBackend, InitProcessGroupKwargs

from trainer.cpu import prepare_cpu
from trainer.errors import UsageError
from trainer.precision import allow_tf32, use_precision
from trainer.recipe import Recipe

WORLD_SIZE: Final = "TRAINER_WORLD_SIZE"
"""The variable in which a launch script says how many processes it starts, on all nodes together."""


def start_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate as its launcher configured it, with the recipe's precision, for training.

    Raises:
        UsageError: the launcher started fewer processes than it was asked for, the precision needs a GPU, or
            Accelerate's configuration contradicts the recipe.
    """
    deterministic = recipe.trainer.deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses what follows
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    # BN buffers are not broadcast from rank 0: every rank's statistics count, see `batch_norm`.
    # torch would have another argument, which Accelerate does not pass on.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    ddp = DistributedDataParallelKwargs(
        broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=has_static_graph(recipe)
    )
    timeout = InitProcessGroupKwargs(timeout=timedelta(seconds=recipe.trainer.timeout))
    accelerator = _join(kwargs_handlers=[ddp, timeout])
    use_precision(recipe.precision, accelerator.device)
    if recipe.step.cuda_graphs and accelerator.device.type != "cuda":
        raise UsageError("step.cuda_graphs is true, which needs a GPU; give step.cuda_graphs=false")
    if accelerator.gradient_accumulation_steps != 1:
        raise UsageError(
            "accelerate is configured for gradient accumulation, which is the recipe's business here "
            "(optimizer.micro_batch); set gradient_accumulation_steps to 1"
        )
    if accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
        raise UsageError(
            "accelerate is configured to compile, which is the recipe's business here (step.compile); set its "
            "dynamo_backend to no"
        )
    return accelerator


def start_accelerator_in_fp32() -> Accelerator:
    """Accelerate as its launcher configured it, for what is computed of a trained network.

    Raises:
        UsageError: the launcher started fewer processes than it was asked for.
    """
    allow_tf32(False)
    return _join()


def _join(**options: Any) -> Accelerator:
    # On CPUs `accelerate launch --num_processes N` starts one process, and says nothing; this is how it shows.
    launched = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if launched and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            "accelerate launch was asked for several processes and started one, as it does on CPUs; "
            "write ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N ..."
        )
    # 16 bits are `trainer.precision`'s business, whatever the launcher was configured for.
    accelerator = Accelerator(mixed_precision="no", **options)
    if accelerator.device.type == "cpu":
        prepare_cpu()
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
    micro_batches = micro_batches_of_all(recipe)
    if micro_batches % world_size:
        possible = [n for n in range(1, micro_batches + 1) if micro_batches % n == 0]
        raise UsageError(
            f"{world_size} processes cannot share a global batch of {recipe.optimizer.global_batch} in "
            f"micro-batches of {recipe.optimizer.micro_batch}; use {', '.join(map(str, possible))} processes, "
            "or another optimizer.micro_batch"
        )


def micro_batches_of_all(recipe: Recipe) -> int:
    """In a step, over all ranks."""
    return recipe.optimizer.global_batch // recipe.optimizer.micro_batch


def has_static_graph(recipe: Recipe) -> bool:
    """Whether DDP may rely on every backward pass being like the first one.

    Only where each of them averages the gradients over the ranks. With others in between (`no_sync`), torch's DDP fails
    in the first step, or does not average from the second on (github.com/pytorch/pytorch/pull/187732).
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return micro_batches_of_all(recipe) == world_size and not recipe.trainer.deterministic
