"""torch.compile, where there is a compiler; without one, the same network as it is."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
import torch._functorch.config as functorch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from trainer.errors import UsageError

MOST_SHAPES: Final = 64
"""Of one network, compiled one by one: each size of a progressive resizing is one."""

COMPILERS: Final = ("cc", "gcc", "clang")
"""That Triton looks for."""


def missing_for(device: torch.device) -> str | None:
    """What compiling for `device` lacks, and what to do: a line. None: nothing."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "there is no Triton (python -m pip install triton)"
        if torch.cuda.get_device_capability(device) < (7, 0):
            return f"Triton does not know {torch.cuda.get_device_name(device)}"
        if not any(map(shutil.which, COMPILERS)):
            return "there is no C compiler, which Triton needs (install gcc)"
        if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
            return "there is no Python.h, which Triton needs (install python3-dev)"
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "there is no C++ compiler (install g++)"
    return None


class Compiled:
    """`network`, compiled for each shape that it is called with, when it is called so for the first time.

    Args:
        required: what cannot be compiled is an error, and not only told of.
        cuda_graphs: the GPU is given a whole pass at once.
        tell: takes a line for people.

    Raises:
        UsageError: it is required, and cannot be compiled here.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        required: bool,
        cuda_graphs: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._network, self._required, self._cuda_graphs, self._tell = network, required, cuda_graphs, tell
        self._compiled: Callable[..., Any] | None = None
        missing = missing_for(device)
        if missing is not None:
            self._give_up(missing)
            return
        torch._dynamo.config.cache_size_limit = MOST_SHAPES  # recompile_limit, which torch before 2.7 does not know
        if hasattr(functorch, "force_non_lazy_backward_lowering"):
            functorch.force_non_lazy_backward_lowering = True  # or what cannot be compiled shows in the backward pass
        self._compiled = torch.compile(network, dynamic=False, mode="reduce-overhead" if cuda_graphs else None)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        if self._compiled is None:
            return self._network(*inputs)
        if self._cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            return self._compiled(*inputs)
        except TorchDynamoException as error:  # compiling comes first: nothing was computed yet
            reason = " ".join(str(error).split())
            self._give_up(f"{type(error).__name__}: {reason[:300]}")
            return self._network(*inputs)

    def _give_up(self, reason: str) -> None:
        self._compiled = None
        if self._required:
            raise UsageError(f"step.compile is true, and cannot be: {reason}; or give step.compile=false")
        self._tell(f"the network is not compiled, which costs speed alone: {reason}")
