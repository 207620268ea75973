"""Starts one command after another on this terminal, and hands signals on to the one that runs.

A command has a process group of its own, to which a signal is sent once, as a terminal would: by the terminal and by
this process it would arrive twice, and trainers take a second Ctrl-C that comes late for a second press.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from trainer.errors import RunError, UsageError
from trainer.stops import SIGNALS, end_with_parent

LEAVING_SECONDS: Final = 60.0
"""What a run may take to save and leave when its launcher is gone already."""


def check_command(file: Path, command: list[str]) -> None:
    """Refuse what cannot be started.

    Raises:
        UsageError: there is no such program.
    """
    if shutil.which(command[0]) is None:
        raise UsageError(f"{file}: launch: no program '{command[0]}' here")


def describe_status(status: int) -> str:
    """An exit status, as `subprocess` has it, for people."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


class Launcher:
    """A context manager: within it a signal does not end this process, but the command, which may save first.

    Args:
        signals: those that are handed on.

    Attributes:
        signal: the first one that came, 0 for none.
    """

    def __init__(self, signals: Sequence[signal.Signals] = SIGNALS) -> None:
        self.signal = 0
        self._signals = signals
        self._process: subprocess.Popen[bytes] | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Launcher:
        self._handlers = {number: signal.signal(number, self._on_signal) for number in self._signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def run(
        self, command: list[str], descriptors: Sequence[int] = (), variables: Mapping[str, str] | None = None
    ) -> int:
        """Wait for `command`, which writes to this terminal, and return its exit status, negative for a signal.

        Where it did not end well, also for the processes that it leaves behind: what is next needs their memory. If
        this process is killed, the command is asked to stop (on Linux).

        Args:
            descriptors: open files that the command inherits.
            variables: of its environment, beside this process's.

        Raises:
            RunError: it cannot be started.
        """
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env={**os.environ, **(variables or {})},
                preexec_fn=partial(_begin_group, os.getpid()),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise RunError(f"{command[0]}: cannot be started: {error}") from error
        if self.signal:  # it came while the process was made
            _signal_group(self._process.pid, self.signal)
        try:
            status = self._process.wait()
        finally:
            group, self._process = self._process.pid, None
        deadline = time.monotonic() + LEAVING_SECONDS
        while status and _signal_group(group, 0) and time.monotonic() < deadline:
            time.sleep(0.1)
        return status

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if self._process is not None:
            _signal_group(self._process.pid, number)


def _begin_group(parent: int) -> None:
    os.setpgid(0, 0)
    end_with_parent(parent)


def _signal_group(group: int, number: int) -> bool:
    """Whether there was anybody to send the signal to."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
