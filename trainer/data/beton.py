"""The beton file format (FFCV, version 2): the one definition of its layout, and the reader that training uses.

Layout, little endian::

    header | field descriptors | metadata, one record a sample | zeros up to a page | pages | allocation table

A sample's metadata holds the mode, size and file offset of its image and its integer label; the allocation table
holds the length in bytes of each region and reaches to the end of the file. Offsets are absolute.
The format itself has no checksums, no class names and no bounds, so `Beton` validates everything it relies on when it
opens a file; checksums and names are in the manifest beside it (`trainer.data.manifest`). Whatever the file says, the
memory that opening takes is in proportion to its length.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from trainer.errors import UsageError
from trainer.jpeg import explain_bus_errors

VERSION: Final = 2
MODE_JPEG: Final = 0
MODE_RAW: Final = 1
MAX_SIDE: Final = 2**16 - 1
"""Widths and heights are stored in 16 bits."""

HEADER_DTYPE: Final = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD_DTYPE: Final = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
ALLOCATION_DTYPE: Final = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

IMAGE_DTYPE: Final = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
LABEL_DTYPE: Final = np.dtype("<i8")
POINTER_AND_SIZE_DTYPE: Final = np.dtype([("ptr", "<u8"), ("size", "<u8")])

TYPE_FLOAT, TYPE_INT, TYPE_IMAGE, TYPE_BYTES, TYPE_NDARRAY, TYPE_JSON, TYPE_TENSOR = range(7)
FIELD_METADATA: Final[dict[int, np.dtype]] = {
    TYPE_FLOAT: np.dtype("<f8"),
    TYPE_INT: LABEL_DTYPE,
    TYPE_IMAGE: IMAGE_DTYPE,
    TYPE_BYTES: POINTER_AND_SIZE_DTYPE,
    TYPE_NDARRAY: np.dtype("<u8"),
    TYPE_JSON: POINTER_AND_SIZE_DTYPE,
    TYPE_TENSOR: np.dtype("<u8"),
}
"""Metadata of each field type that FFCV defines, by type id. Other ids are a user's own and cannot be laid out."""

WITHOUT_REGION: Final = (TYPE_FLOAT, TYPE_INT)
"""Fields whose whole value is in the metadata; each of the others has a region of its own in every sample."""

MAX_FIELDS: Final = 256
"""More than anybody has, and few enough to lay out at once."""


def sample_dtype(type_ids: list[int]) -> np.dtype:
    """Metadata record of one sample with fields of these types, aligned as FFCV aligns it. Fields are f0, f1, ..."""
    return np.dtype([(f"f{i}", FIELD_METADATA[type_id]) for i, type_id in enumerate(type_ids)], align=True)


SAMPLE_DTYPE: Final = sample_dtype([TYPE_IMAGE, TYPE_INT])
"""What this project writes: field f0 is `image`, f1 is `label`."""


def metadata_offset(num_fields: int) -> int:
    """File offset of the first sample's metadata."""
    return HEADER_DTYPE.itemsize + num_fields * FIELD_DTYPE.itemsize


def align_up(offset: int, page_size: int) -> int:
    """The first multiple of `page_size` that is not below `offset`."""
    return -(-offset // page_size) * page_size


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading; what is a folder, a pipe or a device is refused, where it could block or never end.

    Raises:
        UsageError: it is no regular file.
        OSError: it cannot be opened.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UsageError(f"{path}: not a regular file")
    return file


class Beton:
    """A read-only, memory-mapped beton with one image field and one integer label.

    Attributes:
        path: the file.
        page_size: bytes a page.
        labels: int64 [N].
        widths, heights: int32 [N], pixels.
        modes: uint8 [N], `MODE_JPEG` or `MODE_RAW`.
        offsets, sizes: int64 [N], where each image's bytes lie in the file.

    Opening validates the whole table of contents with array operations only: no Python per record. Records lie between
    it and the allocation table; they may overlap, which harms nobody who reads. Labels may be any number: what they
    mean is the affair of `trainer.data.dataset`.

    While it lives, a read that fails because the file has become shorter, or its disk fails, ends the process with an
    `error:` line, and not by SIGBUS without a word.

    Raises:
        UsageError: the file is missing, no beton, truncated, or a record points outside of it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with open_regular(self.path) as file:
                length = os.fstat(file.fileno()).st_size
                if length < HEADER_DTYPE.itemsize:
                    raise UsageError(
                        f"{path}: not a beton file ({length} bytes); make it with `python -m data_prep convert`"
                    )
                self._map = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
        except OSError as error:
            made = isinstance(error, (FileNotFoundError, IsADirectoryError))
            advice = "; make one with `python -m data_prep convert`" if made else ""
            raise UsageError(f"{path}: cannot open the beton: {error.strerror}{advice}") from error
        except ValueError as error:  # of mmap, which has found fewer bytes
            raise UsageError(f"{path}: cannot open the beton: it became shorter meanwhile") from error
        self._bytes = np.frombuffer(self._map, np.uint8)
        what = f"{path}: could not be read: it became shorter, or its disk failed"
        explain_bus_errors(self, self.address, length, f"{what}; restore it and start the same command again")
        self._read_table_of_contents()

    def __len__(self) -> int:
        return len(self.labels)

    def record(self, sample: int) -> memoryview:
        """The stored bytes of one image: a JPEG file, or height x width x 3 bytes of RGB. A view, nothing is copied."""
        start = int(self.offsets[sample])
        return memoryview(self._map)[start : start + int(self.sizes[sample])]

    def content(self, start: int, stop: int) -> memoryview:
        """The bytes [start, stop) of the file. A view, nothing is copied."""
        return memoryview(self._map)[start:stop]

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return len(self._bytes)

    @property
    def address(self) -> int:
        """Where the file begins in memory, for as long as this object lives: a record is at `address + offset`."""
        return int(self._bytes.ctypes.data)

    def expect_random_reads(self) -> None:
        """Have the kernel read what is touched, and not megabytes around it."""
        self._map.madvise(mmap.MADV_RANDOM)

    def describe(self, sample: int) -> str:
        """How errors name a sample."""
        where = f"{self.sizes[sample]} bytes at offset {self.offsets[sample]}"
        return f"{self.path}: sample {sample} (label {self.labels[sample]}, {where})"

    def _read_table_of_contents(self) -> None:
        length = len(self._bytes)
        header = self._bytes[: HEADER_DTYPE.itemsize].view(HEADER_DTYPE)[0]
        if header["version"] != VERSION:
            raise UsageError(f"{self.path}: not a beton of version {VERSION} (its header says {header['version']})")
        self.page_size = int(header["page_size"])
        count, num_fields = int(header["num_samples"]), int(header["num_fields"])
        table = int(header["alloc_table_ptr"])
        if self.page_size.bit_count() != 1:
            raise self._damaged(f"a page size of {self.page_size}, which is no power of two,")
        if num_fields > MAX_FIELDS or metadata_offset(num_fields) > length:
            raise self._damaged(f"a header of {num_fields} fields")
        fields = self._bytes[HEADER_DTYPE.itemsize : metadata_offset(num_fields)].view(FIELD_DTYPE)
        image, label, record_dtype = self._find_fields(fields)
        start = metadata_offset(num_fields)
        end = start + count * record_dtype.itemsize
        if count == 0:
            raise UsageError(f"{self.path}: the beton holds no sample")
        if end > length:
            raise self._damaged(f"the metadata of {count} samples")
        allocations, rest = divmod(length - table, ALLOCATION_DTYPE.itemsize)
        most = count * int((~np.isin(fields["type_id"], WITHOUT_REGION)).sum())
        if not end <= table <= length or rest or allocations > most:
            raise self._damaged("the allocation table")
        metadata = self._bytes[start:end].view(record_dtype)
        self.labels: npt.NDArray[np.int64] = metadata[label].astype(np.int64)
        self.modes: npt.NDArray[np.uint8] = metadata[image]["mode"].copy()
        self.widths: npt.NDArray[np.int32] = metadata[image]["width"].astype(np.int32)
        self.heights: npt.NDArray[np.int32] = metadata[image]["height"].astype(np.int32)
        offsets = metadata[image]["data_ptr"].copy()
        sizes = self._sizes_of(offsets, self._bytes[table:].view(ALLOCATION_DTYPE))
        self._check_records(offsets, sizes, end, table)
        self.offsets: npt.NDArray[np.int64] = offsets.astype(np.int64)
        self.sizes: npt.NDArray[np.int64] = sizes.astype(np.int64)

    def _find_fields(self, fields: np.ndarray) -> tuple[str, str, np.dtype]:
        type_ids = [int(type_id) for type_id in fields["type_id"]]
        unknown = [type_id for type_id in type_ids if type_id not in FIELD_METADATA]
        if unknown:
            raise UsageError(f"{self.path}: a field of unknown type {unknown[0]}; custom FFCV fields cannot be read")
        images = [i for i, type_id in enumerate(type_ids) if type_id == TYPE_IMAGE]
        labels = [i for i, type_id in enumerate(type_ids) if type_id == TYPE_INT]
        names = [ascii(bytes(name).split(b"\0")[0].decode("latin-1"))[1:-1] for name in fields["name"]]
        if len(labels) > 1:
            labels = [i for i in labels if names[i] == "label"]
        if len(images) != 1 or len(labels) != 1:
            raise UsageError(
                f"{self.path}: expected one RGBImageField and one IntField named 'label', "
                f"found fields {', '.join(names[:8]) or 'none'}{', ...' if len(names) > 8 else ''}"
            )
        return f"f{images[0]}", f"f{labels[0]}", sample_dtype(type_ids)

    def _sizes_of(self, offsets: np.ndarray, allocations: np.ndarray) -> np.ndarray:
        """Length of the region that starts at each offset. Stock FFCV writes its table in the order of its workers."""
        starts, lengths = allocations["ptr"], allocations["size"]
        if len(starts) == len(offsets) and np.array_equal(starts, offsets):
            return lengths.copy()
        order = np.argsort(starts, kind="stable")
        starts, lengths = starts[order], lengths[order]
        place = np.minimum(np.searchsorted(starts, offsets), max(len(starts) - 1, 0))
        missing = np.flatnonzero(starts[place] != offsets) if len(starts) else np.arange(len(offsets))
        if len(missing):
            raise self._damaged(f"the allocation table (no entry for sample {missing[0]})")
        return lengths[place]

    def _check_records(self, offsets: np.ndarray, sizes: np.ndarray, first: int, last: int) -> None:
        # Compared without adding offset and size: both are 64-bit numbers that a damaged file may make overflow.
        outside = (offsets < first) | (offsets > last) | (sizes > last - np.minimum(offsets, last))
        outside |= ~np.isin(self.modes, (MODE_JPEG, MODE_RAW)) | (self.widths == 0) | (self.heights == 0) | (sizes == 0)
        raw = self.modes == MODE_RAW
        outside |= raw & (sizes != self.widths.astype(np.uint64) * self.heights.astype(np.uint64) * np.uint64(3))
        if outside.any():
            raise self._damaged(f"the record of sample {np.flatnonzero(outside)[0]} ({int(outside.sum())} in all)")

    def _damaged(self, what: str) -> UsageError:
        return UsageError(
            f"{self.path}: truncated or damaged: {what} does not fit the file of {len(self._bytes)} bytes; "
            f"check it with `python -m data_prep verify {self.path}` or copy it again"
        )
