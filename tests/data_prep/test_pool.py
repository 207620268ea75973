"""Ordered results from processes, whatever happens to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import pytest

from data_prep.pool import map_in_order
from trainer.errors import RunError, UsageError


def work(task: Any) -> Any:
    """Executed in the workers."""
    match task:
        case ("sleep", seconds):
            time.sleep(seconds)
        case ("bytes", count):
            return bytes(count)
        case ("buffers", *counts):
            return [PickleBuffer(bytes([count % 256]) * count) for count in counts]
        case ("die", number):
            os.kill(os.getpid(), number)
        case ("exit", status):
            os._exit(status)
        case ("usage", message):
            raise UsageError(message)
        case ("bug", _):
            raise ZeroDivisionError("a bug")
        case ("pid", _):
            return os.getpid()
    return task


def run(tasks: list[Any], workers: int = 2) -> list[Any]:
    with closing(map_in_order(work, tasks, workers, lambda result: 1, lambda task: f"task {task}")) as results:
        return [result for _, result in results]


def test_results_come_in_the_order_of_the_tasks() -> None:
    tasks = [("sleep", 0.3), *range(20)]
    assert run(tasks, 3) == tasks
    assert run([], 2) == []


def test_buffers_arrive_whole_and_in_their_order() -> None:
    counts = [0, 1, 70_000, 3_000_000, 255]
    for buffers in run([("buffers", *counts), ("buffers",), ("buffers", 5)]):
        assert [bytes(buffer) for buffer in buffers] in (
            [bytes([count % 256]) * count for count in part] for part in (counts, [], [5])
        )


def test_tasks_are_drawn_only_as_far_ahead_as_results_may_wait() -> None:
    drawn = 0

    def tasks() -> Iterator[Any]:
        nonlocal drawn
        for _ in range(40):
            drawn += 1
            yield ("bytes", 10)

    ahead = []
    with closing(map_in_order(work, tasks(), 2, lambda result: 200 << 20, str)) as results:
        ahead = [drawn - taken for taken, _ in enumerate(results, 1)]
    assert max(ahead[5:]) <= 1, "results of 200 MiB each: one at a time"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            ("die", signal.SIGKILL),
            r"was killed by SIGKILL while it worked on task \('die', .*\); if the memory ran out",
        ),
        (("die", signal.SIGSEGV), "was killed by SIGSEGV while"),
        (("exit", 3), "ended with status 3 while"),
    ],
)
def test_a_dead_worker_is_an_error_that_names_its_task(task: Any, expected: str) -> None:
    with pytest.raises(RunError, match=expected):
        run([1, 2, task, *range(100)])


def test_a_worker_killed_while_it_sends_a_result_is_an_error_not_a_hang() -> None:
    tasks = [("pid", 0), *[("bytes", 300 << 20)] * 3]
    with closing(map_in_order(work, tasks, 1, lambda result: 1, str)) as results:
        _, pid = next(results)
        # The large result does not fit the pipe, and nobody reads it before the next one is asked for.
        wait_until_blocked_in_write(pid)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RunError, match="was killed by SIGKILL"):
            list(results)


def wait_until_blocked_in_write(pid: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        wchan = Path(f"/proc/{pid}/wchan").read_text()
        status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if status == "S" and ("wait_for_wmem" in wchan or "send" in wchan or "alloc_skb" in wchan):
            return
        time.sleep(0.05)
    pytest.skip("this kernel does not tell where a process waits")


def test_errors_for_people_pass_through_and_bugs_keep_their_traceback() -> None:
    with pytest.raises(UsageError, match=r"^wrong file$"):
        run([1, ("usage", "wrong file"), 2])
    with pytest.raises(RuntimeError, match=r"(?s)with task \('bug', 0\).*in work.*ZeroDivisionError: a bug"):
        run([1, ("bug", 0), 2])


def test_no_worker_outlives_an_iterator_that_is_closed_early() -> None:
    with closing(map_in_order(work, [("pid", 0), ("sleep", 1000)], 1, lambda result: 1, str)) as results:
        _, pid = next(results)
    assert not Path(f"/proc/{pid}").exists()


def test_no_worker_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_pool import work
from data_prep.pool import map_in_order
if __name__ == "__main__":
    for _, result in map_in_order(work, [("pid", 0), ("pid", 1), 3], 2, lambda result: 1, str):
        print(result, flush=True)
        if result == 3:
            time.sleep(1000)
"""
    path = tmp_path / "parent.py"
    path.write_text(script)
    command = [sys.executable, str(path), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = {int(parent.stdout.readline()) for _ in range(2)}
        parent.stdout.readline()
        parent.kill()
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
