"""Running statistics of batch normalisation: as if the number of devices did not matter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.ranks import on_ranks
from trainer.batch_norm import (
    average_statistics,
    changes,
    combine_statistics,
    flat_statistics,
    gather_statistics,
    population_statistics,
    running_statistics,
    set_momentum,
    set_statistics,
    statistics_for,
    statistics_in,
    statistics_set,
    with_statistics,
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


def test_a_rank_goes_on_with_its_own_or_with_what_stands_for_all() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert [statistics_for(rows, rank, 2).tolist() for rank in range(2)] == rows.tolist()
    assert [statistics_for(rows, rank, 3).tolist() for rank in range(3)] == [[2.0, 4.0]] * 3


def test_a_state_with_other_statistics_has_them_and_all_else() -> None:
    model, other = network(0), network(1)
    state = with_statistics(model, model.state_dict(), flat_statistics(other))
    assert state.keys() == model.state_dict().keys()
    assert torch.equal(statistics_in(model, state), flat_statistics(other))
    assert torch.equal(statistics_in(model, model.state_dict()), flat_statistics(model))
    assert torch.equal(state["1.weight"], model[1].weight)
    other[1].weight.data = model[1].weight.data
    other[1].bias.data = model[1].bias.data
    assert all(torch.equal(state[key], value) for key, value in other.state_dict().items())


def test_other_statistics_last_as_long_as_their_block_however_it_ends() -> None:
    model, other = network(0), flat_statistics(network(1))
    before = flat_statistics(model)

    def fail_inside() -> None:
        with statistics_set(model, other):
            assert torch.equal(flat_statistics(model), other)
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert torch.equal(flat_statistics(model), before)


def test_changes_are_told_in_standard_deviations_and_fractions() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, eps=1.0), nn.BatchNorm2d(1, eps=0.0))
    old = torch.tensor([0.0, 1.0, 3.0, 8.0, 5.0, 4.0])  # means, variances; means, variances
    moved = changes(model, old, torch.tensor([1.0, 1.0, 3.0, 17.0, 5.0, 3.0]))
    assert (moved.mean_moved, moved.variance_moved) == (0.5, 1.0)
    assert str(moved) == "means by up to 0.5 standard deviations, variances by up to 100.00%"
    moved = changes(model, old, torch.tensor([0.0, 1.0, 3.0, 8.0, 9.0, 3.0]))
    assert (moved.mean_moved, moved.variance_moved) == (2.0, 0.25)
    nothing = changes(nn.Linear(1, 1), torch.zeros(0), torch.zeros(0))
    assert (nothing.mean_moved, nothing.variance_moved) == (0.0, 0.0)


# The population's


class Small(nn.Module):
    """Layers behind each other with BN, dropout and a shortcut around one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.third = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(6))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.first(images)
        return self.third(features + self.second(features))


def micro_batches(numbers: range) -> Iterator[torch.Tensor]:
    for number in numbers:
        yield 3.0 + 2.0 * torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(number))


def direct_statistics(model: nn.Module, batches: Iterator[torch.Tensor]) -> list[npt.NDArray[np.float64]]:
    """[means, variances] of each BN layer, in NumPy: what goes into the layer is averaged over each batch by itself."""
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    seen: dict[nn.Module, list[npt.NDArray[np.float64]]] = {}

    def look(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        values = inputs[0].double().numpy()
        values = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
        seen.setdefault(layer, []).append(np.stack([values.mean(axis=1), values.var(axis=1, ddof=1)]))

    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    return [np.mean(seen[layer], axis=0) for layer in layers]


def test_the_populations_statistics_are_plain_averages_over_the_micro_batches() -> None:
    networks = [Small(0), Small(1)]
    set_statistics(networks[0], torch.full_like(flat_statistics(networks[0]), torch.nan))  # what was there is no matter
    found = population_statistics(networks, micro_batches(range(40)))
    for seed, values in enumerate(found):
        direct = direct_statistics(Small(seed), micro_batches(range(40)))
        assert values.dtype == torch.float32
        assert values.numpy() == pytest.approx(np.concatenate([layer.ravel() for layer in direct]), rel=1e-5, abs=1e-6)


def test_the_population_says_when_a_micro_batch_is_done_and_may_be_left() -> None:
    def leave(done: int) -> None:
        numbers.append(done)
        if done == 3:
            raise KeyError

    numbers: list[int] = []
    with pytest.raises(KeyError):
        population_statistics([Small(0)], micro_batches(range(40)), leave)
    assert numbers == [1, 2, 3]


def population_on(rank: int, world_size: int) -> list[torch.Tensor]:
    return [population_statistics([Small(0)], micro_batches(range(rank, 4, world_size)))[0] for _ in range(2)]


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_the_population_is_that_of_all_ranks_even_of_those_that_have_nothing(world_size: int) -> None:
    alone = on_ranks(1, population_on, 1)[0][0]
    assert alone.numpy() == pytest.approx(population_statistics([Small(0)], micro_batches(range(4)))[0], rel=1e-5)
    for first, second in on_ranks(world_size, population_on, world_size):
        torch.testing.assert_close(first, alone, rtol=1e-6, atol=1e-7)
        assert torch.equal(first, second)
