"""The learning rate: in samples seen, and decided by the validation error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ranks import on_ranks
from trainer.recipe import Recipe
from trainer.schedule import WARMUP_WINDOW, Schedule
from trainer.window import sum_over_ranks


def recipe(**schedule: object) -> Recipe:
    made = Recipe()
    made.optimizer.global_batch = 10
    made.schedule.budget = "100it"
    for key, value in schedule.items():
        setattr(made.schedule, key, value)
    return made


def test_the_rate_is_divided_by_ten_when_the_error_plateaus() -> None:
    schedule = Schedule(recipe(kind="plateau", patience=3, threshold=0.01))
    errors = [0.9, 0.8, 0.795, 0.796, 0.81, 0.6]  # none of three is better than 0.8 by 0.01
    drops = [schedule.observe(100 * i, error) for i, error in enumerate(errors)]
    assert [drop.samples if drop else None for drop in drops] == [None, None, None, None, 400, None]
    assert schedule.lr(399) == pytest.approx(0.1)
    assert schedule.lr(400) == pytest.approx(0.01)


def test_an_improvement_starts_the_count_anew() -> None:
    schedule = Schedule(recipe(kind="plateau", patience=2, threshold=0.0))
    errors = [0.5, 0.6, 0.4, 0.6, 0.3, 0.6]
    assert [schedule.observe(i, error) for i, error in enumerate(errors)] == [None] * 6


def test_the_rate_drops_at_most_max_drops_times() -> None:
    schedule = Schedule(recipe(kind="plateau", patience=1, max_drops=2))
    for i in range(10):
        schedule.observe(i, 0.5)
    assert [drop.samples for drop in schedule.drops] == [1, 2]
    assert schedule.lr(1000) == pytest.approx(0.001)


@given(errors=st.lists(st.floats(0, 1), min_size=1, max_size=30), place=st.floats(0, 1))
def test_a_restored_schedule_goes_on_as_if_nothing_had_happened(errors: list[float], place: float) -> None:
    cut = 1 + int(place * (len(errors) - 1))
    made = recipe(kind="plateau", patience=2, threshold=0.05)
    straight, before, after = Schedule(made), Schedule(made), Schedule(made)
    for i, error in enumerate(errors):
        straight.observe(i, error)
        (before if i < cut else after).observe(i, error)
        if i == cut - 1:
            after.load_state_dict(before.state_dict())
    assert after.state_dict() == straight.state_dict()
    assert after.lr(1000) == straight.lr(1000)


def test_the_drops_of_a_plateau_replayed_as_milestones_give_the_same_rates() -> None:
    plateau = Schedule(recipe(kind="plateau", patience=1))
    for samples in (100, 200, 500):
        plateau.observe(samples, 0.5)
    milestones = [f"{drop.samples // 10}it" for drop in plateau.drops]
    step = Schedule(recipe(kind="step", milestones=milestones))
    assert [step.lr(samples) for samples in range(0, 1000, 10)] == [
        plateau.lr(samples) for samples in range(0, 1000, 10)
    ]


def test_steps_drop_at_their_milestones() -> None:
    schedule = Schedule(recipe(kind="step", milestones=["50it", "75it"]))
    assert [round(schedule.lr(samples), 6) for samples in (0, 490, 500, 749, 750, 999)] == [
        0.1,
        0.1,
        0.01,
        0.01,
        0.001,
        0.001,
    ]


def test_cosine_falls_to_nothing_at_the_end_of_the_budget() -> None:
    schedule = Schedule(recipe(kind="cosine"))
    assert [schedule.lr(samples) for samples in (0, 500, 1000)] == pytest.approx([0.1, 0.05, 0.0])


def test_linear_falls_from_the_warm_up_to_nothing_at_the_end_of_the_budget() -> None:
    schedule = Schedule(recipe(kind="linear", warmup="20it"))
    rates = [schedule.lr(samples) for samples in (0, 100, 200, 400, 800, 1000)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.075, 0.025, 0.0])


def test_warm_up_is_linear() -> None:
    schedule = Schedule(recipe(kind="constant", warmup="10it", warmup_lr=0.02))
    assert [schedule.lr(samples) for samples in (0, 50, 100, 900)] == pytest.approx([0.02, 0.06, 0.1, 0.1])


def warming_up(**schedule: object) -> Schedule:
    """Batches of 10 at 0.01 until the training error is below 0.8, then what `schedule` says from 0.1."""
    return Schedule(recipe(**{"kind": "constant", "warmup_lr": 0.01, "warmup_until_error": 0.8} | schedule))


def watch(schedule: Schedule, correct: list[int]) -> list[int]:
    """Steps of so many correct images of 10, of a schedule that has seen none; after which the warm-up ended."""
    ended = []
    for step, count in enumerate(correct, start=1):
        if schedule.is_warming_up and schedule.observe_step(10 * step, count) is not None:
            ended.append(step)
    return ended


def test_a_warm_up_ends_when_the_training_error_is_below_its_bound() -> None:
    schedule = warming_up()
    assert watch(schedule, [1] * 70) == []
    assert schedule.lr(700) == 0.01
    # Of the last 50 steps 40 had 1 of 10 right and 10 had 6: 100 of 500, an error of exactly 0.8, and it goes on.
    assert [schedule.observe_step(710 + 10 * i, 6) for i in range(10)] == [None] * 10
    assert schedule.observe_step(810, 6) == pytest.approx(0.79)
    assert not schedule.is_warming_up
    assert [schedule.lr(samples) for samples in (0, 800, 810, 5000)] == [0.01, 0.01, 0.1, 0.1]


def test_a_few_lucky_batches_do_not_end_a_warm_up() -> None:
    assert watch(warming_up(), [10] * (WARMUP_WINDOW - 1)) == []
    assert watch(warming_up(), [10] * WARMUP_WINDOW) == [WARMUP_WINDOW]


def test_a_warm_up_of_exactly_the_bound_goes_on() -> None:
    assert watch(warming_up(), [2] * 200) == []
    assert watch(warming_up(), [2] * 199 + [3]) == [200]


def test_without_a_bound_nothing_warms_up() -> None:
    schedule = Schedule(recipe(kind="constant", warmup_lr=0.01))
    assert not schedule.is_warming_up
    assert schedule.lr(0) == 0.1


def test_milestones_count_from_the_beginning_whenever_the_warm_up_ends() -> None:
    step = {"kind": "step", "milestones": ["55it", "75it"]}
    early, late = warming_up(**step), warming_up(**step)
    assert watch(early, [5] * 50) == [50]
    assert watch(late, [1] * 60 + [9] * 20) == [67]  # 43 x 1 and 7 x 9 of the last 500 are more than 100
    assert [early.lr(samples) for samples in (490, 500, 550, 750)] == pytest.approx([0.01, 0.1, 0.01, 0.001])
    assert [late.lr(samples) for samples in (490, 669, 670, 750)] == pytest.approx([0.01, 0.01, 0.01, 0.001])


def test_a_warm_up_that_does_not_end_holds_no_rate_above_the_schedules() -> None:
    schedule = warming_up(kind="step", milestones=["50it", "75it"])
    watch(schedule, [0] * 100)
    assert schedule.is_warming_up
    assert [schedule.lr(samples) for samples in (0, 500, 750)] == pytest.approx([0.01, 0.01, 0.001])


@given(correct=st.lists(st.integers(0, 6), min_size=1, max_size=120), place=st.floats(0, 1))
def test_a_restored_warm_up_ends_where_it_would_have_ended(correct: list[int], place: float) -> None:
    cut = int(place * len(correct))
    straight, before, after = warming_up(), warming_up(), warming_up()
    ended = watch(straight, correct)
    watch(before, correct[:cut])
    state = before.state_dict()
    after.load_state_dict(state)
    for step, count in enumerate(correct[cut:], start=cut + 1):
        assert after.is_warming_up == (not ended or step <= ended[0])
        if after.is_warming_up:
            after.observe_step(10 * step, count)
    assert after.state_dict() == straight.state_dict()
    assert state == before.state_dict(), "what was saved changed with the schedule that took it up"


def test_a_state_from_before_there_were_such_warm_ups_is_read() -> None:
    old = Schedule(recipe(kind="plateau")).state_dict()
    del old["warmup"]
    schedule = Schedule(recipe(kind="plateau"))
    schedule.load_state_dict(old)
    assert not schedule.is_warming_up


def warm_up_on(rank: int) -> tuple[list[int], float]:
    """Of batches of 10 that two ranks share, the first rank classifies 1 of 5 correctly, the second 0, and later 2."""
    schedule = warming_up()
    mine = [1 if rank == 0 else 0] * 40 + [1 if rank == 0 else 2] * 60
    return watch(schedule, [sum_over_ranks(torch.tensor(float(count))) for count in mine]), schedule.lr(10_000)


def test_ranks_end_a_warm_up_after_the_same_step() -> None:
    # Together 1 of 10 in 40 steps, then 3: after 66 steps 24 x 1 and 26 x 3 of the last 500, more than 100.
    assert on_ranks(2, warm_up_on) == [([66], 0.1)] * 2
