"""A beton copied and verified in one pass.

Threads take part after part: each reads it in blocks that stay in the processor's cache while they are summed and
written, and compares the sum with the manifest's. All of it releases the GIL. Where there is no manifest nothing says
what the bytes should be, so the copy is read again and compared with what was read before.

The kernel is told to forget what was read of the source, which nobody reads again, and to begin to write the copy to
its disk at once, not only at the end. The copy stays in the page cache as far as memory is free: it is read next.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Final

from xxhash import xxh3_128

from trainer.data.beton import open_regular
from trainer.errors import RunError, UsageError
from trainer.staging.source import Part, Source

THREADS: Final = 4
"""Network file systems give one reader less than they have."""

BLOCK: Final = 1 << 20
"""Bytes that are read, summed and written at once: what a core's own cache holds."""

LOOK_SECONDS: Final = 0.2
"""Between two looks at how far the threads are."""

FALLOC_FL_KEEP_SIZE: Final = 1
"""Of linux/falloc.h."""

Update = Callable[[int], None]
"""Is told the bytes that are done."""


def copy_beton(source: Source, target: Path, update: Update) -> None:
    """Write the new file `target`, durable and equal to `source`.

    Raises:
        UsageError: a part of the source is not what its manifest says.
        RunError: the source changed meanwhile.
        OSError: either cannot be read or written, or the copy is not what was written; `filename` says which.
    """
    with open_regular(source.path) as original, _naming(target), open(target, "xb", buffering=0) as copy:
        _reserve(copy.fileno(), source.length)
        found = _Pass(source.path, original.fileno(), (target, copy.fileno()), source.parts).run(update)
        os.fchmod(copy.fileno(), 0o400)  # nobody changes by mistake what others read
        os.fsync(copy.fileno())
    if all(part.checksum for part in source.parts):
        return
    now = os.stat(source.path)
    if (now.st_size, now.st_mtime_ns) != (source.length, source.modified):
        raise RunError(f"{source.path}: changed while it was copied; wait until it is whole, and start again")
    with open_regular(target) as copy_again:
        _forget(copy_again.fileno(), 0, source.length)
        try:
            _Pass(target, copy_again.fileno(), None, found).run(lambda done: update(source.length))
        except UsageError as error:
            raise OSError(0, "the copy is not what was written into it", str(target)) from error


class _Pass:
    """All parts of a file read once, compared with their checksums, and written to `target`, if there is one."""

    def __init__(self, path: Path, file: int, target: tuple[Path, int] | None, parts: list[Part]) -> None:
        self._path, self._file, self._target = path, file, target
        self._waiting = deque(parts)
        self._found: dict[int, Part] = {}
        self._done = 0
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, update: Update) -> list[Part]:
        """The parts in order, with the checksums that were found."""
        with ThreadPoolExecutor(THREADS, "stage") as threads:
            try:
                working = {threads.submit(self._work) for _ in range(THREADS)}
                while working:
                    ended, working = wait(working, LOOK_SECONDS, FIRST_EXCEPTION)
                    for future in ended:
                        future.result()
                    update(self._done)
            finally:
                self._stopped = True
        return [self._found[start] for start in sorted(self._found)]

    def _work(self) -> None:
        block = memoryview(bytearray(BLOCK))
        with contextlib.suppress(IndexError):  # of an empty deque: nothing is left to do
            while not self._stopped:
                part = self._waiting.popleft()
                self._found[part.start] = self._pass_on(part, block)

    def _pass_on(self, part: Part, block: memoryview) -> Part:
        summed = xxh3_128()
        for start in range(part.start, part.end, BLOCK):
            content = block[: min(BLOCK, part.end - start)]
            self._read(content, start)
            summed.update(content)
            if self._target is not None:
                _write(*self._target, content, start)
            with self._lock:
                self._done += len(content)
            if self._stopped:
                return part
        if part.checksum not in (None, summed.hexdigest()):
            raise UsageError(
                f"{self._path}: {part} is not what was written (its checksum differs); copy it again from a sound "
                f"one, or convert again; `python -m data_prep verify {self._path}` lists all damage"
            )
        _forget(self._file, part.start, part.end)
        if self._target is not None:
            _forget(self._target[1], part.start, part.end)  # what is not on the disk yet begins to be written
        return replace(part, checksum=summed.hexdigest())

    def _read(self, content: memoryview, start: int) -> None:
        with _naming(self._path):
            while content:
                count = os.preadv(self._file, [content], start)
                if count == 0:
                    raise RunError(f"{self._path}: became shorter while it was copied; restore it, and start again")
                content, start = content[count:], start + count


def _write(path: Path, file: int, content: memoryview, start: int) -> None:
    with _naming(path):
        while content:
            count = os.pwrite(file, content, start)
            content, start = content[count:], start + count


def _reserve(file: int, length: int) -> None:
    """Take the room for `length` bytes now: others who look see that it is taken, and a lack of it shows at once.

    Not posix_fallocate(3), which writes to every block where the file system has no such call.

    Raises:
        OSError: there is no room.
    """
    if ctypes.CDLL(None, use_errno=True).fallocate(file, FALLOC_FL_KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(length)):
        number = ctypes.get_errno()
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(number, os.strerror(number))


def _forget(file: int, start: int, end: int) -> None:
    """Have the kernel begin to write these bytes, and drop from its cache what is written."""
    os.posix_fadvise(file, start, end - start, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error says which file it is of; the system does not where it is told a number."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
