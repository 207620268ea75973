"""What a checkpoint holds of a run, and how it is taken up again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.small import make_run
from trainer import checkpoint
from trainer.record import read_metrics
from trainer.run_state import state_of
from trainer.step import seed_network
from trainer.window import sum_over_ranks


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_equal(one: Any, other: Any, place: str = "state") -> None:
    """Of the same types, bit for bit."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, place
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{place}[{number}]")
    else:
        assert one == other, place


@pytest.mark.parametrize("more", [[], ["optimizer.ema=0.9", "batch_norm.recalibrate=true", "batch_norm.images=8"]])
def test_a_run_that_is_taken_up_is_the_one_that_was_left(tmp_path: Path, more: list[str]) -> None:
    overrides = ["optimizer.momentum=0.9", "schedule.kind=plateau", "evaluation.every=1it", *more]
    left = make_run(tmp_path, *overrides)
    left.train()
    state = state_of(left)
    assert state.keys() == checkpoint.KEYS | checkpoint.LATER_KEYS
    assert all((state[key] is not None) == bool(more) for key in checkpoint.LATER_KEYS)
    saved = checkpoint.load(tmp_path / "run")
    assert saved.pop("format") == checkpoint.FORMAT
    taken_up = make_run(tmp_path, *overrides)
    for other in (saved, state_of(taken_up)):
        for key in state.keys() - {"model"}:
            assert_equal(other[key], state[key], key)
        assert_equal(dict(other["model"]), dict(state["model"]))
    assert len(state["optimizer"]["state"]) == len(list(left.module.parameters()))
    assert state["batch_norm_of_ranks"].shape[0] == 1


WARM_UP = [
    "schedule.kind=constant",
    "schedule.warmup_lr=0.001",
    "schedule.warmup_until_error=0.999",
    "schedule.budget=10it",
    "evaluation.every=10it",
    "checkpoint.every=1it",
    "checkpoint.keep=99",
    "log.every=1it",
]


@pytest.fixture
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.schedule.WARMUP_WINDOW", 6)


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Of the run's metrics, without what is of the time that it took."""
    timed = {"time", "images_per_s", "data_wait", "seconds", "stall"}
    found = [line for line in read_metrics(folder / "run") if line["kind"] == kind]
    return [{key: value for key, value in line.items() if key not in timed} for line in found]


@pytest.mark.usefixtures("short_window")
def test_a_run_left_in_its_warm_up_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    straight, left = tmp_path / "straight", tmp_path / "left"
    for folder in (straight, left):
        folder.mkdir()
    make_run(straight, *WARM_UP).train()
    [ended] = lines(straight, "warmup")
    assert ended["step"] == 6
    assert ended["lr"] == 0.1
    assert ended["top1_error"] < 0.999
    assert [line["lr"] for line in lines(straight, "train")] == [0.001] * 6 + [0.1] * 4

    make_run(left, *WARM_UP, "schedule.budget=4it").train()
    state = checkpoint.load(left / "run")["schedule"]["warmup"]
    assert len(state["correct"]) == 4
    assert state["ended"] is None
    make_run(left, *WARM_UP, "resume.allow=[schedule.budget]").train()
    assert lines(left, "warmup") == [ended]
    assert lines(left, "train") == lines(straight, "train")
    expected = checkpoint.load(straight / "run")
    for key in ("model", "schedule"):
        assert_equal(dict(checkpoint.load(left / "run")[key]), dict(expected[key]))


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize(("overrides", "steps"), [(WARM_UP, 6), ([*WARM_UP, "schedule.warmup_until_error=0"], 0)])
def test_steps_wait_for_the_device_only_in_a_warm_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], steps: int
) -> None:
    waited = []

    def count(correct: torch.Tensor) -> int:
        waited.append(correct)
        return sum_over_ranks(correct)

    monkeypatch.setattr("trainer.train.sum_over_ranks", count)
    make_run(tmp_path, *overrides).train()
    assert len(waited) == steps


def test_a_run_does_not_hold_on_to_the_file_that_it_was_taken_up_from(tmp_path: Path) -> None:
    """On a network's file system what is in use cannot be removed, on the disk it is still there."""
    make_run(tmp_path).train()
    run = make_run(tmp_path, "schedule.budget=8it", "resume.allow=[schedule.budget]")
    gc.collect()
    assert run.samples == 32
    assert "state.pt" not in Path("/proc/self/maps").read_text()
    assert not [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and "state.pt" in str(link)]


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**40))
def test_draws_in_the_network_are_those_of_the_position(seed: int, position: int) -> None:
    seed_network(seed, position)
    first = torch.rand(4)
    seed_network(seed, position)
    assert torch.equal(torch.rand(4), first)
    for other in ((seed, position + 1), ((seed + 1) % 2**32, position)):
        seed_network(*other)
        assert not torch.equal(torch.rand(4), first)
