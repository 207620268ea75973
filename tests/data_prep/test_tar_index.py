"""Where the members of a tar lie, against Python's own `tarfile`."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.tar_index import Member, is_tar, members
from trainer.errors import UsageError

Tar = Callable[..., bytes]


def index(data: bytes, start: int = 0, end: int | None = None) -> list[Member]:
    return list(_index(data, start, end))


def _index(data: bytes, start: int, end: int | None) -> Iterator[Member]:
    fd = os.memfd_create("tar")
    try:
        os.write(fd, data)
        yield from members(fd, "x.tar", start, end)
    finally:
        os.close(fd)


names = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
    max_size=4,
).map("/".join)


@given(
    files=st.dictionaries(names, st.binary(max_size=1200), max_size=6),
    tar_format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    start=st.integers(0, 700),
)
@settings(deadline=None)
def test_the_members_are_those_that_tarfile_finds(
    tar: Tar, files: dict[str, bytes], tar_format: int, start: int
) -> None:
    data = tar(files, tar_format)
    found = index(bytes(start) + data, start)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [Member(member.name, start + member.offset_data, member.size) for member in archive]
    assert found == expected
    assert [(bytes(start) + data)[member.offset :][: member.size] for member in found] == list(files.values())


def test_ustar_prefixes_folders_and_a_leading_dot(tar: Tar) -> None:
    long = "/".join(["folder" * 5] * 5)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("./folder")
        folder.type = tarfile.DIRTYPE
        for member in (folder, tarfile.TarInfo("./folder/one"), tarfile.TarInfo(f"{long}/other")):
            archive.addfile(member)
    assert [member.name for member in index(buffer.getvalue())] == ["folder/one", f"{long}/other"]


def test_sizes_above_8_gib_in_either_notation(tar: Tar, tmp_path: Path) -> None:
    for tar_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        member = tarfile.TarInfo("large")
        member.size = 9 << 30
        header = member.tobuf(tar_format)
        path = tmp_path / "large.tar"
        with open(path, "wb") as file:
            file.write(header)
            file.seek(member.size, os.SEEK_CUR)
            file.write(bytes(1024))
        fd = os.open(path, os.O_RDONLY)
        assert list(members(fd, "large.tar")) == [Member("large", len(header), 9 << 30)]
        os.close(fd)


def test_an_inner_tar_ends_with_its_region(tar: Tar) -> None:
    one, other = tar({"a": b"1"}), tar({"b": b"2"})
    data = one + other
    assert [member.name for member in index(data, 0, len(one))] == ["a"]
    assert [member.name for member in index(data, len(one), len(data))] == ["b"]


@pytest.mark.parametrize("length", [100, 700, 1024, 1536, 2048])
def test_a_truncated_tar_is_an_error(tar: Tar, length: int) -> None:
    data = tar({"a": bytes(600), "b": bytes(600)})
    with pytest.raises(UsageError, match=r"x\.tar: the tar is truncated"):
        index(data[:length])


def test_what_is_no_tar_and_what_is_damaged_are_errors(tar: Tar) -> None:
    with pytest.raises(UsageError, match=r"x\.tar: not an uncompressed tar"):
        index(b"x" * 2000)
    data = bytearray(tar({"a": bytes(600), "b": bytes(600)}))
    data[1540] ^= 1
    with pytest.raises(UsageError, match=r"x\.tar: the tar is damaged at byte 1536"):
        index(bytes(data))


@given(record=st.binary(max_size=40))
@example(record=b"1")  # a length, and no more
@example(record=b"9 a=b\n")
@example(record=b"14 size=-1536\n")  # back to its own header
def test_damaged_extended_headers_never_hang(tar: Tar, record: bytes) -> None:
    extended = tarfile.TarInfo("pax")
    extended.type, extended.size = tarfile.XHDTYPE, len(record)
    data = extended.tobuf() + record.ljust(512, b"\0") + tar({"a": b"1"})
    with suppress(UsageError):
        index(data)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])
def test_links_and_special_files_are_errors_not_skipped(kind: bytes) -> None:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, "a"
    with pytest.raises(UsageError, match="link is a link, sparse or special file"):
        index(member.tobuf() + bytes(1024))


def test_whether_bytes_are_a_tar(tar: Tar) -> None:
    for data, expected in ((tar({"a": b"1"}), True), (bytes(1024), False), (b"x" * 1024, False), (b"short", False)):
        fd = os.memfd_create("bytes")
        os.write(fd, b"before" + data)
        assert is_tar(fd, 6, len(data)) is expected
        os.close(fd)
