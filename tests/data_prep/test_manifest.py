"""Checksums that find damage anywhere in a file."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.images import Record
from data_prep.manifest import versions
from data_prep.writer import PAGE_SIZE, BetonWriter
from tests.samples import checksum_file
from trainer.data.beton import MODE_JPEG, SAMPLE_DTYPE, Beton, align_up, metadata_offset
from trainer.data.manifest import Checksums, digest_of, page_region


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checksums]:
    """A beton of three pages, with room for two records that were skipped."""
    path = tmp_path_factory.mktemp("manifest") / "x.beton"
    with open(path, "xb") as file:
        writer = BetonWriter(file, 7)
        for i in range(5):
            writer.append(Record(MODE_JPEG, 8, 8, bytes([i + 1]) * (PAGE_SIZE // 2 - i)), i)
        return path, writer.finish()


def checksums_of(path: Path) -> Checksums:
    first_page, table = page_region(path.stat().st_size, 5, 3, PAGE_SIZE)
    return checksum_file(path, PAGE_SIZE, first_page, table)


def test_reading_gives_the_checksums_that_the_writer_gave(written: tuple[Path, Checksums]) -> None:
    path, checksums = written
    assert len(checksums.pages) == 3
    assert checksums_of(path) == checksums


def test_the_region_of_the_pages_follows_from_the_manifest_alone(written: tuple[Path, Checksums]) -> None:
    path, _ = written
    beton = Beton(path)
    first_page, table = page_region(path.stat().st_size, 5, 3, PAGE_SIZE)
    assert first_page == beton.offsets[0] == PAGE_SIZE
    assert table >= beton.offsets[-1] + beton.sizes[-1]


@pytest.mark.parametrize("length", [1, PAGE_SIZE - 8, PAGE_SIZE, PAGE_SIZE + 8, 3 * PAGE_SIZE])
@pytest.mark.parametrize("capacity", [1, 400_000])
def test_the_region_is_right_however_full_the_last_page_is(length: int, capacity: int, tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    with open(path, "xb") as file:
        writer = BetonWriter(file, capacity)
        writer.append(Record(MODE_JPEG, 8, 8, bytes(length)), 0)
        checksums = writer.finish()
    first_page, table = page_region(path.stat().st_size, 1, len(checksums.pages), PAGE_SIZE)
    assert first_page == align_up(metadata_offset(2) + capacity * SAMPLE_DTYPE.itemsize, PAGE_SIZE)
    assert table == Beton(path).offsets[0] + align_up(length, 8)
    assert checksum_file(path, PAGE_SIZE, first_page, table) == checksums


@given(place=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_changes_one_checksum_and_the_digest(written: tuple[Path, Checksums], place: float) -> None:
    path, checksums = written
    with open(path, "r+b") as file:
        file.seek(int(place * path.stat().st_size))
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x10]))
        file.flush()
        damaged = checksums_of(path)
        file.seek(-1, 1)
        file.write(bytes([byte]))
    before, after = ([c.head, *c.pages, c.tail] for c in (checksums, damaged))
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1
    assert digest_of(damaged) != digest_of(checksums)


def test_the_digest_is_over_all_checksums_in_their_order() -> None:
    checksums = Checksums(PAGE_SIZE, "aa", ["bb", "cc"], "dd")
    assert digest_of(checksums) == hashlib.sha256(b"aa\nbb\ncc\ndd").hexdigest()
    assert digest_of(replace(checksums, pages=["cc", "bb"])) != digest_of(checksums)


def test_versions_of_what_decides_about_the_bytes() -> None:
    assert set(versions()) == {"imagenet-trainer", "libjpeg", "numpy", "pillow"}
    assert all(versions().values())
