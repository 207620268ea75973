"""The status file: what is written is read, and what is none of ours is nobody's status."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.errors import RunError
from trainer.record import METRICS, count_starts
from trainer.run_status import AT_WORK, ENDED, STATUS, UNKNOWN, RunStatus, read_status, status_of_record, write_status

fractions = st.none() | st.floats(0, 1)
statuses = st.builds(
    RunStatus,
    state=st.sampled_from(AT_WORK + ENDED),
    error=st.none() | st.text(),
    final=st.booleans(),
    step=st.integers(0),
    loss=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    top1_error_best=fractions,
    eta_seconds=fractions,
    restarts=st.integers(0),
    slurm_job=st.none() | st.text(),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=statuses)
def test_what_is_written_is_read(tmp_path: Path, status: RunStatus) -> None:
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
    assert [path.name for path in tmp_path.iterdir()] == [STATUS]


def test_it_is_indented_json_that_begins_with_the_state(tmp_path: Path) -> None:
    write_status(tmp_path, RunStatus(state="training", step=3, steps=8))
    text = (tmp_path / STATUS).read_text()
    assert text.startswith('{\n "state": "training",\n "error": null,\n')
    assert text.endswith("}\n")
    assert list(json.loads(text))[-1] == "updated"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff", b"[" * 5000, b'{"state": "training"}', b"3",
    ],
)  # fmt: skip
def test_a_file_of_anything_else_is_no_status(tmp_path: Path, content: bytes) -> None:
    assert read_status(tmp_path) is None
    (tmp_path / STATUS).write_bytes(content)
    assert read_status(tmp_path) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", "3"), ("step", None), ("step", True), ("final", 1), ("loss", "low"), ("host", None),
        ("updated", "yesterday"), ("updated", 3), ("error", ["x"]),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_no_status(tmp_path: Path, key: str, value: object) -> None:
    write_status(tmp_path, RunStatus())
    content = json.loads((tmp_path / STATUS).read_text())
    (tmp_path / STATUS).write_text(json.dumps({**content, key: value}))
    assert read_status(tmp_path) is None


def test_a_key_of_a_later_version_is_left_out(tmp_path: Path) -> None:
    written = RunStatus(state="finished", final=True)
    write_status(tmp_path, written)
    content = json.loads((tmp_path / STATUS).read_text())
    (tmp_path / STATUS).write_text(json.dumps({**content, "carbon": 3}))
    assert read_status(tmp_path) == written


def test_what_cannot_be_written_is_an_error_and_the_old_file_stays(tmp_path: Path) -> None:
    write_status(tmp_path, RunStatus(step=1))
    (tmp_path / f".{STATUS}.partial").mkdir()
    with pytest.raises(RunError, match=r"status\.json: cannot write it"):
        write_status(tmp_path, RunStatus(step=2))
    status = read_status(tmp_path)
    assert status is not None
    assert status.step == 1


def test_its_age_is_told_across_time_zones_and_never_negative() -> None:
    there = (datetime.now().astimezone() - timedelta(hours=2)).isoformat(timespec="seconds")
    ahead = (datetime.now().astimezone() + timedelta(hours=2)).isoformat(timespec="seconds")
    assert replace(RunStatus(), updated=there).age == pytest.approx(7200, abs=60)
    assert replace(RunStatus(), updated=ahead).age == 0


def test_a_run_without_a_status_is_known_by_its_record(tmp_path: Path) -> None:
    lines = [
        {"kind": "start", "samples": 0, "world_size": 2, "device": "cpu", "time": 1.0},
        {"kind": "train", "samples": 64, "step": 4, "lr": 0.1, "loss": 2.0, "top1_error": 0.9, "time": 2.0},
        {"kind": "validation", "samples": 64, "top1_error": 0.5, "time": 3.0},
        {"kind": "start", "samples": 64, "world_size": 1, "device": "cpu", "time": 4.0},
        {"kind": "validation", "samples": 96, "top1_error": 0.6, "time": 5.0},
    ]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert count_starts(tmp_path) == 2
    status = status_of_record(tmp_path)
    assert (status.state, status.final) == (UNKNOWN, False)
    assert (status.step, status.steps) == (4, 0)  # without a recipe a global batch is not known
    (tmp_path / "recipe.yaml").write_text("optimizer: {global_batch: 16, micro_batch: 16}\nschedule: {budget: 8it}\n")
    status = status_of_record(tmp_path)
    assert (status.step, status.steps, status.restarts, status.world_size) == (6, 8, 1, 1)
    assert (status.top1_error_validation, status.top1_error_best) == (0.6, 0.5)


def test_a_folder_of_a_recipe_alone_was_not_begun(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}\n")
    status = status_of_record(tmp_path)
    assert (status.step, status.restarts) == (0, 0)
    assert count_starts(tmp_path) == 0
