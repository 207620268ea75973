"""One trainer to a run folder; what a dead one left keeps nobody out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.faults.trainers import CONTEXT, can_mount, mounted
from trainer.errors import UsageError
from trainer.lock import NAME, RunLock, holder_of

# A process that closes the file of its own lock, be it after a look into it, has let go of it: that is how POSIX wants
# it. So others look here, or those that are done.


def hold(folder: Path, said: Connection, spawns: bool) -> None:
    lock = RunLock(folder)
    child = subprocess.Popen(["sleep", "60"], close_fds=False).pid if spawns else 0
    said.send(child)
    time.sleep(60)
    lock.release()


def enter(folder: Path, said: Connection) -> None:
    """Try to work in a folder, and say how that went."""
    try:
        RunLock(folder)
        said.send("entered")
    except UsageError as error:
        said.send(str(error))


def attempt(folder: Path) -> str:
    """What another process is told that wants to work in `folder`."""
    heard, said = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=enter, args=(folder, said))
    process.start()
    answer = heard.recv()
    process.join()
    return str(answer)


@contextmanager
def holder(folder: Path, spawns: bool = False) -> Iterator[tuple[BaseProcess, int]]:
    """A process that works in `folder`, and the one that it has started."""
    heard, said = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=hold, args=(folder, said, spawns))
    process.start()
    try:
        yield process, heard.recv()
    finally:
        process.kill()
        process.join()


def test_a_second_trainer_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        with pytest.raises(UsageError) as refused:
            RunLock(tmp_path)
        said = str(refused.value)
        assert said.startswith(f"{tmp_path}: another trainer is at work in this run folder (process {process.pid} on ")
        assert socket.gethostname() in said
        assert said.endswith("wait for it, stop it, or give this run another name=")
        assert "\n" not in said
        assert json.loads((tmp_path / NAME).read_text())["pid"] == process.pid  # being refused changes nothing
        with pytest.raises(UsageError):
            RunLock(tmp_path)


def test_a_trainer_that_was_killed_keeps_nobody_out(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    assert json.loads((tmp_path / NAME).read_text())["pid"] == process.pid
    lock = RunLock(tmp_path)
    assert not lock.note
    assert f"process {os.getpid()} on " in attempt(tmp_path)
    lock.release()


def test_what_a_killed_trainer_had_started_keeps_nobody_out(tmp_path: Path) -> None:
    with holder(tmp_path, spawns=True) as (process, child):
        try:
            process.kill()
            process.join()
            RunLock(tmp_path).release()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_released_folder_is_free(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    assert "another trainer" in attempt(tmp_path)
    lock.release()
    assert attempt(tmp_path) == "entered"
    lock.release()
    RunLock(tmp_path).release()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"pid": 3}', b"\0" * 5000, b"[" * 5000])
def test_whatever_is_in_its_file_the_lock_holds(tmp_path: Path, content: bytes) -> None:
    with holder(tmp_path):
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(UsageError, match=r"another trainer is at work .* \(it has not said who it is\)"):
            RunLock(tmp_path)


@pytest.mark.parametrize("content", [b"x" * 5000, b"[" * 5000, b'{"pid": 1, "host": "with a longer name"}' * 9])
def test_whatever_is_in_a_file_that_nobody_holds_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    lock = RunLock(tmp_path)
    assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    lock.release()


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("needs the right to mount")
    with mounted(tmp_path / "run", "ro", "size=64k") as folder, pytest.raises(OSError, match="Read-only file system"):
        RunLock(folder)


def test_who_works_in_a_folder_can_be_asked_without_locking_it(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "none") is None
    assert holder_of(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    with holder(tmp_path) as (process, _):
        said = holder_of(tmp_path)
        assert said is not None
        assert said.startswith(f"process {process.pid} on {socket.gethostname()}, since ")
        assert "another trainer" in attempt(tmp_path)
    assert holder_of(tmp_path) is None  # though the file is there
    assert attempt(tmp_path) == "entered"
