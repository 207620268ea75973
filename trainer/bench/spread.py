"""What repetitions of a measurement say: medians, and ratios pair by pair."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of the repetitions."""

    median: float
    min: float
    max: float


def spread(values: Sequence[float]) -> Spread | None:
    """None of no values."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def ratios(values: Sequence[float], base: Sequence[float]) -> Spread | None:
    """How many times `base`, from the repetitions pair by pair; None unless there are values of both."""
    if not values or not base:
        return None
    return spread([value / other for value, other in zip(values, base, strict=True)])
