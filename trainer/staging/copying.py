"""A beton copied and verified in one pass.

Each part is read in blocks that stay in the processor's cache while they are summed and written, and its sum is
compared with the manifest's. Where there is no manifest nothing says what the bytes should be, so the copy is read
again and compared with what was read before.

One thread: several were slower, as the kernel then sees no sequence to read ahead of, and asking for more by hand was,
too. The kernel is told to forget what was read of the source, which nobody reads again, and to begin to write the copy
to its disk at once, not only at the end. The copy stays in the page cache as far as memory is free: it is read next.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from xxhash import xxh3_128

from trainer.data.beton import open_regular
from trainer.errors import RunError, UsageError
from trainer.staging.source import Part, Source

BLOCK: Final = 1 << 20
"""Bytes that are read, summed and written at once: what a core's own cache holds."""

FALLOC_FL_KEEP_SIZE: Final = 1
"""Of linux/falloc.h."""

Update = Callable[[int], None]
"""Is told the bytes that are done; may be called often."""


@dataclass(frozen=True)
class _File:
    """An open file, and the path for errors: the system does not say it where it is told a number."""

    path: Path
    number: int

    def read(self, content: memoryview, start: int) -> None:
        """Fill `content` with the bytes from `start` on."""
        while content:
            with _naming(self.path):
                count = os.preadv(self.number, [content], start)
            if count == 0:
                raise RunError(f"{self.path}: became shorter while it was copied; restore it, and start again")
            content, start = content[count:], start + count

    def write(self, content: memoryview, start: int) -> None:
        """Write all of `content` at `start`."""
        while content:
            with _naming(self.path):
                count = os.pwrite(self.number, content, start)
            content, start = content[count:], start + count

    def forget(self, start: int, end: int) -> None:
        """Have the kernel begin to write these bytes, and drop from its cache what is written already."""
        os.posix_fadvise(self.number, start, end - start, os.POSIX_FADV_DONTNEED)

    def reserve(self, length: int) -> None:
        """Take the room for `length` bytes now: others who look see that it is taken, and a lack of it shows at once.

        Not posix_fallocate(3), which writes to every block where the file system has no such call.

        Raises:
            OSError: there is no room.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fallocate(self.number, FALLOC_FL_KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(length)):
            number = ctypes.get_errno()
            if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise OSError(number, os.strerror(number), str(self.path))


def copy_beton(source: Source, target: Path, update: Update) -> None:
    """Write the new file `target`, durable and equal to `source`.

    Raises:
        UsageError: a part of the source is not what its manifest says.
        RunError: the source changed meanwhile.
        OSError: either cannot be read or written, or the copy is not what was written; `filename` says which.
    """
    with open_regular(source.path) as opened, _naming(target), open(target, "xb", buffering=0) as made:
        original, copy = _File(source.path, opened.fileno()), _File(target, made.fileno())
        copy.reserve(source.length)
        found = [_pass(original, copy, part, update) for part in source.parts]
        os.fchmod(copy.number, 0o400)  # nobody changes by mistake what others read
        os.fsync(copy.number)
    if any(part.checksum is None for part in source.parts):
        _check_unchanged(source)
        _compare(target, found, update)


def _pass(file: _File, to: _File | None, part: Part, update: Update) -> Part:
    """Read a part, compare its checksum if there is one, and write it to `to`; returned with the sum that was found."""
    block = memoryview(bytearray(BLOCK))
    summed = xxh3_128()
    for start in range(part.start, part.end, BLOCK):
        content = block[: part.end - start]
        file.read(content, start)
        summed.update(content)
        if to is not None:
            to.write(content, start)
        update(start + len(content))
    if part.checksum not in (None, summed.hexdigest()):
        raise UsageError(
            f"{file.path}: {part} is not what was written (its checksum differs); copy it again from a sound one, or "
            f"convert again; `python -m data_prep verify {file.path}` lists all damage"
        )
    file.forget(part.start, part.end)
    if to is not None:
        to.forget(part.start, part.end)
    return replace(part, checksum=summed.hexdigest())


def _check_unchanged(source: Source) -> None:
    now = os.stat(source.path)
    if (now.st_size, now.st_mtime_ns) != (source.length, source.modified):
        raise RunError(f"{source.path}: changed while it was copied; wait until it is whole, and start again")


def _compare(target: Path, parts: list[Part], update: Update) -> None:
    """Read a copy from its disk, and compare it with what was written."""
    with open_regular(target) as opened:
        copy = _File(target, opened.fileno())
        copy.forget(0, parts[-1].end)
        try:
            for part in parts:
                _pass(copy, None, part, update)
        except UsageError as error:
            raise OSError(errno.EIO, "the copy is not what was written into it", str(target)) from error


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error says which file it is of."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
