"""What an attempt leaves in its run folder, however it ends, and who repeats its last word."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from trainer.attempt import Attempt, refuse, repeat_end
from trainer.console import Status
from trainer.errors import Interrupted, LostContact, NotBegun, Preempted, RunError, UsageError
from trainer.record import METRICS
from trainer.run_status import STATUS, RunStatus, read_status, write_status


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "TRAINER_LAUNCH", "SLURM_JOB_ID", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def read(run_dir: Path) -> RunStatus:
    status = read_status(run_dir)
    assert status is not None
    return status


def make_status() -> Status:
    status = Status(samples=64, budget=1280, global_batch=32, lr=0.1)
    status.samples = 320
    return status


def fail(run_dir: Path, error: BaseException) -> RunStatus:
    with pytest.raises(type(error)):
        attempt_that_raises(error, run_dir)
    return read(run_dir)


def attempt_that_raises(error: BaseException, run_dir: Path) -> None:
    with Attempt(run_dir) as attempt:
        attempt.begin(make_status(), 1, "cpu")
        raise error


ENDS = [
    (Preempted("stopped by SIGUSR1 and saved"), ("stopped", True, 85)),
    (NotBegun("stopped by SIGTERM before the first step"), ("stopped", False, 85)),
    (UsageError("no such data"), ("failed", True, 2)),
    (RunError("out of memory"), ("failed", True, 1)),
    (LostContact("lost contact with another process"), ("failed", False, 1)),
    (Interrupted("interrupted at step 3"), ("failed", False, 130)),
    (OSError(5, "Input/output error"), ("failed", False, 1)),
    (ZeroDivisionError("division\nby zero"), ("failed", False, 1)),
]


class TestHowItEnds:
    """Whether it was its own word: what another attempt may cure is not final."""

    @pytest.mark.parametrize(("error", "expected"), ENDS, ids=[type(error).__name__ for error, _ in ENDS])
    def test_every_end_is_told(self, error: BaseException, expected: tuple[str, bool, int], tmp_path: Path) -> None:
        status = fail(tmp_path, error)
        assert (status.state, status.final, status.exit_status) == expected
        told, other = (status.message, status.error) if status.state == "stopped" else (status.error, status.message)
        assert other is None
        assert told is not None
        assert "\n" not in told
        assert str(error).split("\n")[-1] in told
        assert (status.step, status.steps, status.eta) == (10, 40, None)

    def test_a_bug_is_told_with_its_kind(self, tmp_path: Path) -> None:
        assert fail(tmp_path, ZeroDivisionError("division by zero")).error == "ZeroDivisionError: division by zero"

    def test_without_an_error_it_is_finished(self, tmp_path: Path) -> None:
        with Attempt(tmp_path) as attempt:
            attempt.begin(make_status(), 2, "cuda")
        status = read(tmp_path)
        assert (status.state, status.final, status.exit_status) == ("finished", True, 0)
        assert (status.world_size, status.device, status.restarts) == (2, "cuda", 0)
        attempt.end(RunError("after its last word"))
        assert read(tmp_path) == status


class TestWhileItGoesOn:
    """What the console knows."""

    def test_the_first_word_comes_at_once_and_numbers_are_json(self, tmp_path: Path) -> None:
        (tmp_path / METRICS).write_text('{"kind": "start"}\n{"kind": "train"}\n{"kind": "start"}\n')
        status = make_status()
        status.loss, status.train_error, status.activity = math.nan, 0.123456789, "training"
        with Attempt(tmp_path) as attempt:
            attempt.begin(status, 1, "cpu")
            deadline = time.monotonic() + 60
            while not (tmp_path / STATUS).exists():
                assert time.monotonic() < deadline
            said = read(tmp_path)
        assert (said.state, said.final, said.exit_status, said.restarts) == ("training", False, None, 2)
        assert (said.loss, said.top1_error_training, said.images_per_s, said.data_wait) == (None, 0.12346, None, None)
        assert said.eta_seconds is not None
        assert said.eta is not None

    def test_what_cannot_be_written_is_told_of_once_and_ends_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / f".{STATUS}.partial").mkdir()
        with Attempt(tmp_path) as attempt:
            attempt.begin(make_status(), 1, "cpu")
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert err.startswith(f"note: {tmp_path / STATUS}: cannot write it: ")

    def test_only_the_main_process_writes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("TRAINER_LAUNCH", "7")
        with pytest.raises(RunError):
            attempt_that_raises(RunError("of one rank"), tmp_path / "run")
        assert list(tmp_path.iterdir()) == []


class TestBeforeTheLoop:
    """What goes wrong before the run folder is entered."""

    def test_it_reaches_a_folder_that_is_there_with_what_was_known(self, tmp_path: Path) -> None:
        write_status(tmp_path, RunStatus(state="stopped", message="stopped", step=7, steps=9, pid=1, slurm_job="3"))
        with pytest.raises(UsageError), Attempt(tmp_path):
            raise UsageError("no such data")
        status = read(tmp_path)
        assert (status.state, status.error, status.message) == ("failed", "no such data", None)
        assert (status.step, status.steps, status.slurm_job) == (7, 9, None)
        assert status.pid != 1

    def test_no_folder_is_made_for_it_but_under_a_launch_script(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = tmp_path / "runs" / "run"
        with pytest.raises(UsageError), Attempt(run):
            raise UsageError("no such data")
        assert list(tmp_path.iterdir()) == []
        monkeypatch.setenv("TRAINER_LAUNCH", "7")
        with pytest.raises(UsageError), Attempt(run):
            raise UsageError("no such data")
        assert (read(run).state, read(run).launch) == ("failed", "7")

    def test_a_refused_recipe_reaches_only_the_run_folder_that_it_was_read_from(self, tmp_path: Path) -> None:
        for name in ("run", "recipes"):
            (tmp_path / name).mkdir()
        (tmp_path / "run" / "recipe.yaml").write_text("{}\n")
        (tmp_path / "x.yaml").write_text("{}\n")
        for recipe in ("run", "recipes", "x.yaml", "none"):
            refuse(str(tmp_path / recipe), UsageError("unknown key 'lr'"))
        assert read(tmp_path / "run").error == "unknown key 'lr'"
        assert [path.parent.name for path in tmp_path.rglob(STATUS)] == ["run"]


AGAIN = {"TRAINER_LAUNCH": "7", "TORCHELASTIC_RESTART_COUNT": "1"}


class TestRepeating:
    """A launcher that starts its processes again hears at once what another attempt would come to."""

    @pytest.mark.parametrize(
        ("exit_status", "kind"), [(2, UsageError), (1, RunError), (85, Preempted)], ids=["usage", "run", "stop"]
    )
    def test_the_same_word_and_exit_status(self, exit_status: int, kind: type[Exception], tmp_path: Path) -> None:
        said = {"message": "the word"} if kind is Preempted else {"error": "the word"}
        write_status(tmp_path, RunStatus(state="failed", final=True, exit_status=exit_status, launch="7", **said))
        with pytest.raises(kind, match="the word") as raised:
            repeat_end(tmp_path, AGAIN)
        assert type(raised.value) is kind
        assert getattr(raised.value, "exit_code", None) == exit_status

    def test_a_finished_run_is_finished(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        word = RunStatus(state="finished", message="finished: x", final=True, exit_status=0, launch="7")
        write_status(tmp_path, word)
        assert repeat_end(tmp_path, AGAIN)
        assert capsys.readouterr().out == "finished: x\n"

    @pytest.mark.parametrize(
        ("environment", "final", "launch"),
        [
            ({}, True, "7"),
            ({"TORCHELASTIC_RESTART_COUNT": "1"}, True, None),
            ({"TRAINER_LAUNCH": "7"}, True, "7"),
            ({**AGAIN, "TORCHELASTIC_RESTART_COUNT": "0"}, True, "7"),
            ({**AGAIN, "TRAINER_LAUNCH": "8"}, True, "7"),
            (AGAIN, False, "7"),
            (AGAIN, True, None),
        ],
    )
    def test_any_other_attempt_is_made(
        self, environment: dict[str, str], final: bool, launch: str | None, tmp_path: Path
    ) -> None:
        assert not repeat_end(tmp_path, environment)
        word = RunStatus(state="failed", error="x", final=final, exit_status=2, launch=launch)
        write_status(tmp_path, word)
        assert not repeat_end(tmp_path, environment)
