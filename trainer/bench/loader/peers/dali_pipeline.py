"""NVIDIA DALI without a GPU: bytes from the memory map, only the crop decoded, antialiased bilinear resize."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from trainer.bench.loader.work import Pixels, Work, crops_of, windows_of
from trainer.data.beton import Beton
from trainer.data.order import Request


class DaliPipeline:
    """A pipeline of `workers` threads with DALI's default of two batches ahead."""

    def __init__(self, work: Work, workers: int) -> None:
        self._work = work
        self._beton = Beton(work.beton)
        self._requests: list[Request] = []
        self._pending: Iterator[Request] = iter(())
        self._pipeline = Pipeline(batch_size=work.batch, num_threads=workers, device_id=None)
        with self._pipeline:
            records, starts, shapes, flips = fn.external_source(
                self._next, num_outputs=4, batch=True, dtype=[types.UINT8, types.INT32, types.INT32, types.INT32]
            )
            # Starts and shapes are (width, height), as the axes say.
            images = fn.decoders.image_slice(records, start=starts, shape=shapes, axis_names="WH", device="cpu")
            images = fn.resize(images, size=(work.size, work.size), interp_type=types.INTERP_LINEAR, antialias=True)
            self._pipeline.set_outputs(fn.flip(images, horizontal=flips))
        self._pipeline.build()

    def prepare(self, epoch: int) -> None:
        self._requests = self._work.requests(len(self._beton), epoch)
        self._pending = iter(self._requests)
        self._pipeline.reset()

    def batches(self) -> Iterator[Any]:
        while True:
            try:
                (images,) = self._pipeline.run()
            except StopIteration:
                return
            yield images.as_tensor()

    def pixels(self, batch: Any) -> Pixels:
        return np.asarray(batch)

    def first_request(self) -> Request:
        return self._requests[0]

    def _next(self) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        request = next(self._pending)  # its StopIteration ends the epoch
        crops = crops_of(self._work, self._beton, request)
        windows = windows_of(crops, self._beton, request).astype(np.int32)
        records = [np.frombuffer(self._beton.record(sample), np.uint8) for sample in request.ids.tolist()]
        starts, shapes = np.ascontiguousarray(windows[:, :2]), np.ascontiguousarray(windows[:, 2:])
        return records, starts, shapes, crops.flips.astype(np.int32)


def open_variant(name: str, work: Work, workers: int) -> DaliPipeline:
    return DaliPipeline(work, workers)
