"""What was measured of each contestant, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from trainer.bench.resources import MIB
from trainer.bench.spread import Spread, ratios, spread
from trainer.bench.step.peak import Peak, flops_of

OURS: Final = "ours"
WITH_DATA: Final = "ours, real data"


@dataclass
class Result:
    """One contestant in one contest."""

    name: str
    network: str
    batch: int
    steps: int = 0
    """Of a repetition."""
    seconds: list[float] = field(default_factory=list)
    """Of each repetition; those of all contestants were interleaved."""
    macs: int = 0
    """Multiply-adds of a forward pass of one image, of its own network."""
    memory: int | None = None
    """Bytes on the GPU at most, its weights included; None on CPUs."""
    compiled: bool = False
    notes: list[str] = field(default_factory=list)
    problem: str = ""
    """Why there are no figures."""
    failed: bool = False
    """The problem is a failure, not that the library is missing."""

    @property
    def rates(self) -> list[float]:
        """Images/s of each repetition."""
        return [self.steps * self.batch / seconds for seconds in self.seconds]

    @property
    def milliseconds(self) -> list[float]:
        """Of a step, in each repetition."""
        return [1e3 * seconds / self.steps for seconds in self.seconds]

    def fail(self, reason: str) -> None:
        self.problem, self.failed, self.seconds = reason, True, []

    def flops(self) -> float | None:
        """FLOP/s, from the median rate."""
        rate = spread(self.rates)
        return flops_of(self.macs, rate.median) if rate else None


def find(results: Sequence[Result], like: Result, name: str) -> Result | None:
    """The contestant `name` in the contest of `like`."""
    return next((r for r in results if (r.name, r.network, r.batch) == (name, like.network, like.batch)), None)


def ours_times(result: Result, results: Sequence[Result]) -> Spread | None:
    """How many times this contestant's images/s ours are, pair by pair."""
    ours = find(results, result, OURS)
    return ratios(ours.rates, result.rates) if ours else None


def share_of_synthetic(result: Result, results: Sequence[Result]) -> Spread | None:
    """What real data leave of our images/s, pair by pair; None of other contestants."""
    ours = find(results, result, OURS)
    return ratios(result.rates, ours.rates) if ours and result.name == WITH_DATA else None


def to_json(results: Sequence[Result], peak: Peak, about: dict[str, Any]) -> dict[str, Any]:
    """Everything, for people and programs. `about`: what was measured, and on what."""
    return {
        "benchmark": "step",
        **about,
        "peak": asdict(peak),
        "units": {
            "images_per_s": "median, min and max of the repetitions",
            "ms_per_step": "the same, milliseconds",
            "ours_times": "ratio of our images/s to this contestant's, pair by pair",
            "share_of_synthetic": "ratio of images/s with real data to those without, pair by pair",
            "flops": "FLOP/s: 2 operations x 3 (forward and backward) x multiply-adds x images/s",
            "multiply_adds": "of a forward pass of one image, of the contestant's own network",
            "share_of_peak": "flops by those of peak",
            "memory_mib": "highest allocation on the GPU, weights included",
        },
        "results": [_row(result, results, peak) for result in results],
    }


def _row(result: Result, results: Sequence[Result], peak: Peak) -> dict[str, Any]:
    row: dict[str, Any] = {"contestant": result.name, "network": result.network, "batch": result.batch}
    if result.problem:
        return row | {"failed": result.failed, "problem": result.problem}
    figures = {
        "images_per_s": spread(result.rates),
        "ms_per_step": spread(result.milliseconds),
        "ours_times": ours_times(result, results),
        "share_of_synthetic": share_of_synthetic(result, results),
    }
    flops = result.flops()
    return row | {
        **{name: asdict(value) if value else None for name, value in figures.items()},
        "multiply_adds": result.macs,
        "flops": flops,
        "share_of_peak": flops / peak.flops if flops else None,
        "memory_mib": round(result.memory / MIB, 1) if result.memory is not None else None,
        "compiled": result.compiled,
        "notes": result.notes,
        "steps": result.steps,
        "seconds": result.seconds,
    }
