"""`data.engine: ffcv`: the batches of `trainer.data.loader.Loader`, made by the stock FFCV Loader with our decoders.

FFCV's Loader goes through a data set epoch by epoch, from the beginning, in batches of one size. Training asks for an
endless stream from any position, of which a batch may span two epochs. So its thread is given our requests in the place
of an order of its own: one pass of the Loader is one call of `load`, however long, and requests are drawn when their
turn comes. Its memory, its compiled pipeline, its cache and its queue are at work as in any FFCV pipeline.

What it costs more than our own loader: FFCV's import and compilation, some ten seconds, and seconds and memory for its
tables of the samples (twice a Python loop over them) when the first batch is asked for.
"""

from __future__ import annotations

import importlib
import itertools
import queue
import time
from collections.abc import Generator, Iterable, Iterator
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from trainer.cgroup import default_threads
from trainer.data.beton import Beton
from trainer.data.crops import CropPolicy, draw_colour
from trainer.data.loader import Batch
from trainer.data.order import Request
from trainer.data.transfer import Transfer
from trainer.errors import UsageError

_NOTHING_SKIPPED: Final = np.empty(0, np.int64)


class FfcvLoader:
    """Loads requested samples of `beton`, cropped by `crops`, in the order of the requests: see `Loader`.

    Args:
        threads: decoding threads; 0 means one a core of this process's share.
        prefetch: batches made ahead of the consumer.
        colour_seed: draw numbers for the colour augmentation from this seed; None leaves them zero.
        fill: RGB of the padding, for `PaddedCrop`.

    Raises:
        UsageError: FFCV is not installed.
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
        self.transfer = Transfer(device)
        self.threads = threads or default_threads()
        self.prefetch = prefetch
        self.colour_seed = colour_seed
        self.fill = fill
        self._ops = import_ffcv_ops()
        self._loader: Any = None  # ffcv.loader.Loader
        self._decoder: Any = None  # trainer.data.ffcv_ops.CropDecoder
        self._image, self._label = "", ""

    def load(self, requests: Iterable[Request]) -> Generator[Batch, None, None]:
        """Yield one batch a request; none may be larger than the first. Errors are raised here, wherever they occur.

        Raises:
            RunError: a sample does not decode; the message names it.
        """
        pending = iter(requests)
        first = next(pending, None)
        if first is None:
            return
        if self._loader is None or self._loader.batch_size < len(first.ids):
            self._open(len(first.ids))
        drawn: queue.SimpleQueue[tuple[Request, torch.Tensor]] = queue.SimpleQueue()
        stream = self._draw(itertools.chain([first], pending), drawn)
        batches = self._ops.CheckedPass(self._loader, [], stream, self.beton.describe)
        try:
            while True:
                began = time.perf_counter()
                made = next(batches, None)
                if made is None:
                    return
                request, colour = drawn.get()
                fields = dict(zip(self._loader.pipeline_specs, made, strict=True))
                images, labels = fields[self._image], fields[self._label][:, 0]
                (images, labels, colour), copied = self.transfer([images, labels, colour])
                try:
                    wait = time.perf_counter() - began
                    yield Batch(images, labels, colour, request.ids, _NOTHING_SKIPPED, wait)
                finally:
                    if copied is not None:
                        copied.synchronize()  # FFCV uses the memory again once it is asked for the next batch
        finally:
            batches.leave()

    def _draw(
        self, requests: Iterable[Request], drawn: queue.SimpleQueue[tuple[Request, torch.Tensor]]
    ) -> Iterator[npt.NDArray[np.int64]]:
        """The samples of each batch, for FFCV's thread, and what belongs to them."""
        for request in requests:
            colour = np.zeros((len(request.ids), 3), np.float32)
            if self.colour_seed is not None:
                colour = draw_colour(self.colour_seed, request.epochs, request.ids)
            self._decoder.epochs = request.epochs
            drawn.put((request, torch.from_numpy(colour)))
            yield np.ascontiguousarray(request.ids)

    def _open(self, batch: int) -> None:
        """Make FFCV's Loader for batches of up to `batch`."""
        from ffcv.fields import IntField, RGBImageField
        from ffcv.fields.basics import IntDecoder
        from ffcv.loader import Loader
        from ffcv.reader import Reader
        from ffcv.transforms import ToTensor
        from numba import config

        fields = Reader(str(self.beton.path)).handlers
        self._image = next(name for name, field in fields.items() if isinstance(field, RGBImageField))
        integers = [name for name, field in fields.items() if isinstance(field, IntField)]
        self._label = "label" if "label" in integers else integers[0]
        self._decoder = self._ops.CropDecoder(self.crops, threads=self.threads, fill=self.fill)
        pipelines = {self._image: [self._decoder, ToTensor()], self._label: [IntDecoder(), ToTensor()]}
        self._loader = Loader(
            str(self.beton.path),
            batch,
            # Only our decoder has threads, its own. FFCV gives torch as many: as it has, or numba's limit.
            num_workers=min(torch.get_num_threads(), config.NUMBA_NUM_THREADS),  # type: ignore[attr-defined]
            os_cache=True,
            seed=0,  # without one, FFCV draws one from NumPy's generator
            pipelines={**dict.fromkeys(fields), **pipelines},
            batches_ahead=self.prefetch,
        )


def import_ffcv_ops() -> ModuleType:
    """`trainer.data.ffcv_ops`. FFCV sets torch to one thread when it is imported; torch is left as it was.

    Raises:
        UsageError: FFCV cannot be imported.
    """
    threads = torch.get_num_threads()
    try:
        return importlib.import_module("trainer.data.ffcv_ops")
    except ImportError as error:
        raise UsageError(
            f"data.engine=ffcv: FFCV cannot be imported ({error}); install it with `pip install '.[ffcv]'`, "
            "or set data.engine=native"
        ) from error
    finally:
        torch.set_num_threads(threads)
