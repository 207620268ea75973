"""Gradients are the same, bit for bit, whatever ranks their micro-batches are spread over."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.ranks import on_ranks
from trainer.gradients import ExactGradients

Gradients = list[torch.Tensor]


class Network(nn.Module):
    """A frozen parameter among others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.norm.bias.requires_grad_(False)
        self.fc = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(images)).relu().mean((2, 3)))  # type: ignore[no-any-return]


def sum_up(module: nn.Module, micro_batches: list[Gradients], count: int | None = None) -> Gradients:
    """The mean of these gradients of a network's parameters, taken in one after the other."""
    exact = ExactGradients(module)
    parameters = [p for p in module.parameters() if p.requires_grad]
    for gradients in micro_batches:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        exact.add()
    exact.finish(count or len(micro_batches))
    return [p.grad.clone() for p in parameters]


def draw_gradients(module: nn.Module, micro_batches: int, seed: int, octaves: int) -> list[Gradients]:
    """All bits of the mantissas drawn, over so many powers of two, both signs."""
    rng = np.random.default_rng(seed)

    def draw(shape: torch.Size) -> torch.Tensor:
        mantissas = rng.integers(-(2**24), 2**24, shape)
        return torch.from_numpy((mantissas * 2.0 ** -rng.integers(24, 24 + octaves, shape)).astype(np.float32))

    shapes = [p.shape for p in module.parameters() if p.requires_grad]
    return [[draw(shape) for shape in shapes] for _ in range(micro_batches)]


def equal(one: Gradients, other: Gradients) -> bool:
    return all(torch.equal(ours, theirs) for ours, theirs in zip(one, other, strict=True))


@given(st.data(), st.integers(1, 16), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_sum_does_not_matter(data: st.DataObject, micro_batches: int, seed: int) -> None:
    """Float64 has 29 bits more than float32: sums of 2**k numbers that span 29 - k octaves are exact."""
    module = Network()
    gradients = draw_gradients(module, micro_batches, seed, octaves=25)
    order = data.draw(st.permutations(gradients))
    assert equal(sum_up(module, gradients), sum_up(module, order))


@given(st.integers(1, 16), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_mean_is_that_of_real_numbers_rounded_once(micro_batches: int, seed: int) -> None:
    module = Network()
    gradients = draw_gradients(module, micro_batches, seed, octaves=25)
    expected = [torch.stack(parts).double().mean(dim=0).float() for parts in zip(*gradients, strict=True)]
    assert equal(sum_up(module, gradients), expected)


def train_step(rank: int, world_size: int) -> Gradients:
    """The gradients after eight micro-batches, of which each rank has its share."""
    torch.manual_seed(0)
    module = Network().to(memory_format=torch.channels_last)
    images, labels = torch.randn(32, 3, 8, 8), torch.randint(2, (32,))
    exact = ExactGradients(module)
    share = 8 // world_size
    for part in range(rank * share, (rank + 1) * share):
        mine = slice(4 * part, 4 * part + 4)
        nn.functional.cross_entropy(module(images[mine]), labels[mine]).backward()
        exact.add()
        assert all(p.grad is None for p in module.parameters())
    exact.finish(8)
    return [p.grad for p in module.parameters() if p.grad is not None]


@pytest.fixture
def one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_ranks_have_the_gradients_of_one_process() -> None:
    alone = train_step(0, 1)
    for world_size in (2, 4):
        assert all(equal(found, alone) for found in on_ranks(world_size, train_step, world_size))


def test_gradients_have_the_places_of_their_parameters_in_any_memory_format() -> None:
    module = Network()
    gradients = draw_gradients(module, 3, seed=1, octaves=4)
    expected = sum_up(module, gradients)
    module.to(memory_format=torch.channels_last)
    assert not module.conv.weight.is_contiguous()
    turned = [[g.to(memory_format=torch.channels_last) if g.ndim == 4 else g for g in part] for part in gradients]
    assert equal(sum_up(module, gradients), expected)
    assert equal(sum_up(module, turned), expected)


def test_a_frozen_parameter_gets_none_and_one_that_the_loss_does_not_reach_zeros() -> None:
    module = Network()
    exact = ExactGradients(module)
    module.fc.weight.grad = torch.ones_like(module.fc.weight)
    exact.add()
    exact.finish(2)
    assert module.norm.bias.grad is None
    assert torch.equal(module.fc.weight.grad, torch.full_like(module.fc.weight, 0.5))
    assert torch.equal(module.conv.weight.grad, torch.zeros_like(module.conv.weight))


def test_nothing_stays_for_the_next_step_not_even_nan() -> None:
    module = Network()
    gradients = draw_gradients(module, 2, seed=2, octaves=4)
    exact = ExactGradients(module)
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, torch.nan)
    exact.add()
    exact.finish(1)
    assert all(p.grad.isnan().all() for p in parameters)
    for part in gradients:
        for parameter, gradient in zip(parameters, part, strict=True):
            parameter.grad = gradient.clone()
        exact.add()
    exact.finish(2)
    assert equal([p.grad for p in parameters if p.grad is not None], sum_up(module, gradients))
