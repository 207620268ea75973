"""Signals and limits of time, in processes that have nothing else to do; `faults/test_stops.py` stops real runs."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.faults.trainers import CONTEXT
from tests.samples import PYTHON, REPOSITORY
from trainer.errors import Preempted, run_command
from trainer.stops import SAME_PRESS_SECONDS, SIGNALS, TIME_IS_OVER, Stop, describe

SAVED = Preempted.exit_code
INTERRUPTED = 130
Say = Callable[[str], None]


@dataclass
class Worker:
    process: BaseProcess
    heard: Connection
    output: Path

    def send(self, number: int) -> None:
        os.kill(self.process.pid or 0, number)

    def says(self) -> str:
        assert self.heard.poll(30), "says nothing"
        return str(self.heard.recv())

    def lasts_beyond_one_press(self) -> None:
        """What is pressed from here on is another Ctrl-C."""
        self.process.join(SAME_PRESS_SECONDS + 0.1)
        assert self.process.exitcode is None

    def status(self) -> int | None:
        self.process.join(30)
        return self.process.exitcode


Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes that listen to signals and do some work."""
    workers: list[Worker] = []

    def begin(work: Callable[[Stop, Say], None], grace: float = 60.0) -> Worker:
        heard, said = CONTEXT.Pipe(duplex=False)
        output = tmp_path / f"{len(workers)}.txt"
        process = CONTEXT.Process(target=run, args=(work, grace, said, output))
        process.start()
        said.close()
        workers.append(Worker(process, heard, output))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.process.kill()
        worker.process.join()


def run(work: Callable[[Stop, Say], None], grace: float, said: Connection, output: Path) -> None:
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 2)
    stop = Stop()
    stop.grace = grace

    def command() -> int:
        stop.listen()
        work(stop, said.send)
        return 0

    os._exit(run_command(command))


def heed(stop: Stop, say: Say) -> None:
    """A loop that asks after every step."""
    stop.begin_loop()
    stop.set_unsaved(True)
    say("in the loop")
    while not stop.cause:
        time.sleep(0.001)
    say(describe(stop.cause))
    raise Preempted("saved")


def wait(stop: Stop, say: Say) -> None:
    """A loop that waits, in Python."""
    stop.begin_loop()
    stop.set_unsaved(True)
    say("in the loop")
    while True:
        time.sleep(0.001)


def wait_under_torchrun(stop: Stop, say: Say) -> None:
    os.environ["TORCHELASTIC_RUN_ID"] = "none"
    wait(stop, say)


def stick(stop: Stop, say: Say) -> None:
    """A loop that never comes back from C, where no handler of Python's is called: a mutex is locked twice."""
    stop.begin_loop()
    stop.set_unsaved(True)
    stick_with_nothing_to_lose(stop, say)


def stick_with_nothing_to_lose(stop: Stop, say: Say) -> None:
    stop.begin_loop()
    mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    say("in the loop")
    for _ in range(2):
        library.pthread_mutex_lock(mutex)


def prepare(stop: Stop, say: Say) -> None:
    """What comes before the loop."""
    say("before the loop")
    time.sleep(60)


def finish(stop: Stop, say: Say) -> None:
    """Work that is over and saved, and takes its time to leave."""
    stop.begin_loop()
    stop.set_unsaved(True)
    stop.end()
    find_nothing_to_do(stop, say)


def find_nothing_to_do(stop: Stop, say: Say) -> None:
    """A run that was over before it began."""
    stop.end()
    say("over")
    left = time.monotonic() + SAME_PRESS_SECONDS + 1
    while time.monotonic() < left:
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_loop_is_told_which_signal_it_was_and_ends_itself(start: Start, number: int) -> None:
    worker = start(heed)
    worker.says()
    worker.send(number)
    assert worker.says() == signal.Signals(number).name
    assert worker.status() == SAVED


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_loop_a_signal_ends_the_process_at_once(start: Start, number: int) -> None:
    worker = start(prepare)
    worker.says()
    worker.send(number)
    assert worker.status() == SAVED
    name = signal.Signals(number).name
    assert worker.output.read_text() == f"stopped by {name} before the first step; the same command goes on\n"


def test_one_press_may_arrive_twice_and_only_another_one_interrupts(start: Start) -> None:
    worker = start(wait)
    worker.says()
    for _ in range(3):
        worker.send(signal.SIGINT)
    worker.lasts_beyond_one_press()
    worker.send(signal.SIGINT)
    assert worker.status() == INTERRUPTED
    assert worker.output.read_text() == "error: interrupted\n"


def test_a_press_interrupts_what_stops_for_another_reason_and_no_other_signal_does(start: Start) -> None:
    worker = start(wait)
    worker.says()
    worker.send(signal.SIGTERM)
    worker.process.join(SAME_PRESS_SECONDS + 0.1)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        worker.send(number)
    worker.process.join(0.3)
    assert worker.process.exitcode is None
    worker.send(signal.SIGINT)
    assert worker.status() == INTERRUPTED


def test_another_press_ends_what_does_not_come_back_from_c(start: Start) -> None:
    worker = start(stick)
    worker.says()
    worker.send(signal.SIGINT)
    worker.lasts_beyond_one_press()
    worker.send(signal.SIGINT)
    assert worker.status() == INTERRUPTED
    said = "error: interrupted again while it was stopping; what came after the last checkpoint is lost\n"
    assert worker.output.read_text() == said


@pytest.mark.parametrize("work", [stick, wait])
def test_what_has_not_stopped_when_the_grace_is_over_is_ended(start: Start, work: Callable[[Stop, Say], None]) -> None:
    worker = start(work, grace=0.3)
    worker.says()
    worker.send(signal.SIGTERM)
    assert worker.status() == 1
    said = "error: did not stop within trainer.stop_grace, 0.3 s; what came after the last checkpoint is lost\n"
    assert worker.output.read_text() == said


def test_where_nothing_is_lost_the_end_of_the_grace_is_a_stop_as_any_other(start: Start) -> None:
    worker = start(stick_with_nothing_to_lose, grace=0.3)
    worker.says()
    worker.send(signal.SIGTERM)
    assert worker.status() == SAVED
    said = "did not stop within trainer.stop_grace, 0.3 s; everything is saved, the same command goes on\n"
    assert worker.output.read_text() == said


@pytest.mark.parametrize("work", [finish, find_nothing_to_do])
def test_work_that_is_over_is_left_in_peace(start: Start, work: Callable[[Stop, Say], None]) -> None:
    worker = start(work, grace=0.3)
    worker.says()
    worker.send(signal.SIGTERM)
    worker.send(signal.SIGINT)
    worker.process.join(SAME_PRESS_SECONDS + 0.1)
    worker.send(signal.SIGINT)
    assert worker.status() == 0
    assert worker.output.read_text() == ""


def test_torchrun_hands_another_press_on_as_sigterm(start: Start) -> None:
    worker = start(wait_under_torchrun)
    worker.says()
    worker.send(signal.SIGINT)
    worker.lasts_beyond_one_press()
    worker.send(signal.SIGTERM)
    assert worker.status() == INTERRUPTED


@pytest.mark.parametrize(("granted", "grace"), [(None, 28.0), ("10", 8.0), ("300", 60.0)])
def test_the_grace_is_over_before_torchrun_kills(
    monkeypatch: pytest.MonkeyPatch, granted: str | None, grace: float
) -> None:
    stop = Stop()
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    stop.set_grace(60.0)
    assert stop.grace == 60.0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    if granted is None:
        monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    else:
        monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", granted)
    stop.set_grace(60.0)
    assert stop.grace == grace
    stop.set_grace(5.0)
    assert stop.grace == 5.0


def test_a_process_has_so_many_hours() -> None:
    stop = Stop()
    assert stop.cause == 0
    stop.max_hours = 1e-9
    time.sleep(1e-5)
    assert stop.cause == TIME_IS_OVER
    assert describe(stop.cause) == "the end of trainer.max_hours"
    stop.max_hours = 1000.0
    assert stop.cause == 0


def test_causes_of_ranks_can_be_compared() -> None:
    """The highest is what all of them stop for, and 0 is none."""
    assert 0 < min(SIGNALS) <= max(SIGNALS) < TIME_IS_OVER
    assert [describe(number) for number in SIGNALS] == ["SIGTERM", "SIGUSR1", "SIGINT"]


def test_signals_are_listened_to_before_torch_is_loaded() -> None:
    code = "import sys, trainer.stops, trainer.errors; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([PYTHON, "-c", code], cwd=REPOSITORY).returncode == 0
