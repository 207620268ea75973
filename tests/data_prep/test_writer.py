"""The layout of the file, and that it appears whole or not at all."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.images import Record
from data_prep.writer import PAGE_SIZE, BetonWriter, atomic_files
from trainer.data.beton import HEADER_DTYPE, MODE_JPEG, MODE_RAW, Beton
from trainer.errors import RunError


def jpeg(size: int, fill: int = 1) -> Record:
    return Record(MODE_JPEG, 8, 6, bytes([fill]) * size)


def write(path: Path, records: list[Record], capacity: int | None = None) -> Beton:
    with open(path, "wb") as file:
        writer = BetonWriter(file, len(records) if capacity is None else capacity)
        for label, record in enumerate(records):
            writer.append(record, label)
        writer.finish()
    return Beton(path)


def page_size(path: Path) -> int:
    return int(np.fromfile(path, HEADER_DTYPE, 1)["page_size"][0])


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records = [jpeg(5), Record(MODE_RAW, 65535, 1, bytes(3 * 65535)), jpeg(1), Record(MODE_RAW, 2, 2, bytes(range(12)))]
    beton = write(tmp_path / "x.beton", records)
    assert [beton.record(i) for i in range(4)] == [record.data for record in records]
    assert beton.modes.tolist() == [record.mode for record in records]
    assert beton.widths.tolist() == [record.width for record in records]
    assert beton.heights.tolist() == [record.height for record in records]
    assert beton.labels.tolist() == [0, 1, 2, 3]


@given(sizes=st.lists(st.integers(1, 3 * PAGE_SIZE), min_size=1, max_size=8))
@settings(deadline=None, max_examples=15)
def test_no_record_crosses_a_page_even_if_one_needed_larger_pages(
    sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("writer") / "x.beton"
    beton = write(path, [jpeg(size, i + 1) for i, size in enumerate(sizes)])
    size = page_size(path)
    assert size == max(PAGE_SIZE, 1 << (max(sizes) - 1).bit_length())
    assert beton.sizes.tolist() == sizes
    assert (beton.offsets // size == (beton.offsets + beton.sizes - 1) // size).all()
    assert (np.diff(beton.offsets) > 0).all()
    for i in range(len(sizes)):
        assert bytes(beton.record(i)) == bytes([i + 1]) * sizes[i]
    used = np.zeros(path.stat().st_size, np.bool_)
    for offset, length in zip(beton.offsets, beton.sizes, strict=True):
        used[offset : offset + length] = True
    between = np.fromfile(path, np.uint8)[PAGE_SIZE : beton.offsets[-1]]
    assert not between[~used[PAGE_SIZE : beton.offsets[-1]]].any(), "zeros between the records"


def test_small_records_share_a_page_and_the_file_ends_soon_after_them(tmp_path: Path) -> None:
    beton = write(tmp_path / "x.beton", [jpeg(100)] * 50)
    assert beton.offsets.tolist() == [PAGE_SIZE + 100 * i for i in range(50)]
    assert (tmp_path / "x.beton").stat().st_size < PAGE_SIZE + 50 * 100 + 50 * 24 + 8


def test_room_for_records_that_never_came_stays_zero(tmp_path: Path) -> None:
    beton = write(tmp_path / "x.beton", [jpeg(100)] * 3, capacity=500_000)
    assert len(beton) == 3
    assert beton.offsets[0] == 2 * PAGE_SIZE


def test_a_record_above_2_gib_is_refused() -> None:
    class Vast(bytes):
        def __len__(self) -> int:
            return (1 << 31) + 1

    with pytest.raises(RunError, match="an image of 8x6 takes 2147483649 bytes"):
        BetonWriter(io.BytesIO(), 1).append(Record(MODE_RAW, 8, 6, Vast()), 0)


def fail_with(error: BaseException | type[BaseException], partials: list[Path]) -> None:
    for partial in partials:
        partial.write_text("half")
    raise error


class TestAtomicFiles:
    def test_names_appear_when_the_block_ends(self, tmp_path: Path) -> None:
        one, other = tmp_path / "a", tmp_path / "b"
        with atomic_files(one, other) as (partial, other_partial):
            partial.write_text("1")
            other_partial.write_text("2")
            assert not one.exists()
            assert not other.exists()
        assert (one.read_text(), other.read_text()) == ("1", "2")
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_after_an_error_nothing_is_left_and_what_was_there_stays(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        (tmp_path / "a").write_text("before")
        with pytest.raises(error), atomic_files(tmp_path / "a", tmp_path / "b") as partials:
            fail_with(error, partials)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "before"}

    def test_what_the_system_refuses_is_told_in_a_line(self, tmp_path: Path) -> None:
        expected = r"b: cannot write it: No space left on device"
        with pytest.raises(RunError, match=expected), atomic_files(tmp_path / "a", tmp_path / "b") as partials:
            fail_with(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), partials)
        assert not list(tmp_path.iterdir())

    def test_it_is_named_for_its_process(self, tmp_path: Path) -> None:
        with atomic_files(tmp_path / "a") as (partial,):
            assert str(os.getpid()) in partial.name
            partial.touch()


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.beton").touch()
    with open(tmp_path / "x.beton", "rb") as file:  # not for writing
        writer = BetonWriter(file, 1)
        writer.append(jpeg(PAGE_SIZE + 1), 0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            writer.finish()
        writer.close()
