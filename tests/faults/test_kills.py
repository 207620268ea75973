"""Processes that are killed, anywhere: what they had saved is whole, and the same command goes on from it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest

from tests.faults.trainers import TINY, Trainers, same_weights, until
from tests.processes import mark, members, pid_of
from tests.samples import PYTHON, REPOSITORY
from trainer.errors import Preempted

KILLS = 20


def test_killed_at_twenty_random_moments_it_ends_as_if_nothing_had_been(
    trainers: Trainers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every third time in the middle of writing a checkpoint."""
    options = ("schedule.budget=90it", "checkpoint.every=2it", "evaluation.every=15it")
    quiet = Trainers(trainers.data, tmp_path_factory.mktemp("quiet"))
    quiet.finish("run", *options)
    draw = random.Random(0)
    checkpoints = trainers.runs / "run" / "checkpoints"
    for kill in range(KILLS):
        before = trainers.steps("run")
        trainer = trainers.start("run", *options)
        if kill % 3 == 2:
            until(lambda: any(checkpoints.glob(".partial-*")), poll=0.0002)
        else:
            moment = before + draw.randrange(6)
            until(lambda: trainers.steps("run") >= moment)  # noqa: B023
            time.sleep(draw.uniform(0, 0.05))
        assert trainer.ranks[0].exitcode is None, trainer.output
        trainer.kill()
    trainer = trainers.finish("run", *options)
    assert "going on at step" in trainer.output
    assert same_weights(trainers.weights("run"), quiet.weights("run"))
    assert trainers.losses("run") == quiet.losses("run")
    assert not [path for path in checkpoints.iterdir() if path.name.startswith(".")]


def launch(trainers: Trainers, *overrides: str, processes: int) -> subprocess.Popen[str]:
    """`accelerate launch` itself, in a session of its own."""
    launcher = ["accelerate.commands.launch", "--quiet", "--num_machines=1", f"--num_processes={processes}"]
    launcher += ["--mixed_precision=no", "--dynamo_backend=no"]
    launcher += ["--multi_gpu", "--main_process_port=0"] if processes > 1 else []
    values = [f"data.train={trainers.data}/train.beton", f"data.val={trainers.data}/val.beton"]
    recipe = trainers.runs / "tiny.yaml"
    recipe.write_text("{}\n")
    command = [PYTHON, "-m", *launcher, "-m", "trainer", "train", str(recipe), "name=run", f"runs={trainers.runs}"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        **mark(trainers.runs),
    }
    return subprocess.Popen(
        [*command, *TINY, *values, *overrides],
        cwd=REPOSITORY,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_ranks_killed_ends_the_other_with_the_reason(trainers: Trainers, rank: int) -> None:
    launched = launch(trainers, "schedule.budget=100000it", processes=2)
    until(lambda: trainers.steps("run") >= 6)
    os.kill(pid_of(trainers.runs, rank), signal.SIGKILL)
    began = time.monotonic()
    _, err = launched.communicate(timeout=60)
    assert time.monotonic() - began < 40
    assert launched.returncode != 0
    assert "error: lost contact with another process of the run" in err
    assert "SIGKILL" in err  # of the launcher
    until(lambda: not members(trainers.runs), 10)
    reached = trainers.state("run")["step"]
    trainer = trainers.start("run", "schedule.budget=100000it", "trainer.max_hours=0.0005", world_size=2)
    assert trainer.wait() == [Preempted.exit_code] * 2
    assert f"going on at step {reached}" in trainer.output


@pytest.mark.slow
def test_a_run_whose_launcher_is_killed_saves_and_leaves(trainers: Trainers) -> None:
    launched = launch(trainers, "schedule.budget=100000it", processes=1)
    until(lambda: trainers.steps("run") >= 3)
    os.kill(launched.pid, signal.SIGKILL)
    until(lambda: not members(trainers.runs), 30)
    assert "stopped by SIGTERM and saved at step" in launched.communicate(timeout=10)[1]
    assert trainers.state("run")["step"] == max(trainers.losses("run"))


@pytest.mark.slow
def test_a_launcher_of_two_ranks_that_is_asked_to_stop_lets_them_save(trainers: Trainers) -> None:
    launched = launch(trainers, "schedule.budget=100000it", processes=2)
    until(lambda: trainers.steps("run") >= 3)
    launched.send_signal(signal.SIGTERM)
    _, err = launched.communicate(timeout=60)
    assert launched.returncode != 0
    assert err.count("stopped by SIGTERM and saved at step") == 1
    assert not members(trainers.runs)
    assert trainers.state("run")["step"] == max(trainers.losses("run"))
