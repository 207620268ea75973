"""Checkpoints on disks that fill up or fail: the one before is whole, and the run says what happened."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.faults.trainers import Trainers, can_mount, mounted, same_weights, until

root_only = pytest.mark.skipif(not can_mount(), reason="needs to mount a small file system, as root")


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


@root_only
def test_a_disk_that_fills_up_ends_the_run_and_leaves_the_checkpoint_before(
    trainers: Trainers, undisturbed: Trainers
) -> None:
    """One checkpoint is 2.2 MB; there is room for one, and not for the second beside it."""
    with mounted(trainers.runs / "small", "size=3800k") as disk:
        small = Trainers(trainers.data, disk, trainers.started)
        trainer = small.start("run", "checkpoint.keep=1", "checkpoint.every=8it", "evaluation.every=12it")
        assert trainer.wait() == [1], trainer.output
        error = trainer.output.strip().splitlines()[-1]
        assert error.startswith(f"error: {disk}/run/checkpoints/step-000000")
        assert "cannot write the checkpoint" in error
        assert "bytes are free on this disk" in error or "No space left" in error
        assert "Traceback" not in trainer.output
        assert not [name for name in names(disk / "run") if name.startswith(".")]
        saved = small.state("run")["step"]
        assert saved == 8
        subprocess.run(["mount", "-o", "remount,size=30m", str(disk)], check=True)
        trainer = small.finish("run", "checkpoint.keep=1", "checkpoint.every=8it", "evaluation.every=12it")
        assert f"going on at step {saved}" in trainer.output
        assert len(small.losses("run")) == 24


def test_of_a_damaged_last_checkpoint_the_one_before_is_taken(trainers: Trainers, undisturbed: Trainers) -> None:
    trainer = trainers.start("run")
    until(lambda: trainers.steps("run") >= 14)
    trainer.signal(signal.SIGTERM)
    trainer.wait()
    newest, before = sorted((trainers.runs / "run" / "checkpoints").glob("step-*"), reverse=True)[:2]
    flip_a_byte(newest / "state.pt")
    trainer = trainers.finish("run")
    said = next(line for line in trainer.output.splitlines() if line.startswith("note: "))
    assert f"{newest}/state.pt: damaged: its checksum is not the one it was written with" in said
    assert f"going on from {before.name}" in said
    assert f"going on at step {int(before.name[5:])} of 24" in trainer.output
    assert f"damaged-{newest.name}" in names(trainers.runs / "run")
    assert same_weights(trainers.weights("run"), undisturbed.weights("one"))


def test_without_an_intact_checkpoint_nothing_is_begun_anew(trainers: Trainers) -> None:
    """Days of training are not to be overwritten because their files cannot be read."""
    trainers.finish("run", "schedule.budget=8it")
    checkpoints = sorted((trainers.runs / "run" / "checkpoints").glob("step-*"))
    for folder in checkpoints:
        flip_a_byte(folder / "state.pt")
    trainer = trainers.start("run", "schedule.budget=8it")
    assert trainer.wait() == [2]
    assert f"error: {trainers.runs}/run/checkpoints: no checkpoint is intact" in trainer.output
    assert all(folder.exists() for folder in checkpoints)
