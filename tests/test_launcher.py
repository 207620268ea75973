"""The process of a run, seen from the sweep: its terminal, its status, its signals, and no life without it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.faults.trainers import until
from tests.samples import PYTHON, REPOSITORY
from trainer.errors import RunError, UsageError
from trainer.launcher import Launcher, check_command, describe_status

STATUS_OF_COMMAND = """
import sys
from trainer.launcher import Launcher
with Launcher() as launcher:
    status = launcher.run(sys.argv[1:])
print("status", status, "signal", launcher.signal)
"""

WAITS = 'trap "echo asked > said; exit 85" TERM INT USR1; echo > ready; while :; do sleep 0.02; done'


def sweep_of(folder: Path, *command: str) -> subprocess.Popen[str]:
    """A process that runs one command in `folder`."""
    return subprocess.Popen(
        [PYTHON, "-c", STATUS_OF_COMMAND, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_status_is_the_commands() -> None:
    with Launcher() as launcher:
        assert [launcher.run(["sh", "-c", script]) for script in ("", "exit 3", "kill -9 $$")] == [0, 3, -9]
    assert (describe_status(3), describe_status(-9)) == ("exit status 3", "killed by SIGKILL")


def test_signals_are_handled_as_before_when_it_is_over() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Launcher():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_handed_on_and_the_commands_end_awaited(tmp_path: Path, number: signal.Signals) -> None:
    process = sweep_of(tmp_path, "sh", "-c", WAITS)
    until((tmp_path / "ready").exists)
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == f"status 85 signal {int(number)}\n"


def test_a_command_is_asked_to_stop_when_the_sweep_is_killed(tmp_path: Path) -> None:
    process = sweep_of(tmp_path, "sh", "-c", WAITS)
    until((tmp_path / "ready").exists)
    process.kill()
    until((tmp_path / "said").exists)
    process.communicate(timeout=30)


def test_what_cannot_be_started_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sweep\.yaml: launch: no program 'acelerate' here"):
        check_command(tmp_path / "sweep.yaml", ["acelerate", "launch"])
    with pytest.raises(RunError, match=r"cannot be started: .*No such file"):
        Launcher().run([str(tmp_path / "none")])


def test_what_a_command_leaves_behind_is_awaited_where_it_did_not_end_well(tmp_path: Path) -> None:
    leaves = f"(sleep 0.3; touch {tmp_path}/left) & exit "
    with Launcher() as launcher:
        assert launcher.run(["sh", "-c", leaves + "1"]) == 1
    assert (tmp_path / "left").exists()
