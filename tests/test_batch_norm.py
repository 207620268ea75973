"""Running statistics of batch normalisation: as if the number of devices did not matter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.ranks import on_ranks
from trainer.batch_norm import (
    average_statistics,
    combine_statistics,
    gather_statistics,
    running_statistics,
    set_momentum,
    set_statistics,
)


def network(seed: int) -> nn.Module:
    """Layers with statistics, drawn, and one without."""
    made = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 1), nn.BatchNorm1d(5), nn.BatchNorm2d(2, affine=False))
    made.append(nn.BatchNorm2d(4, track_running_stats=False))
    draw = torch.Generator().manual_seed(seed)
    for buffer in running_statistics(made):
        buffer.copy_(torch.randn(buffer.shape, generator=draw))
    return made


@pytest.mark.parametrize("updates", [1, 2, 8])
def test_a_step_forgets_the_same_whatever_the_number_of_its_updates(updates: int) -> None:
    layer = nn.BatchNorm2d(1)
    set_momentum(layer, updates)
    for _ in range(updates):
        layer(torch.full((4, 1, 2, 2), 5.0))
    assert layer.running_mean is not None
    assert layer.running_mean.item() == pytest.approx(0.1 * 5.0)


def test_alone_there_is_nothing_to_combine() -> None:
    layer = nn.BatchNorm2d(2)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    combine_statistics(layer)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_statistics_are_the_means_and_variances_of_all_layers_that_have_some() -> None:
    model = network(0)
    assert [tuple(buffer.shape) for buffer in running_statistics(model)] == [(3,), (3,), (5,), (5,), (2,), (2,)]
    assert running_statistics(model)[1] is model[0].running_var
    assert gather_statistics(model).shape == (1, 20)


def test_gathered_statistics_can_be_set_again() -> None:
    model, other = network(0), network(1)
    gathered = gather_statistics(model)
    assert not torch.equal(gather_statistics(other), gathered)
    set_statistics(other, gathered[0])
    assert all(torch.equal(a, b) for a, b in zip(running_statistics(model), running_statistics(other), strict=True))
    for buffer in running_statistics(model):  # what was gathered is a copy
        buffer.zero_()
    assert torch.equal(gather_statistics(other), gathered)


def test_a_network_without_statistics_has_nothing_to_gather() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    gathered = gather_statistics(model)
    assert gathered.shape == (1, 0)
    set_statistics(model, average_statistics(gathered))


floats = st.floats(width=32, allow_nan=False)


@given(st.lists(floats, min_size=1, max_size=5), st.integers(1, 64))
def test_the_average_of_equal_ranks_is_exactly_what_each_has(values: list[float], ranks: int) -> None:
    row = torch.tensor(values)
    assert torch.equal(average_statistics(row.repeat(ranks, 1)), row)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=64))
def test_averages_lie_between_the_ranks_and_do_not_depend_on_their_order(values: list[float]) -> None:
    column = torch.tensor(values)[:, None]
    average = average_statistics(column)
    assert column.min() <= average <= column.max()
    assert average_statistics(column.flip(0)).item() == pytest.approx(average.item(), rel=1e-6, abs=1e-6)


def combine_on(rank: int) -> list[torch.Tensor]:
    model = network(rank)
    own = gather_statistics(model)[rank]
    gathered = gather_statistics(model)
    combine_statistics(model)
    once = gather_statistics(model)
    combine_statistics(model)
    return [own, gathered, once, gather_statistics(model)]


def test_ranks_are_combined_into_their_average_and_once_is_enough() -> None:
    expected = torch.cat([gather_statistics(network(rank)) for rank in range(3)])
    for rank, (own, gathered, once, twice) in enumerate(on_ranks(3, combine_on)):
        assert torch.equal(own, expected[rank])
        assert torch.equal(gathered, expected)
        assert torch.equal(once, average_statistics(expected).expand(3, -1))
        assert torch.equal(twice, once)
