"""When a run is to stop before its end: somebody sent a signal, or its time is over.

A signal only says so. The loop asks after every step, all ranks agree on the step (`trainer.agreement`), save, and
exit with `Preempted.exit_code`. Imports nothing heavy: signals are listened to before torch is loaded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Final

from trainer.errors import INTERRUPTED, Preempted

SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What schedulers, batch scripts and people send."""

SAME_PRESS_SECONDS: Final = 1.0
"""One Ctrl-C may arrive twice, from the terminal and from the launcher that got it, too."""

AT_ONCE_SECONDS: Final = 2.0
"""What a second Ctrl-C gives the main thread to end the process; it may be in C, waiting for another rank."""

TIME_IS_OVER: Final = 1000
"""The cause that is no number of a signal: the limit of `max_hours`."""


def describe(cause: int) -> str:
    """A cause for people."""
    return "the end of trainer.max_hours" if cause == TIME_IS_OVER else signal.Signals(cause).name


class Stopped(Exception):
    """All ranks agreed to stop, in the middle of something that can be done again."""

    def __init__(self, cause: int) -> None:
        super().__init__(describe(cause))
        self.cause = cause


class Stop:
    """Whether somebody wants this process to stop.

    Attributes:
        grace: seconds from the signal to the end of the process, whatever it is doing.
        max_hours: of this process, 0 for no limit.
    """

    def __init__(self) -> None:
        self.grace = 60.0
        self.max_hours = 0.0
        self._cause = 0
        self._began = self._asked = time.monotonic()
        self._in_loop = self._unsaved = self._over = False

    def listen(self) -> None:
        """Take the signals, of the main thread's process."""
        # Python's own handler waits while the main thread is in C, e.g. for other nodes. This wakes a thread at once.
        ears, mouth = socket.socketpair()
        mouth.setblocking(False)
        signal.set_wakeup_fd(mouth.detach(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(ears,), name="stop", daemon=True).start()
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def begin_loop(self) -> None:
        """From here on the loop asks for `cause`; until now there was nothing to save, and a signal raised."""
        self._in_loop = True

    def set_unsaved(self, unsaved: bool) -> None:
        """Whether something would be lost if the process ended now."""
        self._unsaved = unsaved

    def end(self) -> None:
        """The work is over and saved: signals do nothing more."""
        self._over = True

    @property
    def cause(self) -> int:
        """Why to stop: the number of a signal, `TIME_IS_OVER`, or 0 for going on."""
        if not self._cause and 0 < self.max_hours * 3600 < time.monotonic() - self._began:
            return TIME_IS_OVER
        return self._cause

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._cause:
            self._cause, self._asked = number, now
            if not self._in_loop:
                raise Preempted(f"stopped by {describe(number)} before the first step; the same command goes on")
        elif number == signal.SIGINT and now - self._asked > SAME_PRESS_SECONDS and not self._over:
            raise KeyboardInterrupt

    def _watch(self, ears: socket.socket) -> None:
        """End the process if it does not end itself in time."""
        while ears.recv(1)[0] not in SIGNALS:
            pass
        asked = time.monotonic()
        while (rest := asked + self.grace - time.monotonic()) > 0:  # a recipe that is being read may still set `grace`
            ears.settimeout(min(rest, 1.0))
            with contextlib.suppress(TimeoutError):
                if ears.recv(1)[0] == signal.SIGINT and time.monotonic() - asked > SAME_PRESS_SECONDS:
                    time.sleep(AT_ONCE_SECONDS)
                    self._exit(INTERRUPTED, "interrupted again while it was stopping")
        self._exit(1, f"did not stop within trainer.stop_grace, {self.grace:g} s")

    def _exit(self, status: int, why: str) -> None:
        if self._over:
            return
        if not self._unsaved:
            os._exit(Preempted.exit_code)
        print(f"error: {why}; what came after the last checkpoint is lost", file=sys.stderr, flush=True)
        os._exit(status)
