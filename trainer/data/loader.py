"""From a beton to batches on the device: one thread that runs ahead, and a pool of C threads that decodes.

The path of an image: memory map -> decode, crop, resize and mirror into its place in a (pinned) batch of bytes ->
asynchronous copy to the device. Float arithmetic (normalisation, colour) happens there, see `trainer.data.colour`.
Python does its part by the batch: NumPy draws the crops, and one call, without the GIL, makes all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from trainer.cgroup import default_threads
from trainer.data.ahead import Ahead
from trainer.data.beton import Beton
from trainer.data.crop_jobs import crop_jobs, explain_job, padding
from trainer.data.crops import CropPolicy, draw_colour
from trainer.data.order import MAX_REPLACEMENTS, Ints, Request, draw_replacements
from trainer.data.transfer import Transfer
from trainer.errors import RunError
from trainer.jpeg import Pixels, Pool


@dataclass
class Batch:
    """One batch on the device; valid until the next one is asked for (its memory is used again)."""

    images: torch.Tensor
    """uint8 [b, size, size, 3], RGB; `size` is the request's."""
    labels: torch.Tensor
    """int64 [b]."""
    colour: torch.Tensor
    """float32 [b, 3]: standard normal draws for the colour augmentation; zeros where there is none."""
    ids: Ints
    """int64 [b], on the host: which samples these are."""
    skipped: Ints
    """int64 [k], on the host: samples that did not decode, in whose places others were taken. Mostly none."""
    wait: float
    """Seconds that the consumer waited for this batch."""


class _Slot:
    """Host memory of one batch of crops up to `size`, used again and again."""

    def __init__(self, batch: int, size: int, pinned: bool) -> None:
        self._batch, self._size = batch, size
        self._pixels = torch.empty(batch * size * size * 3, dtype=torch.uint8, pin_memory=pinned)
        self.labels = torch.empty(batch, dtype=torch.int64, pin_memory=pinned)
        self.colour = torch.zeros((batch, 3), dtype=torch.float32, pin_memory=pinned)
        self.copied: torch.cuda.Event | None = None
        """When the device has what was in it last."""

    def images(self, count: int, size: int) -> torch.Tensor:
        """uint8 [count, size, size, 3]: its memory, as far as that takes it."""
        if count > self._batch:
            raise ValueError(f"a batch of {count} after a first one of {self._batch}")
        if size > self._size:
            raise ValueError(f"crops of {size} px, larger than the loader's of {self._size}")
        return self._pixels[: count * size * size * 3].view(count, size, size, 3)


@dataclass
class _Made:
    """A batch in host memory."""

    images: torch.Tensor
    ids: Ints
    skipped: Ints


class Loader:
    """Loads requested samples of `beton`, cropped by `crops`, in the order of the requests.

    A request may ask for smaller images than those of `crops`: of the same boxes, resized to fewer pixels, in the same
    memory.

    Args:
        threads: decoding threads; 0 means one a core of this process's share (see `cgroup.default_threads`).
        prefetch: batches made ahead of the consumer.
        colour_seed: draw numbers for the colour augmentation from this seed; None leaves them zero.
        fill: RGB of the padding, for `PaddedCrop`.
        replacement_seed: draw other samples from this seed for those that do not decode (see `draw_replacements`);
            None: they are an error.
    """

    def __init__(
        self,
        beton: Beton,
        crops: CropPolicy,
        device: torch.device,
        *,
        threads: int = 0,
        prefetch: int = 2,
        colour_seed: int | None = None,
        fill: tuple[int, int, int] = (0, 0, 0),
        replacement_seed: int | None = None,
    ) -> None:
        self.beton = beton
        self.crops = crops
        self.transfer = Transfer(device)
        self.device = self.transfer.device
        self.threads = threads or default_threads()
        self.prefetch = prefetch
        self.colour_seed = colour_seed
        self.replacement_seed = replacement_seed
        self._fill_colour = padding(crops, fill)
        self._slots: list[_Slot] = []

    def load(self, requests: Iterable[Request]) -> Generator[Batch, None, None]:
        """Yield one batch a request. An error in any thread is raised here, in place of the next batch.

        Raises:
            RunError: a sample does not decode, and there is no replacement for it; the message names it.
        """
        ahead = Ahead(self._slots_for, self._make, self.transfer, self.threads, str(self.beton.path))
        with contextlib.closing(ahead.run(requests)) as batches:
            for slot, made, wait in batches:
                yield self._on_device(slot, made, wait)

    def _on_device(self, slot: _Slot, made: _Made, wait: float) -> Batch:
        count = len(made.ids)
        tensors, slot.copied = self.transfer([made.images, slot.labels[:count], slot.colour[:count]])
        images, labels, colour = tensors
        return Batch(images, labels, colour, made.ids, made.skipped, wait)

    def _slots_for(self, first: Request) -> list[_Slot]:
        batch = len(first.ids)
        if not self._slots or len(self._slots[0].labels) < batch:
            pinned = self.device.type == "cuda"
            self._slots = [_Slot(batch, self.crops.size, pinned) for _ in range(self.prefetch + 1)]
        return self._slots

    def _make(self, slot: _Slot, request: Request, pool: Pool) -> _Made:
        if slot.copied is not None:
            slot.copied.synchronize()
        images = slot.images(len(request.ids), request.size or self.crops.size)
        ids, skipped = self._decode(images.numpy(), request, pool)
        slot.labels[: len(ids)] = torch.from_numpy(self.beton.labels[ids])
        if self.colour_seed is not None:
            slot.colour[: len(ids)] = torch.from_numpy(draw_colour(self.colour_seed, request.epochs, ids))
        return _Made(images, ids, skipped)

    def _decode(self, images: Pixels, request: Request, pool: Pool) -> tuple[Ints, Ints]:
        """Make the `images`; returns which samples they are of (int64 [b]), and which were skipped (int64 [k])."""
        beton, ids = self.beton, request.ids.copy()
        places, skipped = np.arange(len(ids)), [np.empty(0, np.int64)]
        for attempt in range(MAX_REPLACEMENTS + 1):
            chosen = ids[places]
            widths, heights = beton.widths[chosen].astype(np.int64), beton.heights[chosen].astype(np.int64)
            crops = self.crops(request.epochs[places], chosen, widths, heights)
            records = beton.address + beton.offsets[chosen], beton.sizes[chosen], beton.modes[chosen], widths, heights
            outputs = images.ctypes.data + places * images.strides[0]
            jobs = crop_jobs(*records, crops, outputs, images.shape[1:3], self._fill_colour)
            if not pool.decode(jobs):
                return ids, np.concatenate(skipped)
            failed = np.flatnonzero(jobs["status"])
            if self.replacement_seed is None or attempt == MAX_REPLACEMENTS:
                first = failed[0]
                asked_for = int(request.ids[places[first]])
                tried = f" (the last of {attempt} replacements for sample {asked_for})" if attempt else ""
                raise RunError(f"{beton.describe(int(chosen[first]))}{tried}: {explain_job(jobs[first])}")
            skipped.append(chosen[failed])
            places = places[failed]
            epochs, asked = request.epochs[places], request.ids[places]
            ids[places] = draw_replacements(len(beton), self.replacement_seed, epochs, asked, attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")
