"""A step whose loss or gradient is not finite leaves the run as if it had not been."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.ranks import on_ranks
from tests.small import make_run
from trainer import checkpoint
from trainer.batch_norm import set_momentum
from trainer.nonfinite import StepGuard, is_finite
from trainer.record import read_metrics


class Training:
    """Steps of SGD with momentum on a small network with BN, under a guard."""

    def __init__(self, checks_gradients: bool = True) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )
        set_momentum(self.module, updates=2)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.guard = StepGuard(self.module, checks_gradients)

    def step(self, images: torch.Tensor, spoil: Any = None) -> bool:
        """Two micro-batches, as in the loop. Returns whether the parameters were changed."""
        self.guard.begin()
        losses = torch.zeros((), dtype=torch.float64)
        for part in images.split(4):
            loss = self.module(part).square().mean()
            loss.backward()
            losses += loss.detach()
        if spoil is not None:
            spoil(self.module)
        allowed = self.guard.allows(losses)
        if allowed:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return allowed

    def state(self) -> list[torch.Tensor]:
        """Everything that the next step depends on."""
        momenta = [state["momentum_buffer"] for state in self.optimizer.state.values()]
        return copy.deepcopy([*self.module.parameters(), *self.module.buffers(), *momenta])


def batch(seed: int, size: int = 8) -> torch.Tensor:
    return torch.randn(size, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def with_a(value: float, seed: int = 9) -> torch.Tensor:
    images = batch(seed)
    images[5, 1, 2, 3] = value
    return images


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_batch_that_is_not_finite_changes_nothing(value: float) -> None:
    training = Training()
    assert training.step(batch(0))
    assert training.step(batch(1))
    before = training.state()
    assert not training.step(with_a(value))
    assert same(training.state(), before)


def test_a_run_that_met_such_batches_goes_on_as_one_that_did_not() -> None:
    disturbed, quiet = Training(), Training()
    for training in (disturbed, quiet):
        for seed in range(4):
            if training is disturbed and seed in (0, 2):
                assert not training.step(with_a(math.nan))
            assert training.step(batch(seed))
    assert same(disturbed.state(), quiet.state())


def test_finite_steps_are_those_without_a_guard() -> None:
    training, bare = Training(), Training()
    before = training.state()
    for seed in range(2):
        assert training.step(batch(seed))
        for part in batch(seed).split(4):
            bare.module(part).square().mean().backward()
        bare.optimizer.step()
        bare.optimizer.zero_grad()
    assert same(training.state(), bare.state())
    assert not same(training.state()[: len(before)], before)


def spoil_a_gradient(module: nn.Module) -> None:
    next(module.parameters()).grad[0, 0, 0, 0] = math.inf


def test_a_gradient_that_is_not_finite_is_refused_though_the_loss_is() -> None:
    training = Training()
    training.step(batch(0))
    before = training.state()
    assert not training.step(batch(1), spoil_a_gradient)
    assert same(training.state(), before)


def test_large_gradients_are_finite_though_their_squares_are_not() -> None:
    module = nn.Linear(3, 2)
    for value, finite in ((1e30, True), (-3e38, True), (math.inf, False), (-math.inf, False), (math.nan, False)):
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        module.weight.grad[1, 2] = value
        assert StepGuard(module, checks_gradients=True).allows(torch.zeros(())) == finite


def test_gradients_are_left_to_a_scaler_that_looks_at_them_itself() -> None:
    training = Training(checks_gradients=False)
    assert training.step(batch(0), spoil_a_gradient)
    assert not Training(checks_gradients=False).step(with_a(math.nan))


def test_parameters_without_a_gradient_and_networks_without_bn_are_no_matter() -> None:
    module = nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    guard = StepGuard(module, checks_gradients=True)
    for value, finite in ((1.0, True), (math.nan, False)):
        guard.begin()
        loss = module(torch.full((2, 3), value)).mean()
        loss.backward()
        assert guard.allows(loss.detach()) == finite
        module.zero_grad()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_or_momentum_that_are_not_finite_are_found(value: float) -> None:
    training = Training()
    assert is_finite(training.module, training.optimizer)
    training.step(batch(0))
    assert is_finite(training.module, training.optimizer)
    weight = next(training.module.parameters())
    for tensor in (weight.data, training.optimizer.state[weight]["momentum_buffer"]):
        kept = tensor[3, 2, 1, 0].item()
        tensor[3, 2, 1, 0] = value
        assert not is_finite(training.module, training.optimizer)
        tensor[3, 2, 1, 0] = kept
    assert is_finite(training.module, training.optimizer)


def steps_on(rank: int) -> tuple[bool, bool, bool]:
    training = Training()
    first = training.step(batch(rank))
    before = training.state()
    second = training.step(with_a(math.nan) if rank == 1 else batch(3))
    return first, second, same(training.state(), before)


def test_ranks_decide_alike_when_one_of_them_has_the_bad_batch() -> None:
    assert on_ranks(2, steps_on) == [(True, False, True)] * 2


def test_a_step_whose_gradient_is_not_finite_is_counted_and_told_as_one_whose_loss_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, "trainer.on_nonfinite=skip", "optimizer.micro_batch=8")
    backward = itertools.count()
    parameter = next(run.module.parameters())
    parameter.register_hook(lambda gradient: gradient * math.inf if next(backward) == 1 else gradient)
    run.train()
    assert run.nonfinite == 1
    lines = [line for line in read_metrics(run.recipe.run_dir) if line["kind"] == "nonfinite"]
    assert [(line["step"], len(line["sample_ids"])) for line in lines] == [(2, 8)]
    assert "is nan at step 2, of samples " in capsys.readouterr().out
    assert checkpoint.load(run.recipe.run_dir)["nonfinite"] == 1
