"""Where the members of an uncompressed tar lie, so that they can be read in place.

ILSVRC2012_img_train.tar holds 1.28 million members. Parsing the three header fields that matter is several times as
fast as `tarfile`, keeps nothing but what it yields, and finds a truncated archive, which `tarfile` takes for its end.
The formats are ustar, GNU and pax (POSIX.1-2001, "pax - portable archive interchange", and the GNU tar manual).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from trainer.errors import UsageError

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
_REGULAR: Final = (b"0", b"\0", b"7")
_DIRECTORY: Final = b"5"
_PAX: Final = b"x"
_PAX_GLOBAL: Final = b"g"
_GNU_LONG_NAME: Final = b"L"


class Member(NamedTuple):
    """A regular file in a tar; its bytes are those of the tar from `offset` on."""

    name: str
    offset: int
    size: int


def members(fd: int, label: str, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """The regular files of the tar in bytes [start, end) of an open file, in the order of the archive.

    Args:
        fd: file descriptor, read with pread.
        label: how errors name the archive.

    Raises:
        UsageError: no tar, damaged, truncated, or a member that is neither a file nor a folder.
    """
    try:
        yield from _walk(fd, label, start, os.fstat(fd).st_size if end is None else end)
    except ValueError as error:
        raise UsageError(f"{label}: the tar is damaged: {error}") from error


def _walk(fd: int, label: str, start: int, limit: int) -> Iterator[Member]:
    position, long_name, pax = start, b"", dict[bytes, bytes]()
    while True:
        header = os.pread(fd, _BLOCK, position) if position + _BLOCK <= limit else b""
        if header == _ZEROS:
            return
        if not header:
            raise UsageError(f"{label}: the tar is truncated (no end mark by byte {limit}); fetch it again")
        if not _checksum_fits(header):
            what = "not an uncompressed tar" if position == start else f"the tar is damaged at byte {position}"
            raise UsageError(f"{label}: {what}")
        kind, data = header[156:157], position + _BLOCK
        size = int(pax[b"size"]) if b"size" in pax else _number(header[124:136])
        if size < 0:  # a walk backwards may never end
            raise ValueError(f"a member of {size} bytes")
        position = data + -(-size // _BLOCK) * _BLOCK
        if data + size > limit:
            raise UsageError(f"{label}: the tar is truncated at byte {limit} of {data + size}; fetch it again")
        if kind == _GNU_LONG_NAME:
            long_name = os.pread(fd, size, data).rstrip(b"\0")
        elif kind == _PAX:
            pax = _pax_records(os.pread(fd, size, data))
        elif kind != _PAX_GLOBAL:
            name = os.fsdecode(pax.get(b"path") or long_name or _short_name(header))
            if kind in _REGULAR and not any(key.startswith(b"GNU.sparse") for key in pax):
                yield Member(name.removeprefix("./"), data, size)
            elif kind != _DIRECTORY:
                raise UsageError(
                    f"{label}: {name} is a link, sparse or special file; unpack the tar and give the folder"
                )
            long_name, pax = b"", {}


def is_tar(fd: int, start: int, size: int) -> bool:
    """Whether the bytes [start, start + size) of an open file begin with the header of a tar."""
    header = os.pread(fd, _BLOCK, start) if size >= _BLOCK else b""
    return len(header) == _BLOCK and header != _ZEROS and _checksum_fits(header)


def _checksum_fits(header: bytes) -> bool:
    try:
        stored = _number(header[148:156])
    except ValueError:
        return False
    # The sum of all bytes, but with blanks for the checksum itself. The low half of an Adler-32 is the sum of the bytes
    # plus 1, modulo 65521, at a twentieth of the time of sum().
    expected = stored + sum(header[148:156]) - 8 * ord(" ")
    return zlib.adler32(header) & 0xFFFF == (expected + 1) % 65521


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base 256 when the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _short_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Records `length key=value newline`, where the length counts the whole record."""
    records = {}
    while data:
        length = int(data.split(b" ", 1)[0])
        if not 0 < length <= len(data):
            raise ValueError(f"a pax record of {length} bytes")
        _, space, record = data[:length].partition(b" ")
        if not space:
            raise ValueError("a pax record without a space after its length")
        key, _, value = record.partition(b"=")
        records[key] = value.removesuffix(b"\n")
        data = data[length:]
    return records
