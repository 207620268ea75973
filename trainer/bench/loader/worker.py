"""The process that one loader has for itself: it runs an epoch when told to, and rests otherwise.

Loaders set thread counts, hold gigabytes and start processes; none of that reaches the others this way.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np

from trainer.bench.loader.messages import Check, Epoch, Task
from trainer.bench.loader.peers import Variant
from trainer.bench.loader.work import Pixels, reference
from trainer.bench.resources import cpu_seconds
from trainer.data.beton import Beton
from trainer.data.order import Request
from trainer.errors import RunError, UsageError

CHECKED: Final = 32
"""Images of the first batch that are compared."""

SAMPLED_PIXELS: Final = 8
"""Of the other batches, one pixel in so many, in both directions, goes into the mean level."""


def serve(connection: Connection) -> None:
    """Answer `Task`, then `"warm up"`, `"check"` and numbers of epochs, until the other end is closed."""
    task: Task = connection.recv()
    runner = _Runner(task)
    connection.send("ready")
    while True:
        message = connection.recv()
        connection.send(runner.warm_up() if message == "warm up" else runner.answer(message))


class _Runner:
    def __init__(self, task: Task) -> None:
        self._work = task.work
        self._variant: Variant = task.peer.open(task.work, task.workers)
        self._rested_from = cpu_seconds()
        self._first: tuple[Request | None, Pixels] | None = None
        self._levels: list[float] = []

    def warm_up(self) -> int:
        """Epoch 0, not timed: compiles, fills caches, keeps what `check` needs. Returns its number of images."""
        self._variant.prepare(0)
        request = self._variant.first_request()
        images = 0
        for batch in self._variant.batches():
            pixels = self._variant.pixels(batch)
            images += len(pixels)
            self._levels.append(float(pixels[:, ::SAMPLED_PIXELS, ::SAMPLED_PIXELS].mean()))
            if self._first is None:
                self._first = request, pixels[:CHECKED].copy()
        self._rested_from = cpu_seconds()
        return images

    def answer(self, message: Any) -> Epoch | Check:
        return self._check() if message == "check" else self._epoch(int(message))

    def _check(self) -> Check:
        assert self._first is not None
        request, pixels = self._first
        difference = None
        if request is not None:
            asked = Request(request.epochs[:CHECKED], request.ids[:CHECKED])
            expected = reference(self._work, Beton(self._work.beton), asked)
            difference = float(np.abs(pixels.astype(np.int16) - expected).mean())
        self._rested_from = cpu_seconds()
        return Check(difference, float(np.mean(self._levels)))

    def _epoch(self, number: int) -> Epoch:
        idle = cpu_seconds() - self._rested_from
        self._variant.prepare(number)
        images = 0
        cpu, began = cpu_seconds(), time.perf_counter()
        for _ in self._variant.batches():
            images += self._work.batch
        seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
        self._rested_from = cpu_seconds()
        return Epoch(images, seconds, cpu, idle)


def _end_with(reason: BaseException) -> None:
    """End at once, whatever other threads wait for. The last line of the log is the reason."""
    if isinstance(reason, (UsageError, RunError)):
        lines = [str(reason)]
    else:
        traceback.print_exception(reason)
        lines = str(reason).strip().splitlines()[:1]
        lines = [f"{type(reason).__name__}: {lines[0]}" if lines else type(reason).__name__]
    print(*lines, file=sys.stderr, flush=True)
    os._exit(1)


def main() -> None:
    # A library's thread that fails would leave its consumer waiting for ever.
    threading.excepthook = lambda failed: _end_with(failed.exc_value or RunError("a thread failed"))
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, ConnectionResetError, BrokenPipeError):  # nobody asks any more
        os._exit(0)
    except BaseException as error:
        _end_with(error)


if __name__ == "__main__":
    main()
