"""Checkpoints: atomic, rotated, complete, readable without running code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from trainer import checkpoint
from trainer.errors import RunError, UsageError


def state(step: int) -> dict[str, object]:
    return {**dict.fromkeys(checkpoint.KEYS), "step": step, "model": {"w": torch.full((3,), float(step))}}


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def test_what_was_saved_is_loaded_by_any_of_its_names(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, state(7), keep=3, best=True)
    assert saved.name == "step-00000007"
    for path in (tmp_path, saved, saved / "state.pt", tmp_path / "checkpoints/last", tmp_path / "checkpoints/best"):
        assert torch.equal(checkpoint.load(path)["model"]["w"], torch.full((3,), 7.0))


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 8):
        checkpoint.save(tmp_path, state(step), keep=2, best=step == 3)
    assert names(tmp_path) == ["step-00000003", "step-00000006", "step-00000007"]
    assert checkpoint.load(tmp_path)["step"] == 7
    assert checkpoint.load(tmp_path / "checkpoints/best")["step"] == 3


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(5), keep=2, best=False)
    checkpoint.save(tmp_path, {**state(5), "best": {"top1_error": 0.5}}, keep=2, best=False)
    assert checkpoint.load(tmp_path)["best"] == {"top1_error": 0.5}


def test_a_partial_checkpoint_of_a_killed_run_is_not_taken_for_one_and_goes_away(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1), keep=2, best=False)
    partial = tmp_path / "checkpoints" / ".partial-step-00000002"
    partial.mkdir()
    (partial / "state.pt").write_bytes(b"half")
    assert checkpoint.load(tmp_path)["step"] == 1
    checkpoint.save(tmp_path, state(3), keep=2, best=False)
    assert not partial.exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1), keep=2, best=False)
    with pytest.raises(RunError, match="step-00000002: cannot write the checkpoint"):
        checkpoint.save(tmp_path, {**state(2), "model": UnwritableTensor()}, keep=2, best=False)
    assert checkpoint.load(tmp_path)["step"] == 1
    assert names(tmp_path) == ["step-00000001"]


class UnwritableTensor:
    """Fails when it is written, as a full disk does."""

    def __reduce__(self) -> str:
        raise OSError(28, "No space left on device")


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no checkpoint here"):
        checkpoint.load(tmp_path)
    file = tmp_path / "state.pt"
    file.write_bytes(os.urandom(1000))
    with pytest.raises(UsageError, match=r"state\.pt: cannot read the checkpoint"):
        checkpoint.load(file)
    torch.save({"weights": torch.zeros(3)}, file)
    with pytest.raises(UsageError, match="not a checkpoint of this project"):
        checkpoint.load(file)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    file = checkpoint.save(tmp_path, state(1), keep=1, best=False) / "state.pt"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UsageError, match=r"damaged: it has \d+ bytes instead of \d+"):
        checkpoint.load(file)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 1, "path": Path("x")}, tmp_path / "state.pt")
    with pytest.raises(UsageError, match="cannot read the checkpoint"):
        checkpoint.load(tmp_path)
