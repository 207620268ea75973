"""From a beton to cuts of its images on the device: every image is read and decoded once, however many cuts it has.

Cuts of one size lie in one block, whatever image they are of, so that batches for the network are filled from blocks
without padding (see `trainer.evaluation.scorer`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from trainer.cgroup import default_threads
from trainer.data.ahead import Ahead
from trainer.data.beton import Beton
from trainer.data.crop_jobs import crop_jobs, explain_job
from trainer.data.crops import Crops
from trainer.data.order import Ints, Request
from trainer.data.transfer import Transfer
from trainer.data.views import Cut
from trainer.errors import RunError
from trainer.jpeg import Pool

REQUEST_BYTES: Final = 64 << 20
"""Of a request: 445 images with one crop of 224 pixels, 74 with the six of ten-crop, 14 with those of five scales."""


@dataclass
class Block:
    """Cuts of one size; valid until the next request's are asked for."""

    images: torch.Tensor
    """uint8 [k, h, w, 3], RGB, on the device."""
    places: Ints
    """int64 [k], on the host: the place of each one's image in the request."""
    cuts: Ints
    """int64 [k], on the host: which of the loader's cuts each is."""


@dataclass
class CutBatch:
    """The cuts of a request's images."""

    blocks: list[Block]
    labels: Ints
    """int64 [n], on the host."""
    ids: Ints
    """int64 [n], on the host."""


class _Slot:
    """Host memory of the pixels of a request."""

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._memory = torch.empty(0, dtype=torch.uint8)
        self.copied: torch.cuda.Event | None = None

    def room(self, count: int) -> torch.Tensor:
        """uint8 [count]. What was in it before is on the device."""
        if self.copied is not None:
            self.copied.synchronize()
        if len(self._memory) < count:
            self._memory = torch.empty(count, dtype=torch.uint8, pin_memory=self._pinned)
        return self._memory[:count]


@dataclass
class _Layout:
    """Where the cuts of a request's images lie in its memory. Arrays are [images, cuts] of int64 unless said."""

    boxes: np.ndarray
    """float64 [images, cuts, 4]."""
    heights: Ints
    widths: Ints
    offsets: Ints
    blocks: list[Ints]
    """Flat indices [k] of cuts of one size, in the order of their offsets."""
    total: int


@dataclass
class _Made:
    pixels: torch.Tensor
    """uint8 [total], in the slot."""
    layout: _Layout
    ids: Ints


class CutLoader:
    """Loads the `cuts` of requested images of `beton`, with the pixels that libjpeg-turbo and Pillow give.

    Args:
        size: side of a crop in pixels.
        threads: decoding threads; 0 means one a core of this process's share.
        prefetch: requests made ahead of the consumer.
    """

    def __init__(
        self,
        beton: Beton,
        cuts: Sequence[Cut],
        size: int,
        device: torch.device,
        *,
        threads: int = 0,
        prefetch: int = 2,
    ) -> None:
        self.beton = beton
        self.cuts = tuple(cuts)
        self.size = size
        self.transfer = Transfer(device)
        self.device = self.transfer.device
        self.threads = threads or default_threads()
        self.prefetch = prefetch

    def requests(self, ids: Ints, most: int) -> list[Request]:
        """Cut `ids` into requests of up to `most` images, and no more pixels than fit (but at least one image)."""
        ends = np.cumsum(self._pixel_bytes(ids))
        requests, first = [], 0
        while first < len(ids):
            before = ends[first - 1] if first else 0
            fitting = int(np.searchsorted(ends, before + REQUEST_BYTES, side="right"))
            stop = max(first + 1, min(fitting, first + most))
            part = ids[first:stop]
            requests.append(Request(np.zeros_like(part), part))
            first = stop
        return requests

    def load(self, requests: Iterable[Request]) -> Generator[CutBatch, None, None]:
        """Yield the cuts of each request. An error in any thread is raised here, in place of the next.

        Raises:
            RunError: an image does not decode; the message names it.
        """
        ahead = Ahead(self._slots_for, self._make, self.transfer, self.threads, str(self.beton.path))
        with contextlib.closing(ahead.run(requests)) as batches:
            for slot, made, _ in batches:
                yield self._on_device(slot, made)

    def _slots_for(self, first: Request) -> list[_Slot]:
        return [_Slot(self.device.type == "cuda") for _ in range(self.prefetch + 1)]

    def _pixel_bytes(self, ids: Ints) -> Ints:
        total = np.zeros(len(ids), np.int64)
        for cut in self.cuts:
            _, heights, widths = cut.boxes(self.size, *self._sides(ids))
            total += 3 * heights * widths
        return total

    def _sides(self, ids: Ints) -> tuple[Ints, Ints]:
        return self.beton.widths[ids].astype(np.int64), self.beton.heights[ids].astype(np.int64)

    def _make(self, slot: _Slot, request: Request, pool: Pool) -> _Made:
        beton, ids = self.beton, request.ids
        widths, heights = self._sides(ids)
        layout = _lay_out(self.cuts, self.size, widths, heights)
        memory = slot.room(layout.total)
        # An image's cuts follow each other, so that the pool decodes it once.
        image = np.repeat(np.arange(len(ids)), len(self.cuts))
        crops = Crops(layout.boxes.reshape(-1, 4), np.zeros(len(image), np.bool_))
        jobs = crop_jobs(
            beton.address + beton.offsets[ids][image],
            beton.sizes[ids][image],
            beton.modes[ids][image],
            widths[image],
            heights[image],
            crops,
            memory.data_ptr() + layout.offsets.ravel(),
            (layout.heights.ravel(), layout.widths.ravel()),
            0,
            exact=True,
        )
        if pool.decode(jobs):
            failed = int(np.flatnonzero(jobs["status"])[0])
            raise RunError(f"{beton.describe(int(ids[image[failed]]))}: {explain_job(jobs[failed])}")
        return _Made(memory, layout, ids)

    def _on_device(self, slot: _Slot, made: _Made) -> CutBatch:
        layout, count = made.layout, len(self.cuts)
        (pixels,), slot.copied = self.transfer([made.pixels])
        blocks = []
        for flat in layout.blocks:
            height, width = int(layout.heights.ravel()[flat[0]]), int(layout.widths.ravel()[flat[0]])
            first = int(layout.offsets.ravel()[flat[0]])
            images = pixels[first : first + len(flat) * height * width * 3].view(len(flat), height, width, 3)
            blocks.append(Block(images, flat // count, flat % count))
        return CutBatch(blocks, self.beton.labels[made.ids], made.ids)


def _lay_out(cuts: Sequence[Cut], size: int, widths: Ints, heights: Ints) -> _Layout:
    made = [cut.boxes(size, widths, heights) for cut in cuts]
    boxes, out_heights, out_widths = (np.stack(values, axis=1) for values in zip(*made, strict=True))
    order = np.lexsort((out_widths.ravel(), out_heights.ravel()))  # stable: cuts of an image stay in order
    counts = 3 * (out_heights * out_widths).ravel()[order]
    ends = np.cumsum(counts)
    offsets = np.empty(len(order), np.int64)
    offsets[order] = ends - counts
    sides = np.stack([out_heights.ravel()[order], out_widths.ravel()[order]], axis=1)
    starts = np.flatnonzero(np.any(sides[1:] != sides[:-1], axis=1)) + 1
    blocks = np.split(order, starts)
    return _Layout(boxes, out_heights, out_widths, offsets.reshape(out_heights.shape), blocks, int(ends[-1]))
