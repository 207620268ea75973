"""The order of the samples: laws 1 and 2."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.samples import jpeg, smooth_image, write_beton
from trainer.data.dataset import open_dataset, training_order
from trainer.data.order import MAX_REPLACEMENTS, Chunks, TrainingOrder, draw_replacements, evaluation_ids
from trainer.data.random import counter_uint64, integers, normal, permutation, uniform
from trainer.errors import UsageError
from trainer.recipe import DataRecipe, Recipe

WINDOWS = st.one_of(st.none(), st.integers(1, 30))
"""Of the chunked order; none: the whole permutation."""


def order_of(num_samples: int, seed: int, window: int | None) -> TrainingOrder:
    """An order, in chunks of about five records if it has a window."""
    if window is None:
        return TrainingOrder(num_samples, seed)
    sizes = 1 + np.arange(num_samples) * 7 % 20
    offsets = 300 + np.cumsum(sizes) - sizes
    return TrainingOrder(num_samples, seed, Chunks.cut(offsets, sizes, 50, window))


@given(num_samples=st.integers(1, 60), seed=st.integers(0, 2**63), epoch=st.integers(0, 4), window=WINDOWS)
def test_every_sample_comes_once_an_epoch(num_samples: int, seed: int, epoch: int, window: int | None) -> None:
    request = order_of(num_samples, seed, window).take(epoch * num_samples, num_samples)
    assert sorted(request.ids) == list(range(num_samples))
    assert set(request.epochs) == {epoch}


@given(
    num_samples=st.integers(1, 40),
    share=st.integers(1, 5),
    world_size=st.integers(1, 4),
    start=st.integers(0, 20),
    window=WINDOWS,
)
def test_the_ranks_slices_make_up_the_global_batch_wherever_a_run_starts(
    num_samples: int, share: int, world_size: int, start: int, window: int | None
) -> None:
    batch = share * world_size
    order = order_of(num_samples, 3, window)
    whole = [list(request.ids) for request in order.batches(0, 24 * batch, batch, rank=0, world_size=1)]
    ranks = [
        [list(request.ids) for request in order.batches(start * batch, 24 * batch, batch, rank, world_size)]
        for rank in range(world_size)
    ]
    for step, parts in enumerate(zip(*ranks, strict=True), start=start):
        assert [sample for part in parts for sample in part] == whole[step]


@pytest.mark.parametrize("window", [None, 1, 4])
def test_epochs_differ_and_so_do_seeds(window: int | None) -> None:
    order = order_of(100, 0, window)
    first, second = order.take(0, 100).ids, order.take(100, 100).ids
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, order_of(100, 1, window).take(0, 100).ids)


def test_the_order_is_the_same_for_ever() -> None:
    assert list(permutation(10, seed=0, stream=1)) == [2, 9, 7, 0, 5, 1, 4, 3, 8, 6]
    assert list(order_of(12, 0, 2).take(0, 12).ids) == [2, 0, 5, 1, 4, 3, 9, 7, 10, 8, 11, 6]


class TestChunks:
    """Data larger than memory: an epoch in pieces of the file."""

    @given(
        records=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 200)), min_size=1, max_size=60),
        chunk_bytes=st.integers(1, 500),
        shuffled=st.randoms(use_true_random=False),
    )
    def test_a_chunk_is_what_begins_between_two_cuts_wherever_the_records_lie(
        self, records: list[tuple[int, int]], chunk_bytes: int, shuffled: random.Random
    ) -> None:
        shuffled.shuffle(records)  # stock FFCV's workers write pages in any order
        gaps, sizes = np.array(records).T
        offsets = np.cumsum(gaps + sizes) - sizes
        places = np.array(shuffled.sample(range(len(sizes)), len(sizes)))
        offsets, sizes = offsets[places], sizes[places]
        chunks = Chunks.cut(offsets, sizes, chunk_bytes, window=1)
        for number, (start, stop) in enumerate(zip(chunks.starts, chunks.stops, strict=True)):
            inside = chunks.numbers == number
            assert start == offsets[inside].min()
            assert stop == (offsets + sizes)[inside].max()
            assert len(set(offsets[inside] // chunk_bytes)) == 1
        assert len(set(offsets // chunk_bytes)) == len(chunks.starts)

    @given(num_samples=st.integers(1, 400), window=st.integers(1, 40), seed=st.integers(0, 99))
    def test_no_more_chunks_than_the_window_are_in_use_at_any_time(
        self, num_samples: int, window: int, seed: int
    ) -> None:
        order = order_of(num_samples, seed, window)
        assert order.chunks is not None
        numbers = order.chunks.numbers[order.take(0, num_samples).ids]
        places = [np.flatnonzero(numbers == chunk) for chunk in range(len(order.chunks.starts))]
        first, last = np.array([(place[0], place[-1]) for place in places]).T
        at = np.arange(num_samples)[:, None]
        assert ((first <= at) & (at <= last)).sum(axis=1).max() <= window

    def test_records_of_a_chunk_are_spread_over_the_window(self) -> None:
        count, per_chunk, window = 200_000, 100, 50
        chunks = Chunks.cut(np.arange(count), np.ones(count, np.int64), per_chunk, window)
        places = np.argsort(chunks.permutation(seed=0, epoch=0))
        apart = np.abs(places[1:] - places[:-1])[chunks.numbers[1:] == chunks.numbers[:-1]]
        assert apart.mean() == pytest.approx(per_chunk * window / 3, rel=0.02)

    def test_a_batch_holds_as_many_classes_as_one_of_the_whole_permutation(self) -> None:
        count, batch = 200_000, 256
        labels = np.random.default_rng(0).integers(0, 1000, count)
        chunks = Chunks.cut(np.arange(count), np.ones(count, np.int64), 147, 64)
        found = [
            np.mean([len(np.unique(labels[part])) for part in np.split(order[: 500 * batch], 500)])
            for order in (chunks.permutation(seed=0, epoch=0), permutation(count, 0, 1))
        ]
        assert found[0] == pytest.approx(found[1], rel=0.01)

    def test_a_file_sorted_by_class_is_refused(self, tmp_path: Path, photos: Path) -> None:
        recipe = Recipe(data=DataRecipe(order="chunked"))
        assert training_order(recipe, open_dataset(photos)).chunks is not None
        images = [jpeg(smooth_image(16, 16, 0))] * 40
        path = write_beton(tmp_path / "sorted.beton", images, [i // 8 for i in range(40)])
        with pytest.raises(UsageError, match=r"sorted\.beton: its records are sorted by class"):
            training_order(recipe, open_dataset(path))
        assert training_order(Recipe(), open_dataset(path)).chunks is None
        one_class = write_beton(tmp_path / "one.beton", images, [0] * 40)
        assert training_order(recipe, open_dataset(one_class)).chunks is not None


class TestReplacements:
    """`data.on_error=skip`: what comes in the place of a damaged record."""

    @given(num_samples=st.integers(1, 2**31), seed=st.integers(0, 2**32 - 1), attempt=st.integers(0, MAX_REPLACEMENTS))
    def test_they_depend_on_the_sample_and_not_on_its_batch(self, num_samples: int, seed: int, attempt: int) -> None:
        epochs, ids = np.arange(20) // 7, np.arange(20) * 31
        drawn = draw_replacements(num_samples, seed, epochs, ids, attempt)
        assert drawn.min() >= 0
        assert drawn.max() < num_samples
        assert np.array_equal(drawn[5:9], draw_replacements(num_samples, seed, epochs[5:9], ids[5:9], attempt))

    def test_every_attempt_every_sample_and_every_epoch_has_its_own(self) -> None:
        ids = np.arange(1000)
        drawn = [
            draw_replacements(10**9, 0, np.full(1000, epoch), ids, attempt) for epoch in (0, 1) for attempt in (0, 1)
        ]
        assert len(np.unique(np.concatenate(drawn))) > 3990


@given(num_samples=st.integers(1, 200), world_size=st.integers(1, 9))
def test_evaluation_sees_every_sample_exactly_once(num_samples: int, world_size: int) -> None:
    parts = [evaluation_ids(num_samples, rank, world_size) for rank in range(world_size)]
    assert np.concatenate(parts).tolist() == list(range(num_samples))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_random_draws_are_uniform_and_independent() -> None:
    counters = np.arange(200_000)
    first, second = counter_uint64(7, 1, 0, counters), counter_uint64(7, 2, 0, counters)
    assert abs(uniform(first).mean() - 0.5) < 0.005
    assert abs(np.corrcoef(uniform(first), uniform(second))[0, 1]) < 0.01
    counts = np.bincount(integers(first, 7), minlength=7)
    assert counts.sum() == 200_000
    assert abs(counts / 200_000 - 1 / 7).max() < 0.005
    draws = normal(first, second)
    assert abs(draws.mean()) < 0.01
    assert abs(draws.std() - 1) < 0.01


@given(seed=st.integers(0, 2**32), streams=st.lists(st.integers(0, 20), min_size=1, max_size=4))
def test_streams_drawn_at_once_are_those_drawn_one_by_one(seed: int, streams: list[int]) -> None:
    epochs, ids = np.arange(5) % 2, np.arange(5)
    at_once = counter_uint64(seed, np.array(streams)[:, None], epochs, ids)
    assert np.array_equal(at_once, [counter_uint64(seed, stream, epochs, ids) for stream in streams])


@given(below=st.integers(1, 2**32 - 1), seed=st.integers(0, 2**64 - 1))
def test_integers_stay_in_range(below: int, seed: int) -> None:
    drawn = integers(counter_uint64(seed, 1, np.arange(50)), below)
    assert drawn.min() >= 0
    assert drawn.max() < below


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_permutation_is_one(size: int) -> None:
    assert sorted(permutation(size, seed=5, stream=1, counter=2)) == list(range(size))
