"""Checkpoints: atomic, rotated, complete, readable without running code."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from trainer import checkpoint
from trainer.errors import RunError, UsageError


def state(step: int, best: int = 0) -> dict[str, object]:
    model = {"w": torch.full((3,), float(step))}
    return {**dict.fromkeys(checkpoint.KEYS), "step": step, "model": model, "best": {"step": best} if best else None}


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def test_what_was_saved_is_loaded_by_any_of_its_names(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, state(7, best=7), keep=3)
    assert saved.name == "step-00000007"
    for path in (tmp_path, saved, saved / "state.pt", tmp_path / "checkpoints/last", tmp_path / "checkpoints/best"):
        assert torch.equal(checkpoint.load(path)["model"]["w"], torch.full((3,), 7.0))


def test_what_older_checkpoints_lack_is_none(tmp_path: Path) -> None:
    saved = checkpoint.load(checkpoint.save(tmp_path, state(7), keep=3))
    assert [saved[key] for key in sorted(checkpoint.LATER_KEYS)] == [None, None]


def test_one_that_is_written_elsewhere_is_none_of_the_runs(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(7), keep=1)
    other = tmp_path / "checkpoints" / f"{checkpoint.RECALIBRATED}step-00000009"
    checkpoint.write(other, state(9))
    assert checkpoint.load(other)["step"] == 9
    checkpoint.save(tmp_path, state(8), keep=1)
    assert checkpoint.newest_intact(tmp_path)[0] == tmp_path / "checkpoints" / "step-00000008"
    assert checkpoint.load(tmp_path)["step"] == 8
    assert checkpoint.load(other)["step"] == 9


def test_nothing_is_left_of_one_that_cannot_be_written_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="new: cannot write the checkpoint"):
        checkpoint.write(tmp_path / "new", {**state(2), "model": UnwritableTensor()})
    checkpoint.write(tmp_path / "new", state(2))
    with pytest.raises(RunError, match=r"new: cannot write the checkpoint: .*not empty"):
        checkpoint.write(tmp_path / "new", state(3))
    assert checkpoint.load(tmp_path / "new")["step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 8):
        checkpoint.save(tmp_path, state(step, best=3 if step >= 3 else 0), keep=2)
    assert names(tmp_path) == ["step-00000003", "step-00000006", "step-00000007"]
    assert checkpoint.load(tmp_path)["step"] == 7
    assert checkpoint.load(tmp_path / "checkpoints/best")["step"] == 3


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(5), keep=2)
    checkpoint.save(tmp_path, {**state(5), "nonfinite": 7}, keep=2)
    assert checkpoint.load(tmp_path)["nonfinite"] == 7


def test_a_partial_checkpoint_of_a_killed_run_is_not_taken_for_one_and_goes_away(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1), keep=2)
    partial = tmp_path / "checkpoints" / ".partial-step-00000002"
    partial.mkdir()
    (partial / "state.pt").write_bytes(b"half")
    assert checkpoint.load(tmp_path)["step"] == 1
    checkpoint.save(tmp_path, state(3), keep=2)
    assert not partial.exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1), keep=2)
    with pytest.raises(RunError, match="step-00000002: cannot write the checkpoint"):
        checkpoint.save(tmp_path, {**state(2), "model": UnwritableTensor()}, keep=2)
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
    with pytest.raises(UsageError, match=r"state\.pt: not a checkpoint, or not a whole one"):
        checkpoint.load(file)
    torch.save({"weights": torch.zeros(3)}, file)
    with pytest.raises(UsageError, match="not a checkpoint of this project"):
        checkpoint.load(file)


# Damage


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose files a test may change."""

    folder: Path
    content: bytes

    @property
    def file(self) -> Path:
        return self.folder / "state.pt"

    @property
    def description(self) -> Path:
        return self.folder / "checkpoint.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = checkpoint.save(tmp_path_factory.mktemp("run"), state(1), keep=1)
    return Saved(folder, (folder / "state.pt").read_bytes())


@pytest.fixture(scope="module")
def undescribed(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """As it was made elsewhere, perhaps to do harm."""
    folder = checkpoint.save(tmp_path_factory.mktemp("run"), state(1), keep=1)
    (folder / "checkpoint.json").unlink()
    return Saved(folder, (folder / "state.pt").read_bytes())


places = st.integers(0, 2**32)


@given(place=places, flipped=st.integers(1, 255))
def test_a_byte_that_changed_anywhere_is_noticed(saved: Saved, place: int, flipped: int) -> None:
    content = bytearray(saved.content)
    content[place % len(content)] ^= flipped
    saved.file.write_bytes(content)
    with pytest.raises(UsageError, match=r"state\.pt: damaged: its checksum is not the one it was written with"):
        checkpoint.load(saved.file)


@given(length=places)
def test_any_other_length_is_noticed(saved: Saved, length: int) -> None:
    assume(length % 20000 != len(saved.content))
    saved.file.write_bytes((saved.content + bytes(20000))[: length % 20000])
    with pytest.raises(UsageError, match=rf"damaged: it has {length % 20000} bytes instead of {len(saved.content)}"):
        checkpoint.load(saved.folder)


def test_a_state_that_was_copied_without_its_description_is_loaded(undescribed: Saved, tmp_path: Path) -> None:
    undescribed.file.write_bytes(undescribed.content)
    assert checkpoint.load(undescribed.folder)["step"] == 1
    other = tmp_path / "mine.pt"
    other.write_bytes(undescribed.content)
    (tmp_path / "checkpoint.json").write_text("of another one")
    assert checkpoint.load(other)["step"] == 1


@pytest.mark.parametrize(
    "description",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'"bytes"',
        b"\xff\xfe{}",
        b'{"bytes": 3}',
        b'{"xxh3_128": "00"}',
        b'{"bytes": null, "xxh3_128": null}',
        b'{"bytes": "many", "xxh3_128": "00"}',
        b'{"bytes": [1], "xxh3_128": {}}',
        b'{"bytes": NaN, "xxh3_128": ""}',
        b'{"bytes": 1e999, "xxh3_128": ""}',
        b'{"bytes": ' + b"9" * 5000 + b', "xxh3_128": ""}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_description_that_says_nothing_is_refused_by_name(saved: Saved, description: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(saved.content)
    (tmp_path / "checkpoint.json").write_bytes(description)
    with pytest.raises(UsageError, match=r"checkpoint\.json: cannot read what describes|state\.pt: damaged") as refused:
        checkpoint.load(tmp_path)
    assert "\n" not in str(refused.value)


def with_pickle(content: bytes, change: Callable[[bytearray], None]) -> bytes:
    """A state whose pickle, which tells torch what to make of the rest, is another one."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        for entry in old.infolist():
            part = bytearray(old.read(entry))
            if entry.filename.endswith("data.pkl"):
                change(part)
            new.writestr(entry.filename, bytes(part))
    return changed.getvalue()


mutations = st.lists(st.tuples(st.sampled_from(["set", "cut", "insert", "end"]), places, st.binary(max_size=8)))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(mutations)
def test_a_file_made_to_do_harm_is_loaded_or_refused(undescribed: Saved, changes: list[tuple[str, int, bytes]]) -> None:
    def change(pickled: bytearray) -> None:
        for kind, at, some in changes:
            place = at % max(len(pickled), 1)
            if kind == "set":
                pickled[place : place + len(some)] = some
            elif kind == "cut":
                del pickled[place : place + 1 + len(some)]
            elif kind == "insert":
                pickled[place:place] = some
            else:
                del pickled[place:]

    undescribed.file.write_bytes(with_pickle(undescribed.content, change))
    said = ""
    try:
        checkpoint.load(undescribed.file)
    except UsageError as error:
        said = str(error)
    assert "\n" not in said


class Marked(torch.Tensor):
    """A tensor that comes with code."""


class Harmful:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.trace,)


def test_classes_are_refused_and_nothing_of_theirs_is_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for value in (Harmful(trace), torch.zeros(2).as_subclass(Marked), Path("x"), range(3), np.float64(1.0)):
        torch.save({"format": checkpoint.FORMAT, **state(1), "model": {"w": value}}, tmp_path / "state.pt")
        with pytest.raises(UsageError, match=r"state\.pt: cannot read the checkpoint") as refused:
            checkpoint.load(tmp_path)
        assert "\n" not in str(refused.value)
    assert not trace.exists()


def test_other_formats_and_missing_keys_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    torch.save({"format": 1, **state(1)}, file)
    with pytest.raises(UsageError, match=r"not a checkpoint of this project \(format 1, expected 2\)"):
        checkpoint.load(file)
    torch.save([1, 2], file)
    with pytest.raises(UsageError, match=r"not a checkpoint of this project \(format None, expected 2\)"):
        checkpoint.load(file)
    whole = {"format": checkpoint.FORMAT, **state(1)}
    torch.save({key: value for key, value in whole.items() if key not in ("samples", "optimizer")}, file)
    with pytest.raises(UsageError, match="not a whole checkpoint: optimizer, samples missing"):
        checkpoint.load(file)
