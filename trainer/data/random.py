"""Counter-based random numbers: a draw is a pure function of what it is for, never of what was drawn before.

So the stream of images is the same for any number of workers, ranks and restarts, and it does not depend on the
generators of NumPy or torch, whose streams may change between versions. The mixing function is the finaliser of
SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]

_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MASK: Final = 0xFFFFFFFFFFFFFFFF


def counter_uint64(seed: int, stream: npt.ArrayLike, *counters: npt.ArrayLike) -> UInt64:
    """64 random bits for each element of the broadcast `stream` and `counters`.

    Args:
        seed: of the run.
        stream: what the draw is for; two streams are independent. Several in a column, [s, 1], with counters [b] give
            [s, b]: for a batch that takes as long as one.
        counters: non-negative integers or arrays of them that name the draw, e.g. epoch and sample id.
    """
    state = _mix(np.asarray([seed & _MASK], np.uint64))
    for counter in (stream, *counters):
        state = _mix(state + _GAMMA * (np.atleast_1d(counter).astype(np.uint64) + np.uint64(1)))
    return state


def integers(bits: UInt64, below: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Uniform integers in [0, below), `below` < 2**32, from random bits."""
    return (((bits >> np.uint64(32)) * np.asarray(below).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def uniform(bits: UInt64) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1), with 53 random bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(bits: UInt64, more_bits: UInt64) -> npt.NDArray[np.float64]:
    """Standard normal draws by the Box-Muller transform, one for each pair of random bits."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform(bits)))
    return radius * np.cos(2.0 * np.pi * uniform(more_bits))


def permutation(size: int, seed: int, stream: int, counter: int = 0) -> npt.NDArray[np.int64]:
    """A random permutation of range(size), int64: the numbers sorted by a random key each."""
    return np.argsort(counter_uint64(seed, stream, counter, np.arange(size)), kind="stable")


def _mix(bits: UInt64) -> UInt64:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
