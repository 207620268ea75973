"""Our decoders inside stock FFCV pipelines, in the place of FFCV's own: one changed line.

    pipelines = {
        "image": [ScaleCropDecoder(224, 256, 480, seed=0), ToTensor()],  # was: RandomResizedCropRGBImageDecoder(...)
        "label": [IntDecoder(), ToTensor()],
    }
    loader = ffcv.loader.Loader("train.beton", 256, num_workers=8, os_cache=True, pipelines=pipelines)
    for images, labels in checked(loader): ...

Only the crop is decoded, resized with antialiasing and mirrored on the way. Boxes and flips are those of
`trainer.data.crops`, functions of (seed, epoch, sample): they depend on no worker, order or batch size. The epoch
counts the passes of the Loader from 0 (under `recompile`, only `checked` counts right); `set_epoch` sets it.

FFCV compiles decoders with numba, which freezes what the code sees of Python. So the compiled part only looks up where
the records of a batch lie, and calls back once a batch: NumPy draws the boxes, and a pool of C threads decodes without
the GIL. The call and the draws take about a hundredth of the time of one core's decoding.

When something fails in FFCV's thread, its consumer waits for ever; `checked` raises it instead. In a plain loop over
the Loader, a record that does not decode comes out black, is warned of, and raised when the next pass begins.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from ctypes import CFUNCTYPE, c_int64, c_void_p
from dataclasses import replace
from queue import Empty, Full
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.state import State

from trainer.data.crop_jobs import bytes_at, crop_jobs, explain_job, padding
from trainer.data.crops import CenterCrop, CropPolicy, RandomResizedCrop, ScaleCrop
from trainer.errors import RunError
from trainer.jpeg import Pool

POLL_SECONDS: Final = 0.5
"""How often FFCV's thread, when the queue is full, looks whether its consumer has left."""

Ints = npt.NDArray[np.int64]

_MAKE_CROPS: Final = CFUNCTYPE(None, c_int64, c_void_p, c_void_p)
"""Takes a number of records b, int64 [b, 3] of their (sample, address, bytes), and uint8 [b, size, size, 3] to fill."""


class CropDecoder(SimpleRGBImageDecoder):  # type: ignore[misc]  # FFCV takes decoders of this class, and is untyped
    """Decodes the crops that `policy` draws: uint8 [b, size, size, 3]. For one Loader, and one pass of it at a time.

    Args:
        threads: that decode; 0 means the Loader's `num_workers`.
        fill: RGB of the padding, for `PaddedCrop`.
    """

    def __init__(self, policy: CropPolicy, *, threads: int = 0, fill: tuple[int, int, int] = (0, 0, 0)) -> None:
        super().__init__()
        self.policy = policy
        self.threads = threads
        self._fill_colour = padding(policy, fill)
        self.epochs: int | Ints = 0
        """What keys the draws of the next batch: the pass, or int64 [b], that of each of its samples."""
        self.describe: Callable[[int], str] | None = None
        """How errors name a sample, for whoever calls `check` after every batch. None: nobody does, so warn."""
        self._next_epoch = 0
        self._new_loader = False
        self._pool: Pool | None = None
        self._one_batch = threading.Lock()  # a pass that was left may still be at its last one
        self._callback = _MAKE_CROPS(self._make_crops)  # compiled code has its address: it lives as long as the decoder
        self._failure: BaseException | None = None

    def set_epoch(self, epoch: int) -> None:
        """Key the draws of the Loader's next pass by `epoch`; later passes count on from there."""
        self._next_epoch = epoch

    def check(self) -> None:
        """Raise what has failed since the last time.

        Raises:
            RunError: a record did not decode; the message names it.
        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def accept_globals(self, metadata: npt.NDArray[np.void], memory_read: Callable[..., Any]) -> None:
        """FFCV hands over the metadata of all samples and the compiled function that finds a record in memory."""
        self._new_loader = memory_read is not self.memory_read
        super().accept_globals(metadata, memory_read)

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, tuple[AllocationQuery, ...]]:
        """FFCV asks once when the Loader is made, and then at the beginning of every pass."""
        self.check()
        if self._new_loader:
            self._pool = Pool(self.threads or Compiler.num_threads)
        else:
            self.epochs = self._next_epoch
            self._next_epoch += 1
        shape = (self.policy.size, self.policy.size, 3)
        images, records = AllocationQuery(shape, np.dtype("<u1")), AllocationQuery((3,), np.dtype("<i8"))
        return replace(previous_state, jit_mode=True, shape=shape, dtype=images.dtype), (images, records)

    def generate_code(self) -> Callable[..., Any]:
        """What FFCV compiles."""
        memory_read, make_crops = self.memory_read, self._callback

        def decode(samples, memory, metadata, storage_state):  # type: ignore[no-untyped-def]
            images, records = memory
            for place in range(len(samples)):
                record = memory_read(metadata[samples[place]]["data_ptr"], storage_state)
                records[place, 0] = samples[place]
                records[place, 1] = record.ctypes.data
                records[place, 2] = record.size
            make_crops(len(samples), records.ctypes.data, images.ctypes.data)
            return images[: len(samples)]

        return decode

    def _make_crops(self, count: int, records: int, images: int) -> None:
        try:
            with self._one_batch:
                table = np.ctypeslib.as_array((c_int64 * (3 * count)).from_address(records)).reshape(count, 3)
                self._decode(table[:, 0], table[:, 1], table[:, 2], images)
        except BaseException as error:  # no exception passes through compiled code
            self._failure = self._failure or error
            if self.describe is None:
                warnings.warn(f"{error}", RuntimeWarning, stacklevel=2)

    def _decode(self, ids: Ints, addresses: Ints, sizes: Ints, images: int) -> None:
        assert self._pool is not None
        records, side = self.metadata[ids], self.policy.size
        widths, heights = records["width"].astype(np.int64), records["height"].astype(np.int64)
        crops = self.policy(np.broadcast_to(np.asarray(self.epochs), ids.shape), ids, widths, heights)
        batch = bytes_at(images, len(ids) * side * side * 3).reshape(len(ids), side, side, 3)
        outputs = images + np.arange(len(ids)) * batch.strides[0]
        where = addresses, sizes, records["mode"], widths, heights
        jobs = crop_jobs(*where, crops, outputs, (side, side), self._fill_colour)
        if self._pool.decode(jobs):
            failed = np.flatnonzero(jobs["status"])
            batch[failed] = 0  # no pixels of an earlier image
            name = (self.describe or "sample {}".format)(int(ids[failed[0]]))
            raise RunError(f"{name}: {explain_job(jobs[failed[0]])}")


class ScaleCropDecoder(CropDecoder):
    """The paper's training crop, see `trainer.data.crops.ScaleCrop`."""

    def __init__(
        self, size: int, min_side: int, max_side: int, seed: int, flip: bool = True, *, threads: int = 0
    ) -> None:
        super().__init__(ScaleCrop(size, min_side, max_side, seed, flip), threads=threads)


class RandomResizedCropDecoder(CropDecoder):
    """torchvision's RandomResizedCrop, see `trainer.data.crops.RandomResizedCrop`."""

    def __init__(
        self,
        size: int,
        seed: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
        *,
        threads: int = 0,
    ) -> None:
        super().__init__(RandomResizedCrop(size, seed, scale, ratio, flip), threads=threads)


class CenterCropDecoder(CropDecoder):
    """The evaluation view, see `trainer.data.crops.CenterCrop`: the shorter side `resize`, the centre `size`."""

    def __init__(self, size: int, resize: int, *, threads: int = 0) -> None:
        super().__init__(CenterCrop(size, resize), threads=threads)


class CheckedPass(EpochIterator):  # type: ignore[misc]  # FFCV is untyped
    """One pass over a stock Loader. What fails in its thread is raised in place of the batch that it was met at.

    Args:
        order: samples, cut into batches of the Loader's size.
        batches: in place of the Loader's order: int64 arrays of up to its batch size, each drawn in the thread when its
            turn comes. For a Loader with `os_cache`, since the other cache plans its reads ahead.
        describe: how errors name a sample.
    """

    iter_ixes: Iterator[Sequence[int] | Ints]

    def __init__(
        self,
        loader: Loader,
        order: Sequence[int],
        batches: Iterable[Ints] | None = None,
        describe: Callable[[int], str] | None = None,
    ) -> None:
        self._error: BaseException | None = None
        self._batches = batches
        decoders = (spec.decoder for spec in loader.pipeline_specs.values())
        self._decoders = [decoder for decoder in decoders if isinstance(decoder, CropDecoder)]
        for decoder in self._decoders:
            decoder.describe = describe or (lambda sample: f"{loader.fname}: sample {sample}")
        super().__init__(loader, order)

    def run(self) -> None:
        """FFCV's thread."""
        # FFCV itself looks whether its consumer has left when the queue is full, and only then.
        batches = self.iter_ixes if self._batches is None else self._batches
        self.iter_ixes = itertools.takewhile(lambda _: not self.terminate_event.is_set(), batches)
        try:
            super().run()
        except BaseException as error:
            self._error = error
            self._put_end()

    def run_pipeline(self, number: int, samples: Sequence[int], *memory: Any) -> tuple[Any, ...]:
        """Make one batch, in FFCV's thread."""
        if len(samples) > self.loader.batch_size:  # compiled code would write beyond the end
            raise ValueError(f"a batch of {len(samples)} in a Loader of batches of {self.loader.batch_size}")
        batch: tuple[Any, ...] = super().run_pipeline(number, samples, *memory)
        for decoder in self._decoders:
            decoder.check()
        return batch

    def __next__(self) -> tuple[Any, ...]:
        try:
            batch: tuple[Any, ...] = super().__next__()
            return batch
        except StopIteration:
            if self._error is None:
                raise
        raise self._error

    def leave(self) -> None:
        """End the thread, wherever it is."""
        if not self.terminate_event.is_set():
            self.close()
        while self.is_alive():
            try:
                self.output_queue.get(timeout=0.01)
            except Empty:
                self.join(timeout=0.01)
        for decoder in self._decoders:
            decoder.describe = None

    def _put_end(self) -> None:
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(None, timeout=POLL_SECONDS)
                return
            except Full:
                pass


def checked(loader: Loader) -> Generator[tuple[Any, ...], None, None]:
    """One pass over a stock FFCV Loader, as `for batch in loader`, but nothing that fails goes unnoticed.

    The epoch of our decoders is the Loader's `next_epoch`. Closing the generator ends FFCV's thread.

    Raises:
        RunError: a record did not decode; the message names it.
        Exception: whatever else ended FFCV's thread.
    """
    if loader.recompile:
        loader.generate_code()
    Compiler.set_num_threads(loader.num_workers)
    order = loader.next_traversal_order()[: len(loader) * loader.batch_size]
    for spec in loader.pipeline_specs.values():
        if isinstance(spec.decoder, CropDecoder):
            spec.decoder.set_epoch(loader.next_epoch)
    loader.next_epoch += 1
    batches = CheckedPass(loader, order)
    try:
        yield from batches
    finally:
        batches.leave()
