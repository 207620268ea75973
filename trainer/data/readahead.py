"""Reading ahead: the kernel is told which parts of the file are needed next, and nothing else is read.

Left alone, the kernel reads megabytes around each record of a random order that it does not find in memory, and throws
most of them away. So the map is declared to be read at random, which turns that off, and the records of the coming
batches are asked for by name (posix_fadvise), all at once, so that the device has a queue to work on. That is a system
call a record, in a thread of its own; where the data are in memory already it is found out, and left out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from trainer.data.beton import Beton
from trainer.data.order import Chunks, Request
from trainer.data.transfer import ThreadDied, next_from
from trainer.errors import RunError

ADVICE_BYTES: Final = 128 << 10
"""Bytes asked for at once. Of more the kernel may drop all but the device's usual read-ahead, mostly 128 KiB."""

GAP_BYTES: Final = 16 << 10
"""Ranges with less between them are read as one: a read of its own would take longer."""

PROBES: Final = 16
"""Records of a request that are looked up in memory ..."""
FOUND: Final = 1024
"""... and how many of them in a row must be there to think that all are: unlikely where one in 200 is not."""

Ints = npt.NDArray[np.int64]
_Item: TypeAlias = Request | BaseException | None


class ReadAhead:
    """Asks for the records of requests up to `batches` before they are decoded.

    Args:
        batches: how far ahead, at least 1.
        chunks: ask for the rest of a chunk, too, when the first of its samples is needed: few large reads in place of
            many small ones. For a node that reads all of the stream; one of several would read what the others need.
    """

    def __init__(self, beton: Beton, batches: int, chunks: Chunks | None = None) -> None:
        self._beton = beton
        self.batches = batches
        self.chunks = chunks
        beton.expect_random_reads()

    def wrap(self, requests: Iterable[Request]) -> Generator[Request, None, None]:
        """The same requests, each when its records have been asked for.

        They are drawn in a thread, up to `batches` ahead of the consumer; an error there is raised here. Closing the
        generator ends the thread.
        """
        asked: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        room, left = threading.Semaphore(self.batches), threading.Event()
        thread = threading.Thread(target=self._ask, args=(requests, asked, room, left), name="read-ahead", daemon=True)
        thread.start()
        try:
            while (item := next_from(asked, thread)) is not None:
                if isinstance(item, BaseException):
                    raise item
                room.release()
                yield item
        except ThreadDied as error:
            raise RunError(f"{self._beton.path}: the thread that reads ahead died") from error
        finally:
            left.set()
            room.release()
            thread.join()

    def _ask(
        self,
        requests: Iterable[Request],
        asked: queue.SimpleQueue[_Item],
        room: threading.Semaphore,
        left: threading.Event,
    ) -> None:
        try:
            with open(self._beton.path, "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                memory = Memory(file.fileno())
                begun = np.full(0 if self.chunks is None else len(self.chunks.starts), -1)
                for request in requests:
                    room.acquire()
                    starts = self._beton.offsets[request.ids]
                    stops = starts + self._beton.sizes[request.ids]
                    held = memory.holds(stops - 1)
                    if not held:
                        _will_need(file.fileno(), starts, stops, left)
                    asked.put(request)
                    if self.chunks is not None and not held:
                        new = begin_chunks(self.chunks, request, begun)
                        _will_need(file.fileno(), self.chunks.starts[new], self.chunks.stops[new], left)
                    if left.is_set():
                        return
            asked.put(None)
        except OSError as error:
            asked.put(RunError(f"{self._beton.path}: cannot be read: {error.strerror}"))
        except BaseException as error:
            asked.put(error)


@contextlib.contextmanager
def reading_ahead(read_ahead: ReadAhead | None, requests: Iterable[Request]) -> Iterator[Iterable[Request]]:
    """The `requests`, read ahead where that is wanted. Its thread ends with the `with` block."""
    if read_ahead is None:
        yield requests
        return
    with contextlib.closing(read_ahead.wrap(requests)) as wrapped:
        yield wrapped


class Memory:
    """Judges by a few bytes of each request whether all of a file is in memory."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._byte = bytearray(1)
        self._found = 0

    def holds(self, positions: Ints) -> bool:
        """Look some of the `positions` (file offsets of bytes) up; True when `FOUND` in a row, now or before, were in
        memory."""
        for position in positions[:: -(-len(positions) // PROBES) or 1].tolist():
            if not self._has(position):
                self._found = 0
                return False
            self._found += 1
        return self._found >= FOUND

    def _has(self, position: int) -> bool:
        try:
            return os.preadv(self._file, [self._byte], position, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return False  # a file system that cannot tell


def begin_chunks(chunks: Chunks, request: Request, begun: Ints) -> Ints:
    """The chunks, int64, whose first sample of an epoch is among the request's; `begun` (int64 [C]) is brought up to
    date: the last epoch that each was begun in, -1 for none."""
    numbers = chunks.numbers[request.ids]
    new = np.unique(numbers[begun[numbers] < request.epochs])
    np.maximum.at(begun, numbers, request.epochs)
    return new


def pieces(starts: Ints, stops: Ints) -> Ints:
    """What to ask for to get the byte ranges from `starts` to `stops`: int64 [p, 2] of start and size, in file order.

    Ranges that nearly touch become one, and long ones are cut.
    """
    order = np.argsort(starts)
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    first = np.ones(len(starts), np.bool_)
    first[1:] = starts[1:] - stops[:-1] > GAP_BYTES
    last = np.roll(first, -1)
    starts, stops = starts[first], stops[last]
    counts = -(-(stops - starts) // ADVICE_BYTES)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    cuts = np.repeat(starts, counts) + place * ADVICE_BYTES
    return np.stack([cuts, np.minimum(np.repeat(stops, counts) - cuts, ADVICE_BYTES)], axis=1)


def _will_need(file: int, starts: Ints, stops: Ints, left: threading.Event) -> None:
    for start, size in pieces(starts, stops).tolist():
        if left.is_set():
            return
        os.posix_fadvise(file, start, size, os.POSIX_FADV_WILLNEED)
