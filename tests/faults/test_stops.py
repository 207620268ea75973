"""Asked to stop, a run saves and leaves; the same command goes on as if nothing had been."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.trainers import Trainer, Trainers, same_weights, until
from trainer.errors import Preempted
from trainer.stops import SAME_PRESS_SECONDS

STATUS = Preempted.exit_code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_stops_at_a_step_that_is_saved(trainers: Trainers, undisturbed: Trainers, number: int) -> None:
    trainer = trainers.start("run")
    until(lambda: trainers.steps("run") >= 7)
    trainer.signal(number)
    assert trainer.wait() == [STATUS]
    stopped_at = trainers.state("run")["step"]
    assert trainers.losses("run").keys() == set(range(1, stopped_at + 1))
    name = signal.Signals(number).name
    assert f"stopped by {name} and saved at step {stopped_at} of 24; the same command goes on" in trainer.output
    last = trainers.lines("run")[-1]
    assert (last["kind"], last["cause"], last["step"]) == ("stop", name, stopped_at)
    assert "Traceback" not in trainer.output

    trainer = trainers.finish("run")
    assert f"going on at step {stopped_at} of 24" in trainer.output
    assert same_weights(trainers.weights("run"), undisturbed.weights("one"))
    assert trainers.losses("run") == undisturbed.losses("one")


def test_a_run_stopped_after_every_few_steps_ends_as_if_it_had_not_been(
    trainers: Trainers, undisturbed: Trainers
) -> None:
    """Also where validations are due: one that a stop left out is made up for."""
    stops = 0
    while True:
        before = trainers.steps("run")
        trainer = trainers.start("run")
        until(lambda: trainers.steps("run") > before or trainer.ranks[0].exitcode is not None)  # noqa: B023
        if trainer.ranks[0].exitcode is None:
            trainer.signal(signal.SIGTERM)
        code = trainer.wait()[0]
        if code == 0:
            break
        assert code == STATUS
        stops += 1
    assert stops >= 5
    assert same_weights(trainers.weights("run"), undisturbed.weights("one"))
    assert trainers.losses("run") == undisturbed.losses("one")
    assert trainers.state("run")["schedule"] == undisturbed.state("one")["schedule"]
    assert trainers.state("run")["best"] == undisturbed.state("one")["best"]


def test_a_signal_to_one_rank_stops_both_at_the_same_step(trainers: Trainers, undisturbed: Trainers) -> None:
    trainer = trainers.start("run", world_size=2)
    until(lambda: trainers.steps("run") >= 9)
    trainer.signal(signal.SIGUSR1, rank=1)
    assert trainer.wait() == [STATUS, STATUS]
    assert trainer.output.count("stopped by SIGUSR1 and saved at step") == 1
    trainers.finish("run", world_size=2)
    # Running statistics of BN are each rank's own; the averages that checkpoints show would round them otherwise.
    assert same_weights(trainers.weights("run"), undisturbed.weights("two"))
    assert trainers.losses("run") == undisturbed.losses("two")


def test_before_the_first_step_there_is_nothing_to_save(trainers: Trainers) -> None:
    trainer = trainers.start("run")
    until(lambda: (trainers.runs / "run").exists())
    trainer.signal(signal.SIGTERM)
    assert trainer.wait() == [STATUS]
    assert "stopped by SIGTERM" in trainer.output
    assert "Traceback" not in trainer.output


@pytest.fixture
def stuck(trainers: Trainers) -> Trainer:
    """A run of two ranks, the first of which waits for the second, which is frozen."""
    trainer = trainers.start("run", "trainer.stop_grace=4", "schedule.budget=100000it", world_size=2)
    until(lambda: trainers.steps("run") >= 3)
    trainer.signal(signal.SIGSTOP, rank=1)
    time.sleep(0.5)
    return trainer


def test_a_second_interrupt_stops_at_once(stuck: Trainer) -> None:
    stuck.signal(signal.SIGINT)
    stuck.signal(signal.SIGINT)  # of the same Ctrl-C: the launcher got it, too
    time.sleep(SAME_PRESS_SECONDS + 0.2)
    assert stuck.ranks[0].exitcode is None
    stuck.signal(signal.SIGINT)
    stuck.ranks[0].join(3.5)  # the grace would be over later
    assert stuck.ranks[0].exitcode == 130
    assert "error: interrupted" in stuck.output
    assert "Traceback" not in stuck.output


def test_what_cannot_stop_in_time_is_ended(stuck: Trainer) -> None:
    stuck.signal(signal.SIGTERM)
    stuck.ranks[0].join(20)
    assert stuck.ranks[0].exitcode == 1
    assert "error: did not stop within trainer.stop_grace, 4 s; what came after the last checkpoint" in stuck.output


def test_a_limit_of_time_stops_as_a_signal_does(trainers: Trainers) -> None:
    trainer = trainers.start("run", "trainer.max_hours=0.0006", "schedule.budget=100000it")
    assert trainer.wait() == [STATUS]
    assert "stopped by the end of trainer.max_hours and saved at step" in trainer.output
    assert trainers.state("run")["step"] == max(trainers.losses("run"))


def test_checkpoints_are_made_by_the_minute_too(trainers: Trainers) -> None:
    trainer = trainers.start("run", "checkpoint.every=100000it", "checkpoint.minutes=0.01", "schedule.budget=100000it")
    until(lambda: len([line for line in trainers.lines("run") if line["kind"] == "checkpoint"]) >= 4)
    trainer.kill()
    assert trainers.state("run")["step"] >= 3
