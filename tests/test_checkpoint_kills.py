"""Checkpoints of runs that were killed, and which of them a run goes on from."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.trainers import CONTEXT, can_mount
from trainer import checkpoint
from trainer.errors import UsageError

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink")
"""Events of Python before system calls that may change a folder."""


def state(step: int, attempt: int = 1, best: int = 0) -> dict[str, Any]:
    held = {"step": step, "samples": attempt, "best": {"step": best} if best else None}
    return {**dict.fromkeys(checkpoint.KEYS), **held, "model": {"w": torch.ones(3) * step}}


def begin_run(run: Path, *steps: int, best: int = 0) -> Path:
    for step in steps:
        checkpoint.save(run, state(step, best=best if step >= best else 0), keep=9)
    return run


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def damage(run: Path, step: int) -> None:
    file = run / "checkpoints" / checkpoint.name_of(step) / "state.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


# Killed while it saves


def save_until_killed(run: Path, step: int, place: int) -> None:
    """Save checkpoint `step` in a process that is killed before the change number `place`."""
    changes = itertools.count()

    def kill(event: str, _: object) -> None:
        if event in CHANGES and next(changes) == place:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    checkpoint.save(run, state(step, attempt=2, best=step), keep=2)


def kill_everywhere(run: Path, copies: Path, step: int, done: Connection) -> None:
    """A copy of a run for every place at which saving can be interrupted, and one where it is not."""
    for place in itertools.count():
        copy = copies / str(place)
        shutil.copytree(run, copy, symlinks=True)
        child = os.fork()
        if child == 0:
            save_until_killed(copy, step, place)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
    done.send(place)


@pytest.mark.parametrize("step", [4, 3], ids=["a-new-step", "the-same-step-again"])
def test_killed_anywhere_while_it_saves_a_run_has_the_checkpoint_before_or_the_new_one(
    tmp_path: Path, step: int
) -> None:
    run = begin_run(tmp_path / "run", 1, 2, 3, best=2)
    done, said = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=kill_everywhere, args=(run, tmp_path, step, said))
    process.start()
    process.join()
    places = done.recv()
    assert places > 20
    found = []
    for place in range(places + 1):
        copy = tmp_path / str(place)
        for folder in (copy / "checkpoints").glob("step-*"):  # a name that exists is complete
            checkpoint.load(folder)
        newest, notes = checkpoint.newest_intact(copy)
        assert newest is not None
        assert not notes
        loaded = checkpoint.load(newest)
        found.append((loaded["step"], loaded["samples"]))
        assert checkpoint.load(copy / "checkpoints" / "best")["step"] in (2, step)
        checkpoint.save(copy, state(5, best=5), keep=2)  # what was left behind goes away
        assert [name for name in names(copy) if not name.startswith("step-")] == ["best", "last"]
        assert checkpoint.load(copy)["step"] == 5
    before, after = (3, 1), (step, 2)
    assert found == [before] * found.count(before) + [after] * found.count(after)
    assert found[0] == before
    assert found[-1] == after


# Damaged afterwards


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest_intact(tmp_path) == (None, [])


def test_the_newest_is_taken_if_it_is_intact_whatever_the_others_are(tmp_path: Path) -> None:
    run = begin_run(tmp_path, 1, 2, 3)
    damage(run, 1)
    before = names(run)
    assert checkpoint.newest_intact(run) == (run / "checkpoints/step-00000003", [])
    assert names(run) == before


def go_on(run: Path) -> tuple[str, list[str]]:
    """The name of the checkpoint that a run goes on from, and what is said of others."""
    newest, notes = checkpoint.newest_intact(run)
    assert newest is not None
    before = names(run)
    assert checkpoint.newest_intact(run) == (newest, notes)  # looking changes nothing
    assert names(run) == before
    checkpoint.go_on_from(run, checkpoint.load(newest))
    assert checkpoint.newest_intact(run) == (newest, [])
    return newest.name, notes


def test_an_older_one_takes_the_place_of_damaged_ones_and_says_so(tmp_path: Path) -> None:
    run = begin_run(tmp_path, 1, 2, 3, 4)
    damage(run, 4)
    (run / "checkpoints/step-00000003/checkpoint.json").write_text("{")
    newest, notes = go_on(run)
    assert newest == "step-00000002"
    assert "step-00000004/state.pt: damaged: its checksum is not the one it was written with" in notes[0]
    assert notes[0].endswith("; kept as damaged-step-00000004, going on from step-00000002")
    assert "step-00000003/checkpoint.json: cannot read what describes the checkpoint" in notes[1]
    assert notes[1].endswith("; kept as damaged-step-00000003, going on from step-00000002")
    assert len(notes) == 2
    kept = [name for name in names(run) if "step-" in name]
    assert kept == ["damaged-step-00000003", "damaged-step-00000004", "step-00000001", "step-00000002"]


def test_a_folder_whose_state_is_missing_is_a_damaged_checkpoint(tmp_path: Path) -> None:
    run = begin_run(tmp_path, 1, 2)
    (run / "checkpoints/step-00000002/state.pt").unlink()
    newest, notes = go_on(run)
    assert newest == "step-00000001"
    assert "step-00000002: no checkpoint here" in notes[0]


def test_one_of_another_format_is_not_damaged_and_ends_the_search(tmp_path: Path) -> None:
    run = begin_run(tmp_path, 1, 2)
    folder = run / "checkpoints/step-00000002"
    (folder / "checkpoint.json").unlink()
    torch.save({"format": checkpoint.FORMAT + 1, **state(2)}, folder / "state.pt")
    with pytest.raises(UsageError, match=rf"\(format {checkpoint.FORMAT + 1}, expected {checkpoint.FORMAT}\)"):
        checkpoint.newest_intact(run)
    assert folder.exists()


def test_a_checkpoint_under_another_step_s_name_is_taken_for_a_damaged_one(tmp_path: Path) -> None:
    run = begin_run(tmp_path, 1, 2)
    os.rename(run / "checkpoints/step-00000001", run / "checkpoints/step-00000007")
    name, notes = go_on(run)
    assert name == "step-00000002"
    assert "step-00000007: damaged: it holds step 1" in notes[0]
    assert "damaged-step-00000007" in names(run)


def test_the_links_lead_to_the_one_that_is_gone_on_from_and_the_best_it_knows_of(tmp_path: Path) -> None:
    run = begin_run(tmp_path, 1)
    for step, best in ((2, 1), (3, 3)):
        checkpoint.save(run, state(step, best=best), keep=9)
    damage(run, 3)
    assert go_on(run)[0] == "step-00000002"
    assert checkpoint.load(run)["step"] == 2
    assert checkpoint.load(run / "checkpoints/best")["step"] == 1


def test_the_same_step_can_be_damaged_again_and_again(tmp_path: Path) -> None:
    run = begin_run(tmp_path, 1)
    for attempt in range(3):
        checkpoint.save(run, state(2, attempt), keep=3)
        damage(run, 2)
        newest, notes = go_on(run)
        assert newest == "step-00000001"
        assert len(notes) == 1
    assert "damaged-step-00000002" in names(run)
    checkpoint.save(run, state(2), keep=1)
    assert checkpoint.newest_intact(run) == (run / "checkpoints/step-00000002", [])
    assert "damaged-step-00000002" in names(run)  # it is for people to remove


def test_when_all_are_damaged_all_are_named_and_left_alone(tmp_path: Path) -> None:
    run = begin_run(tmp_path, 1, 2)
    damage(run, 1)
    damage(run, 2)
    before = names(run)
    for _ in range(2):
        with pytest.raises(UsageError, match="no checkpoint is intact") as refused:
            checkpoint.newest_intact(run)
        said = str(refused.value)
        assert said.index("step-00000002/state.pt: damaged") < said.index("step-00000001/state.pt: damaged")
        assert "put back a copy, or give a new run another name=" in said
        assert "\n" not in said
        assert names(run) == before


def test_what_was_set_aside_comes_back_only_where_nothing_took_its_place(tmp_path: Path) -> None:
    run = begin_run(tmp_path, 1, 2)
    folder = run / "checkpoints"
    os.rename(folder / "step-00000002", folder / ".replaced-step-00000002")
    assert checkpoint.newest_intact(run) == (folder / "step-00000002", [])
    shutil.copytree(folder / "step-00000001", folder / ".replaced-step-00000002")
    newest, _ = checkpoint.newest_intact(run)
    assert newest is not None
    assert checkpoint.load(newest)["step"] == 2
    assert not list(folder.glob(".replaced-*"))


BEYOND = 100_000_000


def test_steps_of_nine_digits_come_after_those_of_eight(tmp_path: Path) -> None:
    run = begin_run(tmp_path, BEYOND - 2, BEYOND - 1, BEYOND)
    assert checkpoint.newest_intact(run)[0] == run / "checkpoints/step-100000000"
    checkpoint.save(run, state(BEYOND + 1), keep=2)
    assert [name for name in names(run) if name.startswith("step-")] == ["step-100000000", "step-100000001"]


@pytest.mark.parametrize("name", ["step-00000002 (copy)", "step-00000002.bak", "step-", "step-9", "step-²"])
def test_folders_of_people_are_no_checkpoints(tmp_path: Path, name: str) -> None:
    run = begin_run(tmp_path, 1, 2)
    shutil.copytree(run / "checkpoints/step-00000001", run / "checkpoints" / name)
    assert checkpoint.newest_intact(run)[0] == run / "checkpoints/step-00000002"
    checkpoint.save(run, state(3), keep=1)
    assert names(run) == sorted([name, "last", "step-00000003"])


def test_an_old_one_that_cannot_be_removed_yet_is_removed_later(tmp_path: Path) -> None:
    """A disk in its folder, or a network's file system where another process has its file open."""
    if not can_mount():
        pytest.skip("needs the right to mount")
    run = begin_run(tmp_path, 1)
    busy = run / "checkpoints/step-00000001/busy"
    busy.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(busy)], check=True)
    try:
        for step in (2, 3):
            checkpoint.save(run, state(step), keep=1)
        assert names(run)[-2:] == ["last", "step-00000003"]
        assert checkpoint.newest_intact(run) == (run / "checkpoints/step-00000003", [])
    finally:
        for path in run.rglob("busy"):  # wherever it is now
            subprocess.run(["umount", str(path)], check=True)
    checkpoint.save(run, state(4), keep=1)
    assert names(run) == ["last", "step-00000004"]
