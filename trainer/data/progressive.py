"""Progressive resizing: training begins on small crops, which cost less, and ends on those of the recipe's size.

A crop is the same part of its image at every size, so order, crops and flips of a run do not depend on the sizes. The
rule is that of ffcv-imagenet (`get_resolution`), by the sample in place of the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MULTIPLE: Final = 32
"""Of pixels, between the ends: what ImageNet's networks divide by, and few sizes to compile or to find kernels for."""


@dataclass(frozen=True)
class ProgressiveResizing:
    """Sides of the crops in pixels: `first` up to `begin` samples, `last` from `end` samples on."""

    first: int
    last: int
    begin: int
    end: int

    def size(self, samples: int) -> int:
        """The side of the crops of the global batch that begins when `samples` have been seen.

        Between the ends it is linear, rounded to a multiple of 32 and never outside of [first, last].
        """
        if samples >= self.end:
            return self.last
        if samples <= self.begin:
            return self.first
        between = self.first + (self.last - self.first) * (samples - self.begin) / (self.end - self.begin)
        return min(max(MULTIPLE * round(between / MULTIPLE), self.first), self.last)
