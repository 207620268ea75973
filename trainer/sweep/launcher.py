"""Starts one command after another on this terminal, and hands signals on to the one that runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from trainer.errors import RunError, UsageError
from trainer.stops import SIGNALS, end_with_parent


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

    Attributes:
        signal: the first one that came, 0 for none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Launcher:
        self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def run(self, command: list[str]) -> int:
        """Wait for `command`, which has this terminal, and return its exit status, negative for a signal.

        If this process is killed, the command is asked to stop (on Linux).

        Raises:
            RunError: it cannot be started.
        """
        try:
            self._process = subprocess.Popen(command, preexec_fn=partial(end_with_parent, os.getpid()))
        except (OSError, subprocess.SubprocessError) as error:
            raise RunError(f"{command[0]}: cannot be started: {error}") from error
        if self.signal:  # it came while the process was made
            self._process.send_signal(self.signal)
        try:
            return self._process.wait()
        finally:
            self._process = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        # On a terminal Ctrl-C has reached it, too. Once more does no harm: trainers take both for one.
        if self._process is not None:
            self._process.send_signal(number)
