"""The moving average of the weights."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.small import make_run
from tests.test_run_state import assert_equal
from trainer import checkpoint
from trainer.ema import MovingAverage
from trainer.run_state import state_of
from trainer.train import Run


def floats(network: nn.Module) -> list[torch.Tensor]:
    return [v.detach().double().clone() for v in network.state_dict().values() if v.is_floating_point()]


class Direct:
    """The definition, in float64, over what the weights and statistics are after each step that was made."""

    def __init__(self, run: Run, decay: float) -> None:
        self.averages, self.decay, self.steps = floats(run.module), decay, 0
        self.module = run.module
        run.sgd.optimizer.register_step_post_hook(self.after_step)

    def after_step(self, *_: Any) -> None:
        self.steps += 1
        now = floats(self.module)
        self.averages = [self.decay * a + (1 - self.decay) * v for a, v in zip(self.averages, now, strict=True)]

    def agrees_with(self, network: nn.Module) -> bool:
        found = floats(network)
        return all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(self.averages, found, strict=True))


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_it_is_the_average_of_the_weights_and_statistics_after_each_step(tmp_path: Path, decay: float) -> None:
    run = make_run(tmp_path, f"optimizer.ema={decay}", "evaluation.every=9it")
    direct = Direct(run, decay)
    run.train()
    assert direct.steps == 4
    assert run.ema is not None
    assert direct.agrees_with(run.ema.network)
    ema = checkpoint.load(tmp_path / "run")["ema"]
    run.module.load_state_dict(ema["model"])
    assert direct.agrees_with(run.module)
    assert int(ema["model"]["bn1.num_batches_tracked"]) == 8


def test_a_step_that_is_skipped_leaves_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, "optimizer.ema=0.5", "optimizer.micro_batch=8", "trainer.on_nonfinite=skip")
    direct = Direct(run, 0.5)
    backward = itertools.count()
    next(run.module.parameters()).register_hook(lambda g: g * math.nan if next(backward) == 1 else g)
    run.train()
    assert direct.steps == 3
    assert run.ema is not None
    assert direct.agrees_with(run.ema.network)


def test_there_is_none_unless_it_is_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.train()
    assert run.ema is None
    assert checkpoint.load(tmp_path / "run")["ema"] is None


def test_a_run_that_was_stopped_has_the_average_of_one_that_was_not(tmp_path: Path) -> None:
    states = []
    for name, budgets in (("straight", [4]), ("stopped", [1, 3, 4])):
        for budget in budgets:
            more = [f"name={name}", f"schedule.budget={budget}it", "schedule.kind=constant", "evaluation.every=1it"]
            run = make_run(tmp_path, "optimizer.ema=0.9", "resume.allow=[schedule.budget]", *more)
            run.train()
        states.append(state_of(run))
    for key in ("ema", "batch_norm_of_ranks", "model"):
        assert_equal(states[0][key], states[1][key], key)


def test_it_begins_where_it_is_asked_for(tmp_path: Path) -> None:
    """At the weights of a checkpoint that has none, as older ones do."""
    make_run(tmp_path, "schedule.budget=2it").train()
    state = checkpoint.load(tmp_path / "run")
    file = checkpoint.find(tmp_path / "run")
    file.with_name(checkpoint.DESCRIPTION).unlink()
    torch.save({key: value for key, value in state.items() if key not in checkpoint.LATER_KEYS}, file)
    run = make_run(tmp_path, "optimizer.ema=0.9", "resume.allow=[optimizer.ema,schedule.budget]")
    direct = Direct(run, 0.9)
    run.train()
    assert direct.steps == 2
    assert run.ema is not None
    assert direct.agrees_with(run.ema.network)


def test_it_keeps_what_it_is_of_apart() -> None:
    original = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = MovingAverage(original, 0.5)
    before = floats(original)
    average.network[0].weight.zero_()
    assert all(torch.equal(a, b) for a, b in zip(floats(original), before, strict=True))
    average.begin()
    assert torch.equal(average.network[0].weight, original[0].weight)
    assert not average.network[0].weight.requires_grad
