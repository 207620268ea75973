"""The learning rate: in samples seen, and decided by the validation error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.recipe import Recipe
from trainer.schedule import Schedule


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


def test_warm_up_is_linear() -> None:
    schedule = Schedule(recipe(kind="constant", warmup="10it", warmup_lr=0.02))
    assert [schedule.lr(samples) for samples in (0, 50, 100, 900)] == pytest.approx([0.02, 0.06, 0.1, 0.1])
