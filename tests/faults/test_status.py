"""The status of real runs: finished, killed, stopped, refused, in use, with no room for it."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import pytest

from tests.faults.trainers import Trainers, can_mount, mounted, until
from trainer.run_status import RunStatus, read_status
from trainer.status.runs import KILLED, look

LONG = "schedule.budget=100000it"


def status_of(trainers: Trainers) -> RunStatus:
    status = read_status(trainers.runs / "run")
    assert status is not None
    return status


def test_from_the_first_step_over_a_kill_and_a_stop_to_the_end(trainers: Trainers) -> None:
    run = trainers.runs / "run"
    trainer = trainers.start("run", LONG)
    until(lambda: trainers.steps("run") >= 2 and read_status(run) is not None)
    at_work = look(run)
    assert at_work.at_work
    assert at_work.status.pid == trainer.ranks[0].pid
    trainer.kill()
    assert look(run).state == KILLED
    assert not look(run).status.final

    trainer = trainers.start("run", LONG)
    until(lambda: sum(line["kind"] == "start" for line in trainers.lines("run")) == 2)
    trainer.signal(signal.SIGTERM)
    assert trainer.wait() == [85]
    stopped = status_of(trainers)
    assert (stopped.state, stopped.final, stopped.exit_status, stopped.restarts) == ("stopped", True, 85, 1)
    assert stopped.step == trainers.state("run")["step"]
    assert stopped.message in trainer.output

    budget = (f"schedule.budget={stopped.step + 2}it", "resume.allow=[schedule.budget]")
    trainers.finish("run", *budget)
    finished = status_of(trainers)
    assert (finished.state, finished.final, finished.exit_status, finished.restarts) == ("finished", True, 0, 2)
    assert finished.step == finished.steps == stopped.step + 2
    assert finished.top1_error_validation == pytest.approx(trainers.state("run")["best"]["top1_error"], abs=1)
    trainers.finish("run", *budget)  # it is finished already
    assert status_of(trainers).state == "finished"


def test_a_trainer_that_is_kept_out_leaves_the_status_to_the_one_within(trainers: Trainers) -> None:
    first = trainers.start("run", LONG)
    until(lambda: trainers.steps("run") >= 1 and (trainers.runs / "run" / "status.json").exists())
    for overrides in ((), ("data.train=/none.beton",)):
        second = trainers.start("run", LONG, *overrides)
        assert second.wait() == [2]
        assert status_of(trainers).pid == first.ranks[0].pid
        assert look(trainers.runs / "run").at_work


def test_in_the_same_launch_an_error_of_the_input_is_not_tried_again(trainers: Trainers) -> None:
    trainers.variables = {"TRAINER_LAUNCH": "1234.0", "TORCHELASTIC_RESTART_COUNT": "0"}
    trainer = trainers.start("run", "data.train=/none.beton")
    assert trainer.wait() == [2]
    assert status_of(trainers).final
    (error,) = (line for line in trainer.output.splitlines() if line.startswith("error: "))

    trainers.variables["TORCHELASTIC_RESTART_COUNT"] = "1"
    trainer = trainers.start("run")  # though this one would succeed
    assert trainer.wait() == [2]
    assert trainer.output == f"{error}\n"

    trainers.variables["TRAINER_LAUNCH"] = "1234.1"
    trainers.finish("run", "schedule.budget=2it")
    assert status_of(trainers).launch == "1234.1"


def test_a_lost_rank_is_no_last_word(trainers: Trainers) -> None:
    trainer = trainers.start("run", LONG, world_size=2)
    until(lambda: trainers.steps("run") >= 2)
    trainer.signal(signal.SIGKILL, rank=1)
    assert trainer.wait() == [1, -signal.SIGKILL]
    status = status_of(trainers)
    assert (status.state, status.final, status.world_size) == ("failed", False, 2)
    assert "lost contact" in str(status.error)


@pytest.mark.parametrize("command", ["train", "evaluate", "recalibrate", "responses"])
def test_another_world_size_than_was_launched_is_refused(command: str, trainers: Trainers) -> None:
    trainers.finish("run", "schedule.budget=2it")
    trainers.variables = {"TRAINER_WORLD_SIZE": "2"}
    if command == "train":
        trainer = trainers.start("run", "schedule.budget=2it")
    else:
        data = f"{trainers.data}/train.beton"
        trainer = trainers.launch("other", [command, str(trainers.runs / "run"), "--data", data], world_size=1)
    assert trainer.wait() == [2]
    (line,) = trainer.output.splitlines()
    assert line.startswith("error: TRAINER_WORLD_SIZE is 2, and this launch has 1 process(es); start 2 that know of ")
    if command == "train":
        assert status_of(trainers).error == line.removeprefix("error: ")
        trainers.finish("two", "schedule.budget=2it", world_size=2)


@pytest.mark.skipif(not can_mount(), reason="needs to mount a small file system, as root")
def test_a_full_disk_for_the_status_alone_does_not_end_the_run(trainers: Trainers, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "checkpoints").mkdir(parents=True)
    (elsewhere / "metrics.jsonl").touch()
    with mounted(trainers.runs / "run", "size=256k") as run:
        for name in ("checkpoints", "metrics.jsonl"):
            (run / name).symlink_to(elsewhere / name)
        trainer = trainers.start("run", LONG, "schedule.kind=constant", "checkpoint.every=100000it")
        until(lambda: trainers.steps("run") >= 1 and (run / "status.json").exists())
        fill(run)
        filled_at = trainers.steps("run")
        until(lambda: trainers.steps("run") >= filled_at + 3)
        trainer.signal(signal.SIGTERM)
        assert trainer.wait() == [85], trainer.output
        assert trainer.output.count("status.json: cannot write it: No space left on device") == 1
        assert json.loads((run / "status.json").read_text())["state"] != "stopped"


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
