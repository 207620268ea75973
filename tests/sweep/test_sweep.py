"""`python -m trainer sweep`: one run after another, whatever happens to them and to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.trainers import until, whole_lines
from tests.samples import PYTHON, REPOSITORY
from tests.small import make_run
from tests.sweep.sweeps import named, write_sweep
from tests.test_lock import holder
from trainer.__main__ import main
from trainer.errors import INTERRUPTED, Preempted

HEADINGS = "| run | network | steps | top-1 error, last (best) | train | paper | state |"

HOLDS = """
import subprocess, sys
[name] = [word[5:] for word in sys.argv if word.startswith("name=")]
[runs] = [word[5:] for word in sys.argv if word.startswith("runs=")]
hold = "import sys, time; from pathlib import Path; from trainer.lock import RunLock; folder = Path(sys.argv[1]);"
hold += "folder.mkdir(parents=True); held = RunLock(folder); print('holds it', flush=True); time.sleep(60)"
child = subprocess.Popen(
    [sys.executable, "-c", hold, f"{runs}/{name}"], stdout=subprocess.PIPE, start_new_session=True
)
child.stdout.readline()
open(f"{runs}/{name}.pid", "w").write(str(child.pid))
sys.exit(2)
"""
"""Stands for a trainer that finds another one in its run folder, which came meanwhile."""


def states(table: str) -> dict[str, str]:
    """Of the runs in a table in Markdown, by name."""
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert f"| {' | '.join(rows[0])} |" == HEADINGS
    return {row[0]: row[-1] for row in rows[2:]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is done."""
    folder = tmp_path_factory.mktemp("trained")
    run = make_run(folder)
    run.train()
    return run.recipe.run_dir


@pytest.fixture
def done(trained: Path, tmp_path: Path) -> str:
    """Its name in the test's own `runs`."""
    shutil.copytree(trained, tmp_path / "runs" / "done", symlinks=True)
    return "done"


def test_what_is_done_is_skipped_and_in_the_table(
    tmp_path: Path, done: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path, [named(done)], launch="false")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs" / done).rglob("*")}
    assert main(["sweep", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 of 1, done: done, skipped\n")
    assert states(out) == {"done": "done"}
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs" / done).rglob("*")}


def test_a_run_that_fails_is_told_and_the_next_one_starts(
    tmp_path: Path, done: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path, [named("a"), named(done), named("b")], launch="sh -c 'exit 3'")
    assert main(["sweep", str(file), "--out", str(tmp_path / "table.md")]) == 1
    out, err = capsys.readouterr()
    assert "1 of 3, a: failed, exit status 3\n2 of 3, done: done, skipped\n3 of 3, b: sh -c 'exit 3' " in out
    assert states(out) == {"a": "failed (3)", "done": "done", "b": "failed (3)"}
    assert states((tmp_path / "table.md").read_text()) == states(out)
    assert err == (
        "error: 2 of 3 runs failed: a (exit status 3), b (exit status 3); the same command tries them again\n"
    )


@pytest.mark.parametrize(
    ("status", "ends", "said"),
    [
        (Preempted.exit_code, Preempted.exit_code, "sweep stopped at 1 of 2, a; the same command goes on\n"),
        (INTERRUPTED, INTERRUPTED, "error: sweep stopped at 1 of 2, a; the same command goes on\n"),
    ],
)
def test_a_run_that_was_stopped_stops_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int, ends: int, said: str
) -> None:
    file = write_sweep(tmp_path, [named("a"), named("b")], launch=f"sh -c 'exit {status}'")
    assert main(["sweep", str(file), "--out", str(tmp_path / "table.md")]) == ends
    out, err = capsys.readouterr()
    assert err == said
    assert "2 of 2" not in out
    assert states((tmp_path / "table.md").read_text()) == {"a": "not begun", "b": "not begun"}


def test_a_run_whose_launcher_hides_that_it_was_stopped_stops_the_sweep_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accelerate's launcher exits with 1 whatever its processes exit with."""
    stops = """echo '{"kind": "stop", "samples": 8, "time": '$(date +%s)'}' >> """
    line = f"mkdir -p {tmp_path}/runs/a; {stops} {tmp_path}/runs/a/metrics.jsonl; exit 1"
    (tmp_path / "stops.sh").write_text(line)
    (tmp_path / "fails.sh").write_text("exit 1")
    file = write_sweep(tmp_path, [named("a"), named("b")], launch=f"sh {tmp_path}/stops.sh")
    assert main(["sweep", str(file)]) == Preempted.exit_code
    file = write_sweep(tmp_path, [named("a"), named("b")], launch=f"sh {tmp_path}/fails.sh")
    capsys.readouterr()
    assert main(["sweep", str(file)]) == 1  # that it was stopped before does not count
    assert "2 of 2 runs failed" in capsys.readouterr().err


def test_a_command_that_leaves_the_run_to_others_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path, [named("a")], launch="true")
    assert main(["sweep", str(file)]) == 0
    out = capsys.readouterr().out
    assert "1 of 1, a: its command has ended, its run is not done\n" in out
    assert states(out) == {"a": "not begun"}


def test_runs_in_use_are_left_to_who_uses_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_sweep(tmp_path, [named("a"), named("b")], launch="sh -c 'exit 3'")
    (tmp_path / "runs" / "a").mkdir(parents=True)
    with holder(tmp_path / "runs" / "a") as (process, _):
        assert main(["sweep", str(file)]) == 1
        out, err = capsys.readouterr()
        assert f"1 of 2, a: in use (process {process.pid} on " in out
        assert states(out) == {"a": "not begun, in use", "b": "failed (3)"}
        assert "1 of 2 runs failed: b" in err


def test_of_two_sweeps_that_start_one_run_the_slower_goes_on_with_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "holds.py").write_text(HOLDS)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    file = write_sweep(tmp_path, [named("a"), named("b")], launch=f"{PYTHON} {tmp_path}/holds.py")
    try:
        assert main(["sweep", str(file)]) == 0
        out = capsys.readouterr().out
        assert states(out) == {"a": "not begun, in use", "b": "not begun, in use"}
        assert "1 of 2, a: in use (process " in out
    finally:
        for path in (tmp_path / "runs").glob("*.pid"):
            os.kill(int(path.read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (named("b", "data.val=none.beton"), "none.beton"),
        (named("b", "model.name=cifar_resnet21"), "'cifar_resnet21' is not a network of this project"),
        (named("b", "data.size=32", "evaluation.resize=32"), "padded by 4, is below data.size=32"),
        (named("b", "data.normalize=mean_image"), "mean"),
        (named("a"), "both named 'a'"),
    ],
)
def test_nothing_is_started_where_something_is_wrong_later_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict[str, object], said: str
) -> None:
    file = write_sweep(tmp_path, [named("a"), entry], launch=f"touch {tmp_path}/started")
    assert main(["sweep", str(file)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith(f"error: {file}")
    assert "entry 2" in err or "entries 1 and 2" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "started").exists()


def test_a_begun_run_of_another_recipe_stops_it_before_it_starts(
    tmp_path: Path, done: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path, [named("a"), named(done)], launch=f"touch {tmp_path}/started")
    for mode in ([], ["--print"], ["--table"]):
        assert main(["sweep", *mode, str(file), "optimizer.lr=0.5"]) == 2
        err = capsys.readouterr().err
        assert (
            f"entry 2: {tmp_path}/runs/done: this run was begun with another recipe (optimizer.lr: 0.1 -> 0.5)" in err
        )
    assert not (tmp_path / "started").exists()


def test_printed_lines_start_what_is_not_done(tmp_path: Path, done: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_sweep(tmp_path, [named(done), named("b", "seed=1")], launch="touch")
    (tmp_path / "val.beton").unlink()  # the runs may be for other machines
    assert main(["sweep", "--print", str(file)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "# done: done"
    assert second.startswith(f"touch {tmp_path}/small.yaml ")
    assert second.endswith(" name=b seed=1")
    assert not (tmp_path / "runs" / "b").exists()


def test_the_table_alone_starts_nothing(tmp_path: Path, done: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_sweep(tmp_path, [named(done), named("b")], launch=f"touch {tmp_path}/started")
    assert main(["sweep", "--table", "--out", str(tmp_path / "table.md"), str(file)]) == 0
    out = capsys.readouterr().out
    assert states(out) == {"done": "done", "b": "not begun"}
    assert (tmp_path / "table.md").read_text() == out
    assert not (tmp_path / "started").exists()


def test_a_table_that_could_not_be_written_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path, [named("a")], launch=f"touch {tmp_path}/started")
    for out in (tmp_path, tmp_path / "none" / "table.md"):
        assert main(["sweep", str(file), "--out", str(out)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {out}: ")
    assert main(["sweep", str(file), "--print", "--out", str(tmp_path / "table.md")]) == 2
    assert not (tmp_path / "started").exists()


def test_a_sweep_is_not_started_by_the_launcher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_sweep(tmp_path, [named("a")], launch="false")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert main(["sweep", str(file)]) == 2
    assert "a sweep is started once, not by accelerate launch" in capsys.readouterr().err


class Sweep:
    """`python -m trainer sweep` in a session of its own, as a terminal has it."""

    def __init__(self, file: Path, *overrides: str) -> None:
        self.output = file.with_name(f"{len(list(file.parent.glob('*.txt')))}.txt")
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "trainer", "sweep", str(file), *overrides],
                cwd=REPOSITORY,
                env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait(self) -> tuple[int, str]:
        """Exit status and output."""
        return self.process.wait(180), self.output.read_text()

    def press_ctrl_c(self) -> None:
        """For all processes that the terminal has."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> None:
        """Nothing is left behind, whatever a test did."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def sweeps() -> Iterator[list[Sweep]]:
    started: list[Sweep] = []
    yield started
    for sweep in started:
        sweep.end()


def steps(run: Path) -> int:
    """That a run has logged."""
    path = run / "metrics.jsonl"
    return sum('"kind": "train"' in line for line in whole_lines(path)) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_stopped_and_started_again_it_trains_every_run_once(tmp_path: Path, sweeps: list[Sweep]) -> None:
    long = ("schedule.budget=100it", "log.every=1it", "evaluation.every=100it", "checkpoint.every=100it")
    file = write_sweep(tmp_path, [named("a"), named("bad", "optimizer.lr=1e30"), named("b")], *long)
    runs = tmp_path / "runs"

    sweeps.append(sweep := Sweep(file))
    until(lambda: steps(runs / "a") >= 3, 120)
    sweep.process.kill()
    until(lambda: '"kind": "stop"' in (runs / "a" / "metrics.jsonl").read_text())  # the run has saved and left

    sweeps.append(sweep := Sweep(file))
    until(lambda: steps(runs / "b") >= 3, 120)
    sweep.press_ctrl_c()
    status, output = sweep.wait()
    assert status == Preempted.exit_code, output
    assert f"{runs}/a: going on at step" in output
    assert f"finished: {runs}/a" in output
    assert "2 of 3, bad: failed, exit status 1" in output
    assert output.endswith("sweep stopped by SIGINT at 3 of 3, b; the same command goes on\n")
    assert output.count("stopped by SIGINT and saved at step") == 1

    sweeps.append(sweep := Sweep(file, "optimizer.lr=0.1"))  # what was bad is put right
    status, output = sweep.wait()
    assert status == 0, output
    assert "1 of 3, a: done, skipped" in output
    assert f"{runs}/b: going on at step" in output
    assert states(output) == {"a": "done", "bad": "done", "b": "done"}
