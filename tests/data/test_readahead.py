"""Reading ahead: the requests come through unchanged, and the kernel has read what they need and nothing else."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.samples import smooth_image, write_beton
from trainer.data.beton import Beton
from trainer.data.dataset import open_dataset, read_ahead
from trainer.data.order import Chunks, Request, TrainingOrder
from trainer.data.readahead import ADVICE_BYTES, FOUND, GAP_BYTES, PROBES, Memory, ReadAhead, begin_chunks, pieces
from trainer.recipe import DataRecipe, Recipe

CHUNK = 1 << 20


@pytest.fixture
def beton(tmp_path: Path) -> Beton:
    """48 raw images of 300,000 bytes."""
    return Beton(write_beton(tmp_path / "raw.beton", [smooth_image(400, 250, i) for i in range(48)], [0] * 48))


def chunks_of(beton: Beton, window: int = 3) -> Chunks:
    return Chunks.cut(beton.offsets, beton.sizes, CHUNK, window)


def request(*ids: int, epoch: int = 0) -> Request:
    return Request(np.full(len(ids), epoch), np.array(ids, np.int64))


@pytest.mark.parametrize("ahead", [1, 3, 100])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_requests_come_through_unchanged(beton: Beton, ahead: int, chunked: bool) -> None:
    chunks = chunks_of(beton) if chunked else None
    wanted = list(TrainingOrder(len(beton), 0, chunks).batches(0, 480, 16, rank=0, world_size=1))
    found = list(ReadAhead(beton, ahead, chunks).wrap(wanted))
    assert all(one is other for one, other in zip(found, wanted, strict=True))


def test_no_more_requests_are_drawn_than_are_to_be_read_ahead(beton: Beton) -> None:
    drawn = 0

    def requests() -> Iterator[Request]:
        nonlocal drawn
        for i in range(40):
            drawn += 1
            yield request(i)

    with contextlib.closing(ReadAhead(beton, 4).wrap(requests())) as wrapped:
        for taken, _ in enumerate(wrapped, start=1):
            time.sleep(0.002)
            assert drawn <= taken + 4 + 1  # one that waits to be asked for


def test_no_requests_and_empty_requests_are_none(beton: Beton) -> None:
    assert list(ReadAhead(beton, 2).wrap([])) == []
    assert [len(got.ids) for got in ReadAhead(beton, 2, chunks_of(beton)).wrap([request(), request(3)])] == [0, 1]


def test_an_error_in_the_order_reaches_the_consumer(beton: Beton) -> None:
    def broken() -> Iterator[Request]:
        yield request(1)
        raise ZeroDivisionError("from the thread that reads ahead")

    wrapped = ReadAhead(beton, 2).wrap(broken())
    assert next(wrapped).ids.tolist() == [1]
    with pytest.raises(ZeroDivisionError, match="from the thread"):
        next(wrapped)


def test_a_stream_that_is_left_early_leaves_no_thread_behind(beton: Beton) -> None:
    before = set(threading.enumerate())
    endless = (request(i % 48) for i in itertools.count())
    with contextlib.closing(ReadAhead(beton, 3).wrap(endless)) as wrapped:
        assert len(list(itertools.islice(wrapped, 5))) == 5
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before


def test_the_recipe_says_how_far_and_several_nodes_leave_chunks_alone(
    beton: Beton, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, chunks = open_dataset(beton.path), chunks_of(beton)
    assert read_ahead(Recipe(data=DataRecipe(read_ahead=0)), data, chunks) is None
    for world_size, whole_chunks in (("2", True), ("4", False)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        monkeypatch.setenv("WORLD_SIZE", world_size)
        found = read_ahead(Recipe(data=DataRecipe(read_ahead=5)), data, chunks)
        assert found is not None
        assert (found.batches, found.chunks) == (5, chunks if whole_chunks else None)


class TestColdFiles:
    """What is in memory when a file is read that was not."""

    def test_the_records_of_the_coming_requests_are_read_and_no_others(self, beton: Beton) -> None:
        with cold(beton) as memory:
            wrapped = ReadAhead(beton, 3).wrap([request(7, 30), request(21), request(2), request(40), request(41)])
            with contextlib.closing(wrapped):
                assert next(wrapped).ids.tolist() == [7, 30]
                # Those of the request that was taken and of three more.
                assert eventually(lambda: memory() == {7, 30, 21, 2, 40})
            time.sleep(0.1)
            assert memory() == {7, 30, 21, 2, 40}

    def test_chunks_are_read_whole(self, beton: Beton) -> None:
        chunks = chunks_of(beton)
        with cold(beton) as memory:
            list(ReadAhead(beton, 3, chunks).wrap([request(7, 30)]))
            whole = set(np.flatnonzero(np.isin(chunks.numbers, chunks.numbers[[7, 30]])).tolist())
            assert len(whole) >= 6
            assert eventually(lambda: memory() == whole)

    def test_a_file_counts_as_in_memory_after_many_hits_and_until_the_first_miss(self, beton: Beton) -> None:
        with cold(beton), open(beton.path, "rb") as file:
            memory = Memory(file.fileno())
            middles = beton.offsets + beton.sizes // 2
            assert not memory.holds(middles)
            beton.path.read_bytes()
            asked = next(i for i in range(1, 10**6) if memory.holds(middles))
            assert asked == FOUND // PROBES
            assert memory.holds(middles[:3])
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert not memory.holds(middles)
            beton.path.read_bytes()
            assert not memory.holds(middles)


@contextlib.contextmanager
def cold(beton: Beton) -> Iterator[Callable[[], set[int]]]:
    """Drop the beton from memory, and give a function that says whose records' middle is there."""
    with open(beton.path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    middles = np.frombuffer(beton.record(0), np.uint8).ctypes.data + beton.offsets - beton.offsets[0] + beton.sizes // 2
    libc = ctypes.CDLL(None)
    state = ctypes.c_ubyte()

    def held() -> set[int]:
        found = set()
        for sample, address in enumerate(middles.tolist()):
            page = ctypes.c_void_p(address // mmap.PAGESIZE * mmap.PAGESIZE)
            assert libc.mincore(page, ctypes.c_size_t(1), ctypes.byref(state)) == 0
            if state.value & 1:
                found.add(sample)
        return found

    if held():
        pytest.skip("this file system keeps its files in memory")
    yield held


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


class TestPieces:
    """What is asked for, in bytes."""

    @given(
        ranges=st.lists(st.tuples(st.integers(0, 400_000), st.integers(1, 300_000)), max_size=20),
    )
    def test_they_cover_the_ranges_and_little_else_in_order(self, ranges: list[tuple[int, int]]) -> None:
        starts = np.array([start for start, _ in ranges], np.int64)
        stops = starts + np.array([size for _, size in ranges], np.int64)
        found = pieces(starts, stops)
        begin, end = found[:, 0], found.sum(axis=1)
        assert ((found[:, 1] > 0) & (found[:, 1] <= ADVICE_BYTES)).all()
        assert (begin[1:] >= end[:-1]).all()
        wanted, asked = np.zeros(700_000, bool), np.zeros(700_000, bool)
        for start, stop in zip(starts, stops, strict=True):
            wanted[start:stop] = True
        for start, stop in zip(begin, end, strict=True):
            asked[start:stop] = True
        assert not (wanted & ~asked).any()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], (asked & ~wanted).astype(np.int8), [0]])))
        assert (np.diff(edges)[::2] <= GAP_BYTES).all()

    def test_neighbours_become_one(self) -> None:
        found = pieces(np.array([700, 0, 100_000]), np.array([1000, 500, 100_001]))
        assert found.tolist() == [[0, 1000], [100_000, 1]]
        assert pieces(np.array([5]), np.array([5 + 2 * ADVICE_BYTES + 1])).tolist() == [
            [5, ADVICE_BYTES],
            [5 + ADVICE_BYTES, ADVICE_BYTES],
            [5 + 2 * ADVICE_BYTES, 1],
        ]


def test_a_chunk_begins_once_an_epoch(beton: Beton) -> None:
    chunks = chunks_of(beton)
    begun = np.full(len(chunks.starts), -1)
    order = TrainingOrder(len(beton), 0, chunks)
    found = [begin_chunks(chunks, order.take(start, 8), begun) for start in range(0, 3 * 48, 8)]
    assert np.bincount(np.concatenate(found)).tolist() == [3] * len(chunks.starts)
    assert (begun == 2).all()
