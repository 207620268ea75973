"""From a beton to batches on the device: one thread that runs ahead, and a pool of threads that decodes.

The path of an image: memory map -> decode, crop, resize and mirror into its place in a (pinned) batch of bytes ->
asynchronous copy to the device. Float arithmetic (normalisation, colour) happens there, see `trainer.data.colour`.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from trainer.data.beton import MODE_JPEG, Beton
from trainer.data.crops import CropPolicy, Crops, PaddedCrop, draw_colour
from trainer.data.order import Request
from trainer.errors import RunError
from trainer.jpeg import DecodeError, Pixels, crop_pixels, decode, decode_crop

POLL_SECONDS: Final = 5.0
"""How often a waiting consumer makes sure that the thread it waits for is alive."""


@dataclass
class Batch:
    """One batch on the device; valid until the next one is asked for (its memory is used again)."""

    images: torch.Tensor
    """uint8 [b, size, size, 3], RGB."""
    labels: torch.Tensor
    """int64 [b]."""
    colour: torch.Tensor
    """float32 [b, 3]: standard normal draws for the colour augmentation; zeros where there is none."""
    ids: npt.NDArray[np.int64]
    """int64 [b], on the host: which samples these are."""
    wait: float
    """Seconds that the consumer waited for this batch."""


class _Slot:
    """Host memory of one batch, used again and again."""

    def __init__(self, batch: int, size: int, pinned: bool) -> None:
        self.images = torch.empty((batch, size, size, 3), dtype=torch.uint8, pin_memory=pinned)
        self.labels = torch.empty(batch, dtype=torch.int64, pin_memory=pinned)
        self.colour = torch.zeros((batch, 3), dtype=torch.float32, pin_memory=pinned)
        self.copied = torch.cuda.Event() if pinned else None


class Loader:
    """Loads requested samples of `beton`, cropped by `crops`, in the order of the requests.

    Args:
        threads: decoding threads; 0 means one a core of this process's share (see `default_threads`).
        prefetch: batches made ahead of the consumer.
        colour_seed: draw numbers for the colour augmentation from this seed; None leaves them zero.
        fill: RGB of the padding, for `PaddedCrop`.
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
    ) -> None:
        self.beton = beton
        self.crops = crops
        self.device = device
        self.threads = threads or default_threads()
        self.prefetch = prefetch
        self.colour_seed = colour_seed
        self.fill = np.array(fill, np.uint8)
        self._padded = isinstance(crops, PaddedCrop)
        self._slots: list[_Slot] = []
        # Copies have a stream of their own: on that of the network they would wait for the step before.
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def load(self, requests: Iterable[Request]) -> Generator[Batch, None, None]:
        """Yield one batch a request. An error in any thread is raised here, in place of the next batch.

        Raises:
            RunError: a sample does not decode; the message names it.
        """
        ready: queue.SimpleQueue[tuple[_Slot, Request] | BaseException | None] = queue.SimpleQueue()
        free: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        producer = threading.Thread(target=self._produce, args=(requests, ready, free), name="loader", daemon=True)
        producer.start()
        try:
            while True:
                began = time.perf_counter()
                item = self._next(ready, producer)
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                slot, request = item
                yield self._on_device(slot, request, time.perf_counter() - began)
                free.put(slot)
        finally:
            free.put(None)
            producer.join()

    def _next(
        self, ready: queue.SimpleQueue[tuple[_Slot, Request] | BaseException | None], producer: threading.Thread
    ) -> tuple[_Slot, Request] | BaseException | None:
        while True:
            try:
                return ready.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not producer.is_alive() and ready.empty():
                    return RunError(f"{self.beton.path}: the loader's thread died")

    def _on_device(self, slot: _Slot, request: Request, wait: float) -> Batch:
        count = len(request.ids)
        tensors = [slot.images[:count], slot.labels[:count], slot.colour[:count]]
        if self._copies is not None and slot.copied is not None:
            with torch.cuda.stream(self._copies):
                tensors = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
                slot.copied.record(self._copies)
            network = torch.cuda.current_stream(self.device)
            network.wait_event(slot.copied)
            for tensor in tensors:
                tensor.record_stream(network)
        images, labels, colour = tensors
        return Batch(images, labels, colour, request.ids, wait)

    def _produce(
        self,
        requests: Iterable[Request],
        ready: queue.SimpleQueue[tuple[_Slot, Request] | BaseException | None],
        free: queue.SimpleQueue[_Slot | None],
    ) -> None:
        try:
            if self.device.type == "cuda":  # the current device is a thread's own; pinning would go through GPU 0
                torch.cuda.set_device(self.device)
            with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
                pending = iter(requests)
                first = next(pending, None)
                if first is not None:
                    for slot in self._slots_for(len(first.ids)):
                        free.put(slot)
                    for request in itertools.chain([first], pending):
                        free_slot = free.get()
                        if free_slot is None:
                            return
                        self._fill(free_slot, request, pool)
                        ready.put((free_slot, request))
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    def _slots_for(self, batch: int) -> list[_Slot]:
        if not self._slots or len(self._slots[0].labels) < batch:
            pinned = self.device.type == "cuda"
            self._slots = [_Slot(batch, self.crops.size, pinned) for _ in range(self.prefetch + 1)]
        return self._slots

    def _fill(self, slot: _Slot, request: Request, pool: ThreadPoolExecutor) -> None:
        if slot.copied is not None:
            slot.copied.synchronize()
        ids, count = request.ids, len(request.ids)
        slot.labels[:count] = torch.from_numpy(self.beton.labels[ids])
        if self.colour_seed is not None:
            slot.colour[:count] = torch.from_numpy(draw_colour(self.colour_seed, request.epochs, ids))
        crops = self.crops(request.epochs, ids, *self._sides_of(ids))
        images = slot.images.numpy()
        bounds = np.linspace(0, count, min(4 * self.threads, count) + 1).astype(int)
        parts = [pool.submit(self._decode, ids, crops, images, *part) for part in itertools.pairwise(bounds)]
        for part in parts:
            part.result()

    def _sides_of(self, ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return self.beton.widths[ids].astype(np.int64), self.beton.heights[ids].astype(np.int64)

    def _decode(self, ids: npt.NDArray[np.int64], crops: Crops, images: Pixels, start: int, stop: int) -> None:
        boxes = crops.boxes[start:stop].tolist()
        for place, box in enumerate(boxes, start):
            sample = int(ids[place])
            try:
                self._decode_sample(sample, tuple(box), bool(crops.flips[place]), images[place])
            except DecodeError as error:
                raise RunError(f"{self.beton.describe(sample)}: {error}") from error

    def _decode_sample(self, sample: int, box: tuple[float, float, float, float], flip: bool, out: Pixels) -> None:
        record = self.beton.record(sample)
        width, height = int(self.beton.widths[sample]), int(self.beton.heights[sample])
        if self.beton.modes[sample] == MODE_JPEG and not self._padded:
            decode_crop(record, (width, height), box, flip, out)
            return
        if self.beton.modes[sample] == MODE_JPEG:
            pixels = decode(record)
        else:
            pixels = np.frombuffer(record, np.uint8).reshape(height, width, 3)
        if self._padded:
            crop_padded(pixels, (int(box[0]), int(box[1])), flip, self.fill, out)
        else:
            crop_pixels(pixels, box, flip, out)


def crop_padded(pixels: Pixels, corner: tuple[int, int], flip: bool, fill: Pixels, out: Pixels) -> None:
    """Copy the crop whose left top `corner` may lie outside of the image into `out`; outside is the colour `fill`."""
    size, (left, top) = len(out), corner
    rows = slice(max(top, 0), max(min(top + size, pixels.shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + size, pixels.shape[1]), 0))
    out[:] = fill
    out[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = pixels[rows, columns]
    if flip:
        out[:] = out[:, ::-1].copy()


def default_threads() -> int:
    """Cores that this process may use, shared among the processes of its node."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
