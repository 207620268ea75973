"""Writing a beton: records in, a file out whose bytes depend on them alone, and which appears when it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from xxhash import xxh3_128_hexdigest

from data_prep.images import Record
from trainer.data.beton import (
    ALLOCATION_DTYPE,
    FIELD_DTYPE,
    HEADER_DTYPE,
    SAMPLE_DTYPE,
    TYPE_IMAGE,
    TYPE_INT,
    VERSION,
    align_up,
    metadata_offset,
)
from trainer.data.manifest import Checksums
from trainer.errors import RunError
from trainer.files import sync

PAGE_SIZE: Final = 8 << 20
"""FFCV's default. The pages of the checksums have this size always, those of the file unless a record is larger."""

THREADS: Final = 4
"""They write and sum up pages, which would else be the limit for many worker processes."""

_MAX_PAGE_SIZE: Final = 1 << 31
"""The largest power of two that the header can hold."""

_FIELDS: Final = (("image", TYPE_IMAGE), ("label", TYPE_INT))
_METADATA: Final = metadata_offset(len(_FIELDS))


class BetonWriter:
    """Appends records to an open, empty file; `finish` completes it. `close` before the file, also after an error.

    As in FFCV's files, no record crosses a multiple of the page size, so that its Loader can read page by page. A
    record that is larger than a page makes the pages of the whole file larger: what lies within pages of one size also
    lies within those of twice the size.

    Args:
        file: binary, writable, seekable, at its start.
        capacity: records that there is room for in the metadata; fewer may be appended.
    """

    def __init__(self, file: BinaryIO, capacity: int) -> None:
        self._file = file
        self._samples = np.zeros(capacity, SAMPLE_DTYPE)
        self._allocations = np.zeros(capacity, ALLOCATION_DTYPE)
        self._page_size = PAGE_SIZE
        self._first_page = align_up(_METADATA + self._samples.nbytes, PAGE_SIZE)
        self._position = self._first_page
        self._count = 0
        self._page: list[memoryview] = []  # what has been appended since the last multiple of PAGE_SIZE
        self._pages: list[Future[str]] = []
        self._threads = ThreadPoolExecutor(THREADS, "page")

    def append(self, record: Record, label: int) -> None:
        """Add the next record.

        Raises:
            RunError: it is larger than the largest page there can be, 2 GiB.
            OSError: the file cannot be written.
        """
        size = len(record.data)
        if size > self._page_size:
            self._page_size = 1 << (size - 1).bit_length()
        if self._page_size > _MAX_PAGE_SIZE:
            raise RunError(f"an image of {record.width}x{record.height} takes {size} bytes, above the format's 2 GiB")
        page_end = align_up(self._position + 1, self._page_size)
        if self._position + size > page_end:
            self._write(bytes(page_end - self._position))
        image = (record.mode, record.width, record.height, self._position)
        self._samples[self._count] = (image, label)
        self._allocations[self._count] = (self._count, self._position, size)
        self._count += 1
        self._write(record.data)

    @property
    def samples(self) -> np.ndarray:
        """The metadata so far: `SAMPLE_DTYPE` [N]."""
        return self._samples[: self._count]

    def finish(self) -> Checksums:
        """Write what surrounds the pages, and flush. Returns the checksums of the file."""
        # The last page ends with its last record, but for the alignment of the 64-bit numbers that follow.
        self._write(bytes(align_up(self._position, 8) - self._position))
        table = self._position
        if self._page:
            self._end_page()
        checksums = [page.result() for page in self._pages]
        tail = self._allocations[: self._count].tobytes()
        self._file.seek(table)
        self._file.write(tail)
        head = self._head(table)
        self._file.seek(0)
        self._file.write(head)
        self._file.flush()
        self.close()
        return Checksums(PAGE_SIZE, xxh3_128_hexdigest(head), checksums, xxh3_128_hexdigest(tail))

    def close(self) -> None:
        """Wait until no thread writes to the file any more."""
        self._threads.shutdown(cancel_futures=True)

    def _write(self, data: bytes) -> None:
        """Append to the pages."""
        view = memoryview(data)
        while view:
            part = view[: PAGE_SIZE - self._position % PAGE_SIZE]
            self._page.append(part)
            self._position += len(part)
            view = view[len(part) :]
            if self._position % PAGE_SIZE == 0:
                self._end_page()

    def _end_page(self) -> None:
        start = self._position - sum(map(len, self._page))
        self._pages.append(self._threads.submit(_write_page, self._file.fileno(), self._page, start))
        self._page = []
        if len(self._pages) > 2 * THREADS:  # bounds the memory, and errors become known
            self._pages[-2 * THREADS - 1].result()

    def _head(self, table: int) -> bytes:
        header = np.array((VERSION, len(_FIELDS), self._page_size, self._count, table), HEADER_DTYPE)
        fields = np.zeros(len(_FIELDS), FIELD_DTYPE)
        for descriptor, (name, type_id) in zip(fields, _FIELDS, strict=True):
            descriptor["type_id"] = type_id
            descriptor["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
        head = header.tobytes() + fields.tobytes() + self.samples.tobytes()
        return head.ljust(self._first_page, b"\0")


def _write_page(fd: int, parts: list[memoryview], offset: int) -> str:
    """Returns the checksum."""
    page = b"".join(parts)
    view = memoryview(page)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
    return xxh3_128_hexdigest(page)


@contextmanager
def atomic_files(*finals: Path) -> Iterator[list[Path]]:
    """Temporary names beside `finals`, all in one folder; if the block succeeds they are renamed to them, in order.

    Else, whatever the reason, the temporary files are removed. Everything is on the disk before any name changes.

    Raises:
        RunError: the files cannot be written, e.g. the disk is full.
    """
    folder = finals[0].parent
    partials = [folder / f".{final.name}.partial-{os.getpid()}" for final in finals]
    try:
        yield partials
        for partial in partials:
            sync(partial)
        for partial, final in zip(partials, finals, strict=True):
            os.replace(partial, final)
        sync(folder)
    except OSError as error:
        raise RunError(f"{finals[-1]}: cannot write it: {error.strerror or error}") from error
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
