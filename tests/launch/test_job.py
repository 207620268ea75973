"""`trainer job`: what the launch scripts ask of a recipe before they queue it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from tests.faults.trainers import can_mount, mounted
from tests.launch.trainings import make_recipe
from trainer.errors import UsageError
from trainer.job import describe_job
from trainer.lock import RunLock


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return make_recipe(tmp_path)


def ask(file: Path, *overrides: str, processes: int | None = 2, sweep: bool = False, later: bool = False) -> list[str]:
    return list(describe_job(file, list(overrides), sweep=sweep, processes=processes, data_later=later))


def test_a_recipe_is_told_by_its_words_its_folder_and_its_data(recipe: Path, tmp_path: Path) -> None:
    words, run, train, val = ask(recipe, "seed=3", "resume.allow=[schedule.budget]")
    assert shlex.split(words.removeprefix("recipe=")) == [str(recipe), "seed=3", "resume.allow=[schedule.budget]"]
    assert run == f"run={tmp_path}/runs/tiny"
    assert (train, val) == (f"train={tmp_path}/train.beton", f"val={tmp_path}/val.beton")


def test_a_sweep_is_told_run_by_run(recipe: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("set: [precision=fp32]\nruns: [tiny.yaml, {recipe: tiny.yaml, name: other, set: [seed=2]}]\n")
    lines = ask(sweep, "log.every=3it", sweep=True)
    assert len(lines) == 8
    assert lines[4] == f"recipe={recipe} precision=fp32 name=other seed=2 log.every=3it"
    assert lines[5] == f"run={tmp_path}/runs/other"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optimizer.micro_batch=16"], "2 processes cannot share a global batch of 16"),
        (["data.val=nowhere.beton"], r"nowhere\.beton"),
        (["model.name=resnet19"], "resnet19"),
        (["optimizer.lr=-1"], "optimizer.lr is -1"),
    ],
)
def test_what_would_end_the_job_at_once_is_refused(recipe: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ask(recipe, *overrides)


def test_without_processes_only_the_recipe_is_read(recipe: Path) -> None:
    assert len(ask(recipe, "data.val=nowhere.beton", processes=None)) == 4


def test_data_that_are_made_later_are_not_missed(recipe: Path) -> None:
    assert len(ask(recipe, "data.val=nowhere.beton", later=True)) == 4
    with pytest.raises(UsageError, match="resnet19"):
        ask(recipe, "model.name=resnet19", later=True)


def test_a_run_that_is_at_work_is_not_queued_again(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    child = os.fork()
    if child == 0:
        lock = RunLock(tmp_path / "runs" / "tiny")
        (tmp_path / "locked").touch()
        while (tmp_path / "locked").exists():
            os.sched_yield()
        lock.release()
        os._exit(0)
    while not (tmp_path / "locked").exists():
        os.sched_yield()
    try:
        with pytest.raises(UsageError, match=f"another trainer is at work in this run folder .process {child} "):
            ask(recipe)
    finally:
        (tmp_path / "locked").unlink()
        os.waitpid(child, 0)


@pytest.mark.skipif(not can_mount(), reason="mounts a file system, which only root may")
def test_a_disk_without_room_for_a_checkpoint_is_refused(recipe: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=1m") as small, pytest.raises(UsageError, match="1 MiB free; 5 checkpoint"):
        ask(recipe, f"runs={small}")


def test_the_place_in_a_sweep_is_told(recipe: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("runs: [tiny.yaml, {recipe: tiny.yaml, name: other, set: [optimizer.micro_batch=16]}]\n")
    with pytest.raises(UsageError, match=r"sweep\.yaml, entry 2: 2 processes"):
        ask(sweep, sweep=True)
