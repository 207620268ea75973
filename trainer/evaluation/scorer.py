"""Scores of many views of many images, in batches that are full whatever sizes the views have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.data.cut_loader import Block
from trainer.data.order import Ints
from trainer.data.views import Cut, View
from trainer.evaluation.network import Network, average
from trainer.evaluation.protocols import Pool, Protocol, Score

WAITING_BYTES: Final = 256 << 20
"""Pixels that may wait for others of their size before their batch is run as it is."""


class _Kind(NamedTuple):
    """Cuts that can share a batch."""

    height: int
    width: int
    whole: bool
    plain: bool
    """Whether the network sees them as they are ..."""
    mirrored: bool
    """... and mirrored."""


@dataclass
class _Waiting:
    images: list[Tensor] = field(default_factory=list)
    rows: list[Ints] = field(default_factory=list)
    cuts: list[Ints] = field(default_factory=list)
    count: int = 0


class Scorer:
    """Collects blocks of cuts, runs them in batches, and keeps each view's scores.

    Args:
        networks: their scores are averaged.
        cuts: what the blocks' numbers mean.
        rows: images that scores are kept of.
        batch: crops in one forward pass; of larger images as many as have the same pixels.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        protocols: Sequence[Protocol],
        cuts: Sequence[Cut],
        *,
        rows: int,
        classes: int,
        batch: int,
        score: Score,
        device: torch.device,
    ) -> None:
        self._networks, self._protocols, self._cuts = networks, protocols, list(cuts)
        self._size, self._batch, self._score = networks[0].size, batch, score
        self._pool: Pool = next((p.pool for p in protocols if p.pool is not None), "dense")
        views = {view for protocol in protocols for view in protocol.views}
        uses = [(c.place == "whole", View(c) in views, View(c, mirrored=True) in views) for c in cuts]
        self._uses = np.array(uses)
        self._scores = torch.empty((rows, len(cuts), 2, classes), device=device)
        self._waiting: dict[_Kind, _Waiting] = {}

    def add(self, block: Block, first_row: int) -> None:
        """Take the cuts of a block; the rows of its images' scores begin at `first_row`."""
        rows, uses = first_row + block.places, self._uses[block.cuts]
        for use in np.unique(uses, axis=0):
            chosen = (uses == use).all(axis=1)
            whole, plain, mirrored = use.tolist()
            kind = _Kind(block.images.shape[1], block.images.shape[2], whole, plain, mirrored)
            images = block.images
            if not chosen.all():
                images = images.index_select(0, _on_device(np.flatnonzero(chosen), images.device))
            self._add(kind, images, rows[chosen], block.cuts[chosen])
        while sum(_bytes(kind) * waiting.count for kind, waiting in self._waiting.items()) > WAITING_BYTES:
            self._run(max(self._waiting, key=lambda kind: _bytes(kind) * self._waiting[kind].count))

    def finish(self) -> dict[str, Tensor]:
        """Run what waits, and return the scores by the protocols' names: float32 [rows, classes], see `Score`."""
        for kind in list(self._waiting):
            self._run(kind)
        found = {}
        for protocol in self._protocols:
            cuts = [self._cuts.index(view.cut) for view in protocol.views]
            mirrored = [int(view.mirrored) for view in protocol.views]
            found[protocol.name] = average(self._scores[:, cuts, mirrored], 1, self._score)
        return found

    def _add(self, kind: _Kind, images: Tensor, rows: Ints, cuts: Ints) -> None:
        limit = max(1, self._batch * self._size**2 // (kind.height * kind.width))
        first = 0
        while first < len(rows):
            waiting = self._waiting.setdefault(kind, _Waiting())
            stop = min(first + limit - waiting.count, len(rows))
            full = waiting.count + stop - first == limit
            part = images[first:stop]
            waiting.images.append(part if full else part.clone())  # what waits outlives the block
            waiting.rows.append(rows[first:stop])
            waiting.cuts.append(cuts[first:stop])
            waiting.count += stop - first
            first = stop
            if full:
                self._run(kind)

    def _run(self, kind: _Kind) -> None:
        waiting = self._waiting.pop(kind)
        images = waiting.images[0] if len(waiting.images) == 1 else torch.cat(waiting.images)
        device = self._scores.device
        rows, cuts = (_on_device(np.concatenate(parts), device) for parts in (waiting.rows, waiting.cuts))
        for mirrored in [False] * kind.plain + [True] * kind.mirrored:
            seen = images.flip(2) if mirrored else images
            scores = [self._score_of(network, seen, kind.whole) for network in self._networks]
            self._scores[rows, cuts, int(mirrored)] = average(torch.stack(scores), 0, self._score)

    def _score_of(self, network: Network, images: Tensor, whole: bool) -> Tensor:
        if whole:
            return network.score_whole(images, self._score, self._pool)
        return network.score_crops(images, self._score)


def _on_device(indices: Ints, device: torch.device) -> Tensor:
    """Without waiting for the device, as a copy from pageable memory would."""
    host = torch.from_numpy(indices)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def _bytes(kind: _Kind) -> int:
    return 3 * kind.height * kind.width
