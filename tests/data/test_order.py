"""The order of the samples: laws 1 and 2."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.order import TrainingOrder, evaluation_batches
from trainer.data.random import counter_uint64, integers, normal, permutation, uniform


@given(num_samples=st.integers(1, 60), seed=st.integers(0, 2**63), epoch=st.integers(0, 4))
def test_every_sample_comes_once_an_epoch(num_samples: int, seed: int, epoch: int) -> None:
    request = TrainingOrder(num_samples, seed).take(epoch * num_samples, num_samples)
    assert sorted(request.ids) == list(range(num_samples))
    assert set(request.epochs) == {epoch}


@given(num_samples=st.integers(1, 40), share=st.integers(1, 5), world_size=st.integers(1, 4), start=st.integers(0, 20))
def test_the_ranks_slices_make_up_the_global_batch_wherever_a_run_starts(
    num_samples: int, share: int, world_size: int, start: int
) -> None:
    batch = share * world_size
    order = TrainingOrder(num_samples, seed=3)
    whole = [list(request.ids) for request in order.batches(0, 24 * batch, batch, rank=0, world_size=1)]
    ranks = [
        [list(request.ids) for request in order.batches(start * batch, 24 * batch, batch, rank, world_size)]
        for rank in range(world_size)
    ]
    for step, parts in enumerate(zip(*ranks, strict=True), start=start):
        assert [sample for part in parts for sample in part] == whole[step]


def test_epochs_differ_and_so_do_seeds() -> None:
    order = TrainingOrder(100, seed=0)
    first, second = order.take(0, 100).ids, order.take(100, 100).ids
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, TrainingOrder(100, seed=1).take(0, 100).ids)


def test_the_order_is_the_same_for_ever() -> None:
    assert list(permutation(10, seed=0, stream=1)) == [2, 9, 7, 0, 5, 1, 4, 3, 8, 6]


@given(num_samples=st.integers(1, 200), batch=st.integers(1, 50), world_size=st.integers(1, 9))
def test_evaluation_sees_every_sample_exactly_once(num_samples: int, batch: int, world_size: int) -> None:
    ids = [
        sample
        for rank in range(world_size)
        for request in evaluation_batches(num_samples, batch, rank, world_size)
        for sample in request.ids
    ]
    assert sorted(ids) == list(range(num_samples))


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


@given(below=st.integers(1, 2**32 - 1), seed=st.integers(0, 2**64 - 1))
def test_integers_stay_in_range(below: int, seed: int) -> None:
    drawn = integers(counter_uint64(seed, 1, np.arange(50)), below)
    assert drawn.min() >= 0
    assert drawn.max() < below


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_permutation_is_one(size: int) -> None:
    assert sorted(permutation(size, seed=5, stream=1, counter=2)) == list(range(size))
