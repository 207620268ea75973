"""Which samples come next: a function of (seed, samples seen) alone (laws 1 and 2).

Training reads an endless stream: epoch after epoch, each a permutation of the data of its own. A global batch is the
next `global_batch` samples of the stream (it may span two epochs, so nothing is dropped and every batch is full), and
a rank's share of it is a contiguous slice. The stream is the same for any number of ranks and from any position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.data.random import permutation

STREAM_ORDER: Final = 1
"""Stream of random draws (see `trainer.data.random`) of the order. Those of the crops and colours are in `crops`."""


@dataclass(frozen=True)
class Request:
    """Samples to load as one batch."""

    epochs: npt.NDArray[np.int64]
    """int64 [b]: the pass over the data that each sample belongs to; it keys the sample's random draws."""
    ids: npt.NDArray[np.int64]
    """int64 [b]: indices into the beton."""


class TrainingOrder:
    """The endless stream of samples of a training run over `num_samples` images."""

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self._epoch = -1
        self._permutation: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def take(self, start: int, count: int) -> Request:
        """The `count` samples of the stream from position `start` (samples seen so far) on."""
        positions = np.arange(start, start + count, dtype=np.int64)
        epochs, places = np.divmod(positions, self.num_samples)
        ids = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            ids[inside] = self._order_of(int(epoch))[places[inside]]
        return Request(epochs, ids)

    def batches(self, start: int, stop: int, global_batch: int, rank: int, world_size: int) -> Iterator[Request]:
        """This rank's slices of the global batches from position `start` to `stop`, both multiples of the batch."""
        share = global_batch // world_size
        for position in range(start, stop, global_batch):
            yield self.take(position + rank * share, share)

    def _order_of(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch != self._epoch:
            self._permutation = permutation(self.num_samples, self.seed, STREAM_ORDER, epoch)
            self._epoch = epoch
        return self._permutation


def evaluation_batches(num_samples: int, batch: int, rank: int, world_size: int) -> Iterator[Request]:
    """This rank's part of a data set, each sample exactly once over all ranks (trap T16), in batches of up to `batch`.

    Ranks' parts differ by one sample at most; a rank may get none.
    """
    start, stop = rank * num_samples // world_size, (rank + 1) * num_samples // world_size
    for first in range(start, stop, batch):
        ids = np.arange(first, min(first + batch, stop), dtype=np.int64)
        yield Request(np.zeros_like(ids), ids)
