"""Batch norm recalibrated at the end of real runs: stopped, killed, on several ranks, gone on with."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.trainers import Trainers, until
from tests.test_run_state import assert_equal
from trainer import checkpoint

TRAINED = ("model", "batch_norm_of_ranks", "ema", "optimizer", "schedule", "validated", "samples", "recalibrated")


def end(steps: int, images: int = 50) -> tuple[str, ...]:
    """A run that is recalibrated after so many steps."""
    recalibration = ("batch_norm.recalibrate=true", f"batch_norm.images={images}", "optimizer.ema=0.7")
    return (f"schedule.budget={steps}it", "resume.allow=[schedule.budget]", *recalibration)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """All that a run computes."""
    for key in TRAINED:
        assert_equal(one[key], other[key], key)


@pytest.mark.parametrize(("world_size", "number"), [(1, signal.SIGKILL), (2, signal.SIGTERM)])
def test_a_run_that_is_stopped_while_it_recalibrates_ends_as_one_that_was_not(
    trainers: Trainers, world_size: int, number: int
) -> None:
    some = end(6, images=240)  # over in a third of a second at the earliest
    trainers.finish("straight", *some, world_size=world_size)
    trainer = trainers.start("stopped", *some, world_size=world_size)
    until(lambda: trainers.steps("stopped") >= 6)
    time.sleep(0.1)
    trainer.signal(number)
    assert set(trainer.wait()) <= ({85} if number == signal.SIGTERM else {-number})
    left = trainers.state("stopped")
    assert left["recalibrated"] is None
    assert left["step"] == (6 if number == signal.SIGTERM else 4)
    trainers.finish("stopped", *some, world_size=world_size)
    assert_same(trainers.state("stopped"), trainers.state("straight"))


@pytest.mark.parametrize(("world_size", "steps"), [(1, 12), (2, 8)])
def test_a_longer_budget_goes_on_as_if_there_had_been_no_end(trainers: Trainers, world_size: int, steps: int) -> None:
    """Whether a validation was due at the first end (every 6 steps) or not; the schedule is by the plateau."""
    trainers.finish("straight", *end(14), world_size=world_size)
    trainers.finish("longer", *end(steps), world_size=world_size)
    short = trainers.state("longer")
    assert short["recalibrated"]["samples"] == 16 * steps
    trainers.finish("longer", *end(14), world_size=world_size)
    assert trainers.losses("longer") == trainers.losses("straight")
    assert_same(trainers.state("longer"), trainers.state("straight"))


def test_the_command_gives_the_same_on_any_number_of_ranks(trainers: Trainers, data: Path) -> None:
    trainers.finish("run", "optimizer.ema=0.7", "schedule.budget=6it")
    found = []
    for world_size, name in ((1, "one"), (2, "two"), (3, "three")):
        arguments = ["recalibrate", str(trainers.runs / "run"), "--data", str(data / "train.beton"), "--images", "90"]
        out = trainers.runs / name
        trainer = trainers.launch(name, [*arguments, "--out", str(out)], world_size)
        assert trainer.wait() == [0] * world_size, trainer.output
        assert trainer.output.count("batch norm recalibrated over 92 images in micro-batches of 4") == 1
        found.append(checkpoint.load(out))
    one, *others = found
    for other in others:
        for model, expected in ((other["model"], one["model"]), (other["ema"]["model"], one["ema"]["model"])):
            torch.testing.assert_close(model, expected, rtol=1e-6, atol=1e-7)
