"""What the benchmark and its processes tell each other."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.bench.loader.peers import Peer
from trainer.bench.loader.work import Work


@dataclass(frozen=True)
class Task:
    """What a process is for. `workers`: decoding threads or processes of the loader."""

    peer: Peer
    work: Work
    workers: int


@dataclass(frozen=True)
class Epoch:
    """One timed epoch."""

    images: int
    seconds: float
    """From asking for the first batch until there is no more."""
    cpu_seconds: float
    """Of all threads and processes of the loader meanwhile."""
    idle_cpu_seconds: float
    """What they took since the epoch before, while they had nothing to do."""


@dataclass(frozen=True)
class Check:
    """Whether a loader made what was asked."""

    difference: float | None
    """Mean absolute difference to our decoder's pixels for the same crops, in levels of 0-255.
    None where a library draws its own crops."""
    level: float
    """Mean level of the epoch's pixels."""
