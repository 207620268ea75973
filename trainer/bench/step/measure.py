"""Contestants in turn, in one process: what changes on the machine meanwhile reaches all of them."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import torch
from rich.console import Console

from trainer.bench.step.contest import Contest
from trainer.bench.step.ours import Ours, OursWithData
from trainer.bench.step.peers import Contestant, peer
from trainer.bench.step.results import OURS, WITH_DATA, Result
from trainer.cgroup import free_memory
from trainer.errors import UsageError

SECONDS: Final = 1.0
"""That a repetition of ours takes at least; the others do as many steps."""

LEAST_GAIN: Final = 1.02
"""In images/s, that a batch twice as large must bring to be better."""

MOST_DOUBLINGS: Final = {"cpu": 4, "cuda": 12}

BYTES_OF_ACTIVATION: Final = 16
"""Of memory on a CPU, that each value of a convolution takes in a step: fp32, twice kept (before and after batch norm),
and as much again while gradients come and go."""

Entry = tuple[Result, Contestant]


def measure(
    contest: Contest, repeats: int, console: Console, profile: Callable[[Contest, Ours], None] | None = None
) -> list[Result]:
    """Results in the order of the table: ours, ours with real data, the peers. One that fails says so in its result.

    Args:
        profile: is given our step when all has been timed.

    Raises:
        UsageError: the recipe wants what this device or machine has not.
    """
    try:
        return _measure(contest, repeats, console, profile)
    finally:
        _clear(contest)


def _measure(
    contest: Contest, repeats: int, console: Console, profile: Callable[[Contest, Ours], None] | None
) -> list[Result]:
    names = [OURS, *([WITH_DATA] if contest.data is not None else []), *contest.peers]
    results = [Result(name, contest.network, contest.batch) for name in names]
    running: list[Entry] = []
    for result in results:
        console.print(f"warming up: {result.name}, {contest.network}, batch {contest.batch}", markup=False)
        contestant = _prepare(result, contest, running)
        running += [(result, contestant)] if contestant is not None else []
    for repetition in range(repeats):
        console.print(f"repetition {repetition + 1} of {repeats}")
        first = repetition % max(1, len(running))
        for result, contestant in running[first:] + running[:first]:
            _repeat(result, contestant, contest.device)
    ours = next((contestant for _, contestant in running if isinstance(contestant, Ours)), None)
    if profile is not None and ours is not None:
        profile(contest, ours)
    return results


def _prepare(result: Result, contest: Contest, running: Sequence[Entry]) -> Contestant | None:
    """A contestant that is ready to be timed; None if it cannot be, which its result says."""
    before = _allocated(contest.device)
    try:
        contestant = _make(result.name, contest, running)
        contestant.seconds(1)  # compiles, chooses kernels, allocates
        result.steps = running[0][0].steps if running else math.ceil(SECONDS / contestant.seconds(1))
        contestant.seconds(result.steps)
    except ImportError as error:
        result.problem = f"not installed: {error}"
        return None
    except UsageError:
        raise
    except Exception as error:
        result.fail(_reason(error))
        return None
    result.macs, result.compiled, result.notes = contestant.cost.macs, contestant.compiled, contestant.notes
    # What it keeps; that of a step is added when it is measured. Real data have the network of the synthetic ones.
    own = running[0][0].memory if result.name == WITH_DATA and running else None
    result.memory = None if before is None else own or (_allocated(contest.device) or 0) - before
    return contestant


def _make(name: str, contest: Contest, running: Sequence[Entry]) -> Contestant:
    if name == OURS:
        return Ours(contest)
    if name == WITH_DATA:
        ours = next((contestant for _, contestant in running if isinstance(contestant, Ours)), None)
        return OursWithData(contest, ours or Ours(contest))
    return peer(name, contest)


def _repeat(result: Result, contestant: Contestant, device: torch.device) -> None:
    if result.failed:
        return
    resident = _allocated(device)
    if resident is not None:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        result.seconds.append(contestant.seconds(result.steps))
    except Exception as error:
        result.fail(_reason(error))
        return
    if resident is not None and result.memory is not None and len(result.seconds) == 1:
        result.memory += torch.cuda.max_memory_allocated(device) - resident


def _allocated(device: torch.device) -> int | None:
    """Bytes of tensors on the GPU; None on a CPU, where nobody counts them."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def _reason(error: Exception) -> str:
    """A line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of GPU memory"
    lines = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _clear(contest: Contest) -> None:
    """Leave the device as empty as it was: what follows may need all of it."""
    contest.accelerator.free_memory()
    torch._dynamo.reset()
    gc.collect()
    if contest.device.type == "cuda":
        torch.cuda.empty_cache()


def find_best_batch(contest_of: Callable[[int], Contest], first: int, console: Console) -> tuple[int, dict[int, float]]:
    """The batch from which on twice as many images bring less than 2 %, or do not fit: doubled from `first` on.

    Returns:
        It, and our images/s with all that were tried.

    Raises:
        UsageError: the recipe wants what this device or machine has not.
    """
    tried: dict[int, float] = {}
    batch = first
    for _ in range(1 + MOST_DOUBLINGS[contest_of(first).device.type]):
        try:
            rate = _rate_of(contest_of(batch))
        except RuntimeError as error:
            console.print(f"looking for the best batch: {batch} images: {_reason(error)}", markup=False)
            break
        tried[batch] = rate
        console.print(f"looking for the best batch: {batch} images, {rate:,.1f} images/s")
        if batch > first and rate < LEAST_GAIN * tried[batch // 2]:
            break
        batch *= 2
    return max(tried, key=lambda batch: tried[batch]) if tried else first, tried


def _rate_of(contest: Contest) -> float:
    """Our images/s.

    Raises:
        RuntimeError: there is not enough memory.
    """
    try:
        return _rate(contest)
    finally:
        _clear(contest)


def _rate(contest: Contest) -> float:
    ours = Ours(contest)
    needed = BYTES_OF_ACTIVATION * ours.cost.activations * contest.batch
    if contest.device.type == "cpu" and needed > free_memory() / 2:  # no error would tell: the process would be killed
        raise RuntimeError("not enough memory")
    ours.seconds(1)
    steps = math.ceil(SECONDS / ours.seconds(1))
    return steps * contest.batch / median(ours.seconds(steps) for _ in range(3))
