"""What was measured, and what it says: medians, ratios pair by pair, and whether it was the same work."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from trainer.bench.loader.messages import Check, Epoch
from trainer.bench.loader.peers import OURS, Peer
from trainer.bench.loader.work import Work
from trainer.bench.resources import MIB
from trainer.bench.spread import Spread, ratios, spread
from trainer.data.beton import Beton

BASELINE: Final = "ffcv"
"""The loader that ratios are relative to."""

MAX_DIFFERENCE: Final = 12.0
"""Levels of 0-255 that pixels of the same crops may differ on average: a decoder without antialiasing stays at half of
it, a wrong crop or flip does not."""


@dataclass
class Result:
    """One loader with one number of workers."""

    peer: Peer
    workers: int
    epochs: list[Epoch] = field(default_factory=list)
    """One a repetition; the repetitions of all loaders were interleaved."""
    memory: float | None = None
    """Bytes, see `resources.memory_of_session`."""
    check: Check | None = None
    problem: str = ""
    """Why there are no figures."""
    failed: bool = False
    """The problem is a failure, not that the library is missing."""

    @property
    def name(self) -> str:
        return self.peer.name

    @property
    def rates(self) -> list[float]:
        """Images/s of each repetition."""
        return [epoch.images / epoch.seconds for epoch in self.epochs]

    @property
    def cpu_rates(self) -> list[float]:
        """Images per CPU-second of each repetition."""
        return [epoch.images / epoch.cpu_seconds for epoch in self.epochs]

    def fail(self, reason: str) -> None:
        self.problem, self.failed, self.epochs = reason, True, []


def find(results: list[Result], name: str, workers: int) -> Result | None:
    """The result of this loader, if there is one."""
    return next((result for result in results if (result.name, result.workers) == (name, workers)), None)


def ratio(result: Result, base: Result | None) -> Spread | None:
    """How many times the rate of `base`, from the repetitions pair by pair; None without figures of both."""
    return ratios(result.rates, base.rates) if base is not None else None


def other_work(result: Result, ours: Result | None, images: int) -> str:
    """Why what a loader made is not what was asked; empty when it is.

    Where a library draws its own crops, only the mean level of an epoch can be compared; that of random crops of the
    same images varies with the square root of their number.
    """
    check = result.check
    if check is None:
        return ""
    if check.difference is not None:
        off, allowed, what = check.difference, MAX_DIFFERENCE, "pixels of the same crops"
    elif ours is not None and ours.check is not None:
        off, allowed = abs(check.level - ours.check.level), 2.0 + 100.0 / images**0.5
        what = "the mean level of its random crops"
    else:
        return ""
    return f"not the same work: {what} differ by {off:.1f} levels from ours" if off > allowed else ""


def to_json(results: list[Result], work: Work, machine: dict[str, Any]) -> dict[str, Any]:
    """Everything, for people and programs."""
    return {
        "benchmark": "loader",
        "beton": str(work.beton),
        "data": _data(Beton(work.beton)),
        "crop": work.crop,
        "size": work.size,
        "batch": work.batch,
        "images_per_epoch": work.images,
        "machine": machine,
        "units": {
            "images_per_s": "median, min and max of the repetitions",
            "images_per_cpu_s": "images by seconds of CPU time of all of the loader's threads and processes",
            "times_ffcv": "ratio of images/s to stock FFCV of the same workers, pair by pair",
            "ours_times": "ratio of our images/s to this loader's, pair by pair",
            "memory_mib": "highest anonymous and shared memory in the first epoch, without pages of files",
            "pixel_difference": "mean absolute difference to our pixels for the same crops, levels of 0-255",
            "idle_cpu_s": "CPU time taken while the others ran",
        },
        "results": [_row(result, results) for result in results],
    }


def _data(beton: Beton) -> dict[str, float]:
    """What the rate depends on: how large the images are."""
    return {
        "samples": len(beton),
        "mean_bytes": round(float(beton.sizes.mean())),
        "mean_width": round(float(beton.widths.mean()), 1),
        "mean_height": round(float(beton.heights.mean()), 1),
    }


def _row(result: Result, results: list[Result]) -> dict[str, Any]:
    row: dict[str, Any] = {"loader": result.name, "workers": result.workers, "what": result.peer.what}
    if result.problem:
        return row | {"failed": result.failed, "problem": result.problem}
    figures = {
        "images_per_s": spread(result.rates),
        "images_per_cpu_s": spread(result.cpu_rates),
        "times_ffcv": ratio(result, find(results, BASELINE, result.workers)),
        "ours_times": ours_times(result, results),
    }
    check = result.check
    return row | {
        **{name: asdict(value) if value else None for name, value in figures.items()},
        "memory_mib": round(result.memory / MIB, 1) if result.memory else None,
        "pixel_difference": check.difference if check else None,
        "mean_level": check.level if check else None,
        "idle_cpu_s": round(sum(epoch.idle_cpu_seconds for epoch in result.epochs), 3),
        "epochs": [asdict(epoch) for epoch in result.epochs],
    }


def ours_times(result: Result, results: list[Result]) -> Spread | None:
    """How many times this loader's rate ours is."""
    ours = find(results, OURS.name, result.workers)
    return ratio(ours, result) if ours else None
