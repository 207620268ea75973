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
from trainer.run_state import seed_network, state_of


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


def test_a_run_that_is_taken_up_is_the_one_that_was_left(tmp_path: Path) -> None:
    left = make_run(tmp_path, "optimizer.momentum=0.9", "schedule.kind=plateau", "evaluation.every=1it")
    left.train()
    state = state_of(left)
    assert state.keys() == checkpoint.KEYS
    saved = checkpoint.load(tmp_path / "run")
    assert saved.pop("format") == checkpoint.FORMAT
    taken_up = make_run(tmp_path, "optimizer.momentum=0.9", "schedule.kind=plateau", "evaluation.every=1it")
    for other in (saved, state_of(taken_up)):
        for key in state.keys() - {"model"}:
            assert_equal(other[key], state[key], key)
        assert_equal(dict(other["model"]), dict(state["model"]))
    assert len(state["optimizer"]["state"]) == len(list(left.module.parameters()))
    assert state["batch_norm_of_ranks"].shape[0] == 1


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
