"""When a run is to stop before its end: somebody sent a signal, or its time is over.

A signal only says so. The loop asks after every step, all ranks agree on the step (`trainer.agreement`), save, and
exit with `Preempted.exit_code`. Imports nothing heavy: signals are listened to before torch is loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Final

from trainer.errors import INTERRUPTED, NotBegun, Preempted

SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What schedulers, batch scripts and people send."""

SAME_PRESS_SECONDS: Final = 1.0
"""One Ctrl-C may arrive twice, from the terminal and from the launcher that got it, too."""

AT_ONCE_SECONDS: Final = 2.0
"""What a second Ctrl-C gives the main thread to end the process; it may be in C, waiting for another rank."""

PR_SET_PDEATHSIG: Final = 1
"""Of linux/prctl.h."""

TORCHRUN: Final = "TORCHELASTIC_RUN_ID"
"""The variable by which torchrun's processes, and so those of several ranks of Accelerate's launcher, are known."""

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
        self._granted = "trainer.stop_grace"
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
        self._ears = ears  # as long as there are signals, also when nobody listens any more
        threading.Thread(target=self._watch, args=(ears,), name="stop", daemon=True).start()
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a child's signals are its own
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def set_grace(self, seconds: float) -> None:
        """As the recipe has it, but less than torchrun waits until it kills."""
        self.grace = seconds
        if TORCHRUN in os.environ:
            granted = max(float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30")) - 2.0, 1.0)
            if granted < seconds:
                self.grace, self._granted = granted, "torchrun's TORCH_ELASTIC_SHUTDOWN_TIMEOUT"

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
        if self._over:
            return
        now = time.monotonic()
        if not self._cause:
            self._cause, self._asked = number, now
            if not self._in_loop:
                raise NotBegun(f"stopped by {describe(number)} before the first step; the same command goes on")
        elif self._is_second_press(number, now - self._asked):
            raise KeyboardInterrupt

    def _is_second_press(self, number: int, seconds_later: float) -> bool:
        if seconds_later <= SAME_PRESS_SECONDS:
            return False
        # torchrun hands a second Ctrl-C to its processes as SIGTERM.
        by_torchrun = TORCHRUN in os.environ and self._cause == signal.SIGINT and number == signal.SIGTERM
        return number == signal.SIGINT or by_torchrun

    def _watch(self, ears: socket.socket) -> None:
        """End the process if it does not end itself in time."""
        while ears.recv(1)[0] not in SIGNALS:
            pass
        asked = time.monotonic()
        while (rest := asked + self.grace - time.monotonic()) > 0:  # a recipe that is being read may still set `grace`
            ears.settimeout(min(rest, 1.0))
            with contextlib.suppress(TimeoutError):
                if self._is_second_press(ears.recv(1)[0], time.monotonic() - asked):
                    time.sleep(AT_ONCE_SECONDS)
                    self._exit(INTERRUPTED, "interrupted again while it was stopping")
        self._exit(1, f"did not stop within {self._granted}, {self.grace:g} s")

    def _exit(self, status: int, why: str) -> None:
        if self._over:
            return
        if not self._unsaved:
            print(f"{why}; everything is saved, the same command goes on", file=sys.stderr, flush=True)
            os._exit(Preempted.exit_code)
        print(f"error: {why}; what came after the last checkpoint is lost", file=sys.stderr, flush=True)
        os._exit(status)


def end_with_launcher() -> None:
    """Have the kernel send SIGTERM when the launcher that started this process is gone, so that none is left behind.

    Accelerate's launchers end their processes when they are asked to stop, not when they are killed. Linux only.
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        end_with_parent(os.getppid())


def end_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when `parent`, which started it, is gone. Linux only.

    It holds for the program that the process becomes, too.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it went meanwhile
            os.kill(os.getpid(), signal.SIGTERM)
