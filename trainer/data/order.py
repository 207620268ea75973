"""Which samples come next: a function of (seed, samples seen) alone (laws 1 and 2).

Training reads an endless stream: epoch after epoch, each a permutation of the data of its own. A global batch is the
next `global_batch` samples of the stream (it may span two epochs, so nothing is dropped and every batch is full), and
a rank's share of it is a contiguous slice. The stream is the same for any number of ranks and from any position.

The permutation is of all samples alike, or, for data that do not fit into memory, one that reads the file piece by
piece (`Chunks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.data.progressive import ProgressiveResizing
from trainer.data.random import counter_uint64, integers, permutation

STREAM_ORDER: Final = 1
STREAM_CHUNKS: Final = 14
STREAM_REPLACEMENT: Final = 15
"""Streams of random draws (see `trainer.data.random`) of the order. Those of the crops and colours are in `crops`."""

MAX_REPLACEMENTS: Final = 3
"""How often `draw_replacements` is to be asked for one place before the data are given up. Three draws in a row do not
decode where percents of the records are damaged, not where a few are."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """Samples to load as one batch."""

    epochs: Ints
    """int64 [b]: the pass over the data that each sample belongs to; it keys the sample's random draws."""
    ids: Ints
    """int64 [b]: indices into the beton."""
    size: int | None = None
    """Side of the crops in pixels; None: that of the loader's crops."""


@dataclass(frozen=True)
class Chunks:
    """A beton cut into chunks of neighbouring records, so that an epoch reads it by the chunk and once.

    An epoch takes the chunks in a random order. Each sample is put off by a random delay, uniform up to `window`
    chunks, so at any moment samples come from `window` neighbours of that order: these are what the page cache has to
    hold. It is a function of (seed, epoch) as the whole permutation is.

    How well it mixes: two records that are neighbours in the file are a third of the window apart on average. With
    chunks of 8 MiB of 57 KB photographs (147 each) and a window of 64 that is 3,100 samples. A batch of 256 holds
    records of 63 chunks; of 1,000 classes it holds 226 where the file was written in random order, as a batch of the
    whole permutation does, but 65 where it is sorted by class. The first batch of an epoch holds records of 15 chunks.
    """

    numbers: Ints
    """int64 [N]: the chunk of each sample."""
    starts: Ints
    stops: Ints
    """int64 [C]: where each chunk's records begin and end in the file."""
    window: int

    @classmethod
    def cut(cls, offsets: Ints, sizes: Ints, chunk_bytes: int, window: int) -> Chunks:
        """Cut at the multiples of `chunk_bytes` of the file; a record belongs to the chunk that it begins in.

        Args:
            offsets, sizes: int64 [N], where each record lies in the file, in any order.
        """
        numbers = offsets // chunk_bytes
        used = np.bincount(numbers) > 0
        numbers = (np.cumsum(used) - 1)[numbers]
        starts = np.full(used.sum(), np.iinfo(np.int64).max)
        stops = np.zeros(used.sum(), np.int64)
        np.minimum.at(starts, numbers, offsets)
        np.maximum.at(stops, numbers, offsets + sizes)
        return cls(numbers, starts, stops, window)

    def permutation(self, seed: int, epoch: int) -> Ints:
        """The order of an epoch: int64 [N]."""
        # Times in units of chunks, with 32 bits of fraction.
        turns = permutation(len(self.starts), seed, STREAM_CHUNKS, epoch).astype(np.uint64) << np.uint64(32)
        draws = counter_uint64(seed, STREAM_ORDER, epoch, np.arange(len(self.numbers)))
        delays = (draws >> np.uint64(32)) * np.uint64(self.window)
        return np.argsort(turns[self.numbers] + delays, kind="stable")


class TrainingOrder:
    """The endless stream of samples of a training run over `num_samples` images, read in `chunks` if there are any.

    Args:
        resizing: the sides of the crops; None: those of the loader's.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int,
        chunks: Chunks | None = None,
        resizing: ProgressiveResizing | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.chunks = chunks
        self.resizing = resizing
        self._epoch = -1
        self._permutation: Ints = np.empty(0, np.int64)

    def take(self, start: int, count: int, size: int | None = None) -> Request:
        """The `count` samples of the stream from position `start` (samples seen so far) on, in crops of `size`."""
        positions = np.arange(start, start + count, dtype=np.int64)
        epochs, places = np.divmod(positions, self.num_samples)
        ids = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            ids[inside] = self._order_of(int(epoch))[places[inside]]
        return Request(epochs, ids, size)

    def batches(self, start: int, stop: int, global_batch: int, rank: int, world_size: int) -> Iterator[Request]:
        """This rank's slices of the global batches from position `start` to `stop`, both multiples of the batch."""
        share = global_batch // world_size
        for position in range(start, stop, global_batch):
            size = None if self.resizing is None else self.resizing.size(position)
            yield self.take(position + rank * share, share, size)

    def _order_of(self, epoch: int) -> Ints:
        if epoch != self._epoch:
            self._permutation = (
                permutation(self.num_samples, self.seed, STREAM_ORDER, epoch)
                if self.chunks is None
                else self.chunks.permutation(self.seed, epoch)
            )
            self._epoch = epoch
        return self._permutation


def draw_replacements(num_samples: int, seed: int, epochs: Ints, ids: Ints, attempt: int) -> Ints:
    """Samples to take in the place of `ids`, which do not decode: int64 [b], drawn from all `num_samples`.

    They depend on (seed, epoch, sample, attempt) alone, not on the batch that the sample came in. So the stream stays
    the same for any number of ranks (law 1), which it would not if a neighbour in the batch took the place.

    Args:
        attempt: 0, and one more for each time that what was drawn does not decode either.
    """
    return integers(counter_uint64(seed, STREAM_REPLACEMENT, epochs, ids, attempt), num_samples)


def evaluation_ids(num_samples: int, rank: int, world_size: int) -> Ints:
    """This rank's part of a data set: each sample exactly once over all ranks (trap T16).

    Parts are contiguous and differ by one sample at most; a rank may get none.
    """
    return np.arange(rank * num_samples // world_size, (rank + 1) * num_samples // world_size, dtype=np.int64)
