"""What is read of a run folder, whole, just begun or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.run_folders import (
    CIFAR,
    evaluation,
    make_recipe,
    start,
    train,
    validation,
    write_evaluations,
    write_metrics,
    write_responses,
    write_run,
)
from tests.small import make_run
from trainer.errors import UsageError
from trainer.report.canvas import MOST_POINTS, means
from trainer.report.plots import error_limits
from trainer.report.runs import Run, read_runs


def begun(folder: Path, *lines: dict[str, object]) -> Path:
    make_recipe(folder, *CIFAR, "model.name=cifar_resnet20")
    return write_metrics(folder, start(), *lines)


def read(folder: Path) -> Run:
    return read_runs([folder])[0]


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = read(begun(tmp_path / "run"))
    assert (run.samples, run.passes, run.training_seconds, run.median("lr")) == (0, 0, 0, None)
    assert (run.network, run.drops, run.evaluations, run.responses) == ("cifar_resnet20, option A", [], [], None)


def test_position_and_time(tmp_path: Path) -> None:
    run = read(begun(tmp_path / "run", train(1280, 0.9), train(2560, 0.8, images_per_s=128.0), validation(2560, 0.7)))
    assert run.samples == 2560
    assert run.passes == 2.56
    assert run.training_seconds == 1280 / 500 + 1280 / 128


def test_drops_of_a_step_schedule_are_those_that_were_reached(tmp_path: Path) -> None:
    run = read(begun(tmp_path / "run", train(40_000 * 128, 0.2)))
    assert [(drop.samples, drop.lr) for drop in run.drops] == [(32_000 * 128, pytest.approx(0.01))]


def test_the_rate_changes_at_drops_and_at_the_end_of_a_conditional_warmup(tmp_path: Path) -> None:
    warmup = {"kind": "warmup", "samples": 400 * 128, "top1_error": 0.79, "lr": 0.1, "time": 2.0}
    run = read(begun(tmp_path / "run", warmup, train(40_000 * 128, 0.2)))
    assert [change.samples for change in run.rate_changes] == [400 * 128, 32_000 * 128]


def test_drops_of_a_plateau_are_those_that_were_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_recipe(folder, "schedule.kind=plateau")
    write_metrics(folder, start(), train(2560, 0.9))
    assert read(folder).drops == []
    (folder / "milestones.json").write_text('{"milestones": ["5it"], "drops": [{"samples": 1280, "lr": 0.01}]}')
    assert [(drop.samples, drop.lr) for drop in read(folder).drops] == [(1280, 0.01)]


def test_the_record_names_the_data_of_a_run(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    made.train()
    run = read(made.recipe.run_dir)
    assert run.records_its_data
    assert (run.train_images, run.passes) == (16, 2.0)
    assert run.starts[0]["data_digest"] == made.data.train.digest
    assert run.starts[0]["val_digest"] == made.data.val.digest


def test_an_old_record_does_not_know_its_data(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    line = {key: value for key, value in start().items() if key not in ("train_images", "data_digest", "val_digest")}
    write_metrics(folder, line, train(1280, 0.5))
    run = read(folder)
    assert not run.records_its_data
    assert (run.train_images, run.passes) == (None, None)


def test_runs_are_called_by_what_tells_them_apart(tmp_path: Path) -> None:
    folders = [begun(tmp_path / name) for name in ("a/net", "b/net", "b/other")]
    assert [run.label for run in read_runs(folders)] == ["a/net", "b/net", "b/other"]
    assert [run.label for run in read_runs(folders[1:])] == ["net", "other"]


def test_a_run_given_twice_is_refused(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    with pytest.raises(UsageError, match="given 2 times"):
        read_runs([folder, folder / ".." / "run"])


def test_runs_of_other_data_or_another_family_are_apart(tmp_path: Path) -> None:
    one, other = begun(tmp_path / "one"), begun(tmp_path / "other")
    assert len({run.group for run in read_runs([one, other])}) == 1
    write_metrics(other, start(val_digest="0" * 64))
    assert len({run.group for run in read_runs([one, other])}) == 2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.jsonl", {"kind": "train", "samples": 1}, "a line of kind train has no valid 'lr'"),
        ("metrics.jsonl", {"kind": "validation", "samples": "1"}, "line 2 is no line of metrics; delete that line"),
        ("metrics.jsonl", {"samples": 1}, "line 2 is no line of metrics"),
        ("metrics.jsonl", 123, "line 2 is no line of metrics"),
        ("evaluations.jsonl", {"protocol": "center"}, "a line of kind evaluation has no valid 'scales'"),
        ("evaluations.jsonl", [1], "is no object"),
        ("evaluations.jsonl", evaluation("center", 0.1, top1_interval=[0.1]), "expected \\[low, high\\]"),
        ("responses.json", {"layers": []}, "a line of kind responses has no valid"),
        ("milestones.json", {"drops": [1]}, "not the drops of a learning rate"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, content: object, message: str) -> None:
    folder = begun(tmp_path / "run")
    make_recipe(folder, "schedule.kind=plateau")
    with open(folder / file, "a") as out:
        out.write(json.dumps(content) + "\n")
    with pytest.raises(UsageError, match=message) as error:
        read(folder)
    assert str(error.value).startswith(str(folder / file))


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    write_evaluations(folder, evaluation("center", 0.1))
    with open(folder / "evaluations.jsonl", "a") as out:
        out.write('{"protocol": "ten-')
    assert [line["protocol"] for line in read(folder).evaluations] == ["center"]


def test_responses_are_read(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    write_responses(folder, [0.5, 0.25])
    responses = read(folder).responses
    assert responses is not None
    assert [layer["std"] for layer in responses["layers"]] == [0.5, 0.25]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), max_size=1000))
def test_a_line_has_so_many_points_and_ends_where_it_ends(errors: list[float]) -> None:
    lines = [train(samples, error) for samples, error in enumerate(errors, start=1)]
    points = means(lines)
    assert len(points) <= MOST_POINTS
    assert len(points) == len(lines) if len(lines) <= MOST_POINTS else len(points) >= MOST_POINTS // 2
    if lines:
        assert points[-1]["samples"] == lines[-1]["samples"]
        assert min(errors) <= points[0]["top1_error"] + 1e-9
        assert points[0]["top1_error"] <= max(errors) + 1e-9


def test_a_mean_leaves_out_losses_that_are_not_finite() -> None:
    lines = [train(number, 0.5, loss=None if number % 2 else 2.0) for number in range(2 * MOST_POINTS)]
    assert {point["loss"] for point in means(lines)} == {2.0}
    assert {point["loss"] for point in means([{**line, "loss": None} for line in lines])} == {None}


def test_the_axis_shows_what_comes_after_a_tenth(tmp_path: Path) -> None:
    whole = read(write_run(tmp_path / "whole", *CIFAR, "model.name=cifar_resnet20", floor=0.08))
    low, high = error_limits([whole])
    assert (low, high) == (5, 50)
    assert error_limits([read(begun(tmp_path / "begun"))]) == (0, 100)
