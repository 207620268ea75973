"""A loader's process, seen from the benchmark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any, Final

from trainer.bench.loader.messages import Check, Epoch, Task
from trainer.bench.resources import memory_of_session
from trainer.errors import RunError

START_SECONDS: Final = 300.0
"""Any loader has imported its libraries and compiled its code by then."""

SLOWEST_RATE: Final = 10.0
"""Images/s: a loader below this is taken to hang."""

SAMPLE_SECONDS: Final = 0.05
"""Between two looks at the memory."""


class LoaderProcess:
    """Runs epochs of one loader, one at a time. Close it, or leave its `with`, to end all of its processes.

    Args:
        folder: where its output goes.

    Attributes:
        patience: seconds until a loader that says nothing is given up; generous, and by the number of images.

    Raises:
        RunError, from every method: the loader failed, died or hangs; the message ends with its last words.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self.task = task
        self.patience = START_SECONDS + task.work.images / SLOWEST_RATE
        self._log = folder / f"{task.peer.name}-{task.workers}.log"
        self._connection, other_end = Pipe()
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with open(self._log, "wb") as log, other_end:
            # A session of its own: Ctrl-C is ours alone, and all that it starts can be found and ended.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer.bench.loader.worker", str(other_end.fileno())],
                pass_fds=[other_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": paths},
            )
        try:
            self._send(task)
            self._receive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LoaderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the process, and the session of all that it starts."""
        return self._process.pid

    def warm_up(self) -> float | None:
        """An epoch that is not timed; returns the highest memory meanwhile in bytes, see `memory_of_session`."""
        highest = -1

        def look() -> None:
            nonlocal highest
            highest = max(highest, memory_of_session(self.pid) or -1)

        self._send("warm up")
        images = self._receive(look)
        look()
        if images != self.task.work.images:
            raise RunError(f"made {images} images of {self.task.work.images}")
        return highest if highest >= 0 else None

    def check(self) -> Check:
        """Compare what the warm-up made with what was asked."""
        self._send("check")
        check: Check = self._receive()
        return check

    def epoch(self, number: int) -> Epoch:
        """A timed epoch; its number, from 1, says which crops it has."""
        self._send(number)
        epoch: Epoch = self._receive()
        if epoch.images != self.task.work.images:
            raise RunError(f"made {epoch.images} images of {self.task.work.images} in epoch {number}")
        return epoch

    def close(self) -> None:
        self._connection.close()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None

    def _receive(self, meanwhile: Callable[[], None] | None = None) -> Any:
        deadline = time.monotonic() + self.patience
        while not self._connection.poll(SAMPLE_SECONDS if meanwhile else self.patience):
            if meanwhile:
                meanwhile()
            if time.monotonic() > deadline:
                self.close()
                raise RunError(f"nothing for {self.patience:.0f} s, given up; its last words: {self._last_line()}")
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._died() from None

    def _died(self) -> RunError:
        code = self._process.wait()
        if code < 0:
            hint = "; if the memory ran out, take a smaller --batch or fewer --peers" if code == -signal.SIGKILL else ""
            return RunError(f"killed by {signal.Signals(-code).name}{hint}")
        return RunError(self._last_line())

    def _last_line(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "(it said nothing)"
