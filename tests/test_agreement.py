"""Ranks decide alike, and notice when one of them is gone."""

from __future__ import annotations

import os
import time

import pytest
import torch.distributed as dist

from tests.ranks import on_ranks
from trainer.agreement import Agreement, lost_contact
from trainer.errors import LostContact


def ask_twice(rank: int) -> list[list[int]]:
    agreement = Agreement(dist.get_world_size(), timeout=30)
    agreement.wait()
    return [agreement.highest(15 * (rank == 2), rank), agreement.highest(0, False)]


def test_a_flag_of_any_rank_is_the_flag_of_all() -> None:
    assert on_ranks(3, ask_twice) == [[[15, 2], [0, 0]]] * 3


def exchange_thrice(rank: int) -> list[list[int]]:
    agreement = Agreement(dist.get_world_size(), timeout=30)
    found = [agreement.exchange(15 * (rank == 2), rank), agreement.exchange(0, 5 - rank), agreement.exchange(1, 1)]
    return [*found, agreement.highest(rank), agreement.exchange(9)]


def test_what_is_exchanged_while_a_step_is_computed_is_known_after_it() -> None:
    assert on_ranks(3, exchange_thrice) == [[[0, 0], [15, 2], [0, 5], [2], [0]]] * 3


def test_alone_everybody_agrees() -> None:
    agreement = Agreement(1, timeout=1)
    agreement.wait()
    assert agreement.highest(3, True, 0) == [3, 1, 0]
    assert agreement.exchange(3, True, 0) == [3, 1, 0]


def ask_one_who(rank: int, absent: str) -> str:
    try:
        agreement = Agreement(dist.get_world_size(), timeout=1)  # the other may be gone before it has got through
        if rank == 1:
            time.sleep(0 if absent == "died" else 3)
            os._exit(9)
        agreement.wait()
    except LostContact as lost:
        return str(lost)
    return "agreed"


@pytest.mark.parametrize(("absent", "reason"), [("died", "by peer"), ("sleeps", "Timed out")])
def test_a_rank_that_is_gone_or_does_not_answer_is_an_error_of_the_others(absent: str, reason: str) -> None:
    said = on_ranks(2, ask_one_who, absent)[0]
    assert said.startswith("lost contact with another process of the run (")
    assert reason in said
    assert said.endswith("The same command goes on from the last checkpoint")
    assert "\n" not in said
    assert "typically" not in said


def test_errors_that_are_not_of_a_collective_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="sizes do not match") as raised, lost_contact():
        raise RuntimeError("sizes do not match")
    assert not isinstance(raised.value, LostContact)
