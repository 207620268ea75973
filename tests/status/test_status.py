"""`trainer status`: which runs it finds, what it says of them, and that it waits for nothing."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.samples import REPOSITORY
from trainer.__main__ import main
from trainer.errors import UsageError
from trainer.run_status import AT_WORK, ENDED, RunStatus, write_status
from trainer.status.runs import KILLED, LOST, find_runs, look

ELSEWHERE = f"not-{socket.gethostname()}"


def make(folder: Path, state: str = "finished", seconds_ago: float = 0, **values: object) -> Path:
    folder.mkdir(parents=True)
    then = (datetime.now().astimezone() - timedelta(seconds=seconds_ago)).isoformat(timespec="seconds")
    write_status(folder, replace(RunStatus(state=state, step=5, steps=20, updated=then), **values))
    return folder


@contextmanager
def holder(run: Path) -> Iterator[None]:
    """A process that works in the folder."""
    program = "import sys, pathlib, trainer.lock as l; k = l.RunLock(pathlib.Path(sys.argv[1])); print(); input()"
    command, pipe = [sys.executable, "-c", program, str(run)], subprocess.PIPE
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["status", *map(str, words)]) == 0
    return capsys.readouterr().out


class TestWhichRuns:
    """Run folders, and folders of them."""

    def test_all_of_a_folder_sorted_each_once(self, tmp_path: Path) -> None:
        runs = [make(tmp_path / name) for name in ("b", "a")]
        (tmp_path / "c").mkdir()
        (tmp_path / "old").mkdir()
        (tmp_path / "old" / "metrics.jsonl").write_text("")
        found = find_runs([tmp_path / "b", tmp_path])
        assert found == [runs[0], runs[1], tmp_path / "old"]

    @pytest.mark.parametrize(
        ("path", "why"),
        [
            ("rnus", r"rnus: no such folder \(did you mean 'runs'\?\)"),
            ("zzz/zzz", "zzz: no such folder; give run folders"),
            ("empty", "empty: no runs in it; give run folders"),
            ("file", "file: not a run folder, nor a folder of them: Not a directory"),
        ],
    )
    def test_where_there_is_none_it_says_so_in_one_line(
        self, path: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make(tmp_path / "runs" / "a")
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match=why):
            find_runs([tmp_path / path])
        assert main(["status", str(tmp_path / path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_the_folder_runs_is_the_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make(tmp_path / "runs" / "mine")
        monkeypatch.chdir(tmp_path)
        assert "mine" in said(capsys)


class TestState:
    """As the run says, unless nobody is at work who says so."""

    @pytest.mark.parametrize("state", ENDED)
    def test_the_end_of_a_run_is_what_it_says(self, state: str, tmp_path: Path) -> None:
        assert look(make(tmp_path / "run", state, seconds_ago=1e6)).state == state

    @pytest.mark.parametrize("state", AT_WORK)
    def test_a_run_of_this_host_whose_lock_is_free_was_killed(self, state: str, tmp_path: Path) -> None:
        run = make(tmp_path / "run", state)
        assert look(run).state == KILLED
        with holder(run):
            assert look(run).state == state
        assert look(run).state == KILLED

    def test_of_another_host_it_is_lost_when_nothing_was_heard_for_long(self, tmp_path: Path) -> None:
        assert look(make(tmp_path / "fresh", "training", host=ELSEWHERE)).state == "training"
        assert look(make(tmp_path / "old", "training", seconds_ago=300, host=ELSEWHERE)).state == LOST

    def test_a_held_lock_is_believed_however_old_the_word(self, tmp_path: Path) -> None:
        run = make(tmp_path / "run", "training", seconds_ago=300, host=ELSEWHERE)
        with holder(run):
            assert look(run).state == "training"

    def test_of_an_older_version_it_is_known_only_while_somebody_is_at_work(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text("")
        assert look(tmp_path).state == "unknown"
        with holder(tmp_path):
            assert look(tmp_path).state == "training"


class TestTable:
    """What people see."""

    def test_each_run_has_its_line_and_each_error_one_below(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make(
            tmp_path / "good",
            seconds_ago=600,
            top1_error_validation=0.25,
            top1_error_best=0.2,
            restarts=2,
            slurm_job="77",
        )
        long = "the loss is nan at step 5, of samples " + ", ".join(map(str, range(60)))
        make(tmp_path / "bad", "failed", seconds_ago=7300, error=long, top1_error_best=0.3)
        out = said(capsys, tmp_path)
        (good,) = (line for line in out.splitlines() if line.strip().startswith("good"))
        assert good.split() == ["good", "finished", "10m", "ago", "25%", "5/20", "25.00%", "20.00%", "2", "77"]
        assert f" bad: {long}" in [line.rstrip() for line in out.splitlines()]
        assert "failed 2h ago" in out
        assert "ETA" not in out  # nobody has one

    def test_what_is_measured_is_of_those_at_work(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rates = {"images_per_s": 1234.5, "data_wait": 0.25, "eta_seconds": 3700.0}
        run = make(tmp_path / "live", "training", **rates)
        make(tmp_path / "stopped", "stopped", **rates)
        with holder(run):
            out = said(capsys, tmp_path)
        assert "1,234" in next(line for line in out.splitlines() if " live " in line)
        assert out.count("25%") == 3  # how far both are, and what one waits
        assert out.count("1:01:40") == 1

    @pytest.mark.parametrize("width", [80, 100, 160])
    def test_it_fits_on_a_terminal_without_breaking_words(self, width: int, tmp_path: Path) -> None:
        for number in range(30):
            make(
                tmp_path / f"resnet{number}", "training", host=ELSEWHERE, images_per_s=12345.0, data_wait=0.1,
                eta_seconds=1e5, top1_error_validation=0.25, top1_error_best=0.25, restarts=3, slurm_job="1234567",
            )  # fmt: skip
        from rich.console import Console

        from trainer.status.table import draw

        console = Console(width=width, height=20, force_terminal=True, color_system=None, file=io.StringIO())
        with console.capture() as captured:
            console.print(draw([look(run) for run in find_runs([tmp_path])], console))
        lines = captured.get().splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) < 20
        assert " and 16 more" in lines[-1]
        assert "training" in lines[5]
        assert ("━" in lines[5]) == (width == 160)
        assert "…" not in "".join(lines)


class TestJson:
    """What scripts read."""

    def test_it_has_the_keys_of_the_file_and_the_state_as_it_is_seen(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make(tmp_path / "a", "training")
        make(tmp_path / "b", "failed", final=True, error="out of memory")
        killed, failed = json.loads(said(capsys, tmp_path, "--json"))
        assert (killed["run"], killed["state"], killed["final"]) == (str(tmp_path / "a"), KILLED, False)
        assert (failed["state"], failed["final"], failed["error"]) == ("failed", True, "out of memory")
        assert list(killed)[:3] == ["run", "state", "error"]

    def test_it_loads_neither_torch_nor_what_draws(self, tmp_path: Path) -> None:
        make(tmp_path / "a")
        program = (
            "import sys; from trainer.__main__ import main; main(['status', sys.argv[1], '--json']); "
            "assert not {'torch', 'numpy', 'rich', 'omegaconf'} & sys.modules.keys()"
        )
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=REPOSITORY, check=True, timeout=60)


class TestWatch:
    """Until Ctrl-C."""

    def test_it_needs_a_terminal(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        make(tmp_path / "a")
        assert main(["status", str(tmp_path), "--watch"]) == 2
        assert "--watch redraws a terminal" in capsys.readouterr().err

    def test_it_shows_what_changes_and_ends_with_ctrl_c(self, tmp_path: Path) -> None:
        run = make(tmp_path / "run", "stopped")
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "status", str(tmp_path), "--watch"],
            cwd=REPOSITORY,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(theirs)
        try:
            shown = read_until(ours, b"stopped")
            write_status(run, RunStatus(state="failed", error="no space"))
            shown += read_until(ours, b"no space")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert b"Traceback" not in shown
        finally:
            process.kill()
            process.wait()
            os.close(ours)


def read_until(file: int, wanted: bytes) -> bytes:
    read, deadline = b"", time.monotonic() + 60
    while wanted not in read:
        assert time.monotonic() < deadline
        read += os.read(file, 4096)
    return read
