"""What a line of the log is made of."""

from __future__ import annotations

import math

import pytest
import torch

from tests.ranks import on_ranks
from trainer.window import Sums, Window


def step(window: Window, loss: float, correct: int, images: int = 4, waited: float = 0.0, skipped: int = 0) -> None:
    window.add_step(torch.tensor(loss, dtype=torch.float64), torch.tensor(correct, dtype=torch.float64))
    window.count(images, waited, skipped)


def test_sums_are_of_all_steps_and_losses_of_each_in_order() -> None:
    window = Window(torch.device("cpu"))
    for loss, correct, skipped in ((2.5, 1, 0), (0.1, 4, 2), (1.0, 0, 1)):
        step(window, loss, correct, skipped=skipped)
    assert window.steps == 3
    assert window.images == 12
    assert window.read(world_size=1) == Sums([2.5, 0.1, 1.0], 1 - 5 / 12, 3)


def test_a_loss_that_is_not_finite_spoils_no_other() -> None:
    window = Window(torch.device("cpu"))
    for loss in (1.0, math.nan, 3.0, math.inf):
        step(window, loss, 2)
    first, second, third, fourth = window.read(world_size=1).losses
    assert (first, third, fourth) == (1.0, 3.0, math.inf)
    assert math.isnan(second)
    assert window.read(world_size=1).top1_error == 0.5


def test_every_window_begins_anew() -> None:
    window = Window(torch.device("cpu"))
    assert window.is_first
    step(window, 9.0, 0, waited=1e9, skipped=3)
    window.begin()
    assert (window.steps, window.images) == (0, 0)
    step(window, 1.0, 4)
    assert window.read(world_size=1) == Sums([1.0], 0.0, 0)
    assert window.rates()[1] == 0.0


def test_rates_are_of_the_time_since_the_window_began() -> None:
    window = Window(torch.device("cpu"))
    assert window.rates() == (0.0, 0.0)
    step(window, 1.0, 0, images=1000)
    earlier, later = window.rates()[0], window.rates()[0]
    assert earlier > later > 0
    step(window, 1.0, 0, waited=1e9)  # more than there was, as clocks of two threads may say
    assert window.rates()[1] == 1.0


def read_on(rank: int) -> Sums:
    window = Window(torch.device("cpu"))
    step(window, 1.0 + rank, correct=1 + rank, images=8, skipped=rank)
    step(window, math.nan if rank == 1 else 1.0, correct=0, images=8)
    step(window, 5.0, correct=4, images=8, skipped=1)
    return window.read(world_size=2)


def test_ranks_share_the_steps() -> None:
    one, other = on_ranks(2, read_on)
    assert one.losses[0::2] == other.losses[0::2] == [1.5, 5.0]
    assert math.isnan(one.losses[1])
    assert math.isnan(other.losses[1])
    assert one.top1_error == other.top1_error == pytest.approx(1 - 11 / 24)
    assert one.skipped == other.skipped == 3
