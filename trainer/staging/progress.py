"""What a person sees while copies are made: a bar on a terminal, else a line every ten seconds.

On stderr: stdout is the command's.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from trainer.console import duration

LINE_SECONDS: Final = 10.0


def say(text: str) -> None:
    """A line that stays."""
    print(f"stage: {text}", file=sys.stderr, flush=True)


def size(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


class CopyProgress:
    """A context manager.

    Args:
        what: is being done, e.g. "copying train.beton".
        total: bytes.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._began = self._last_line = time.monotonic()
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task = self._bar.add_task(what, total=total) if self._bar else None

    def __enter__(self) -> CopyProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int) -> None:
        """Tell how many bytes are done."""
        now = time.monotonic()
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done)
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            rate = done / (now - self._began)
            left = duration((self._total - done) / rate) if rate else "?"
            say(f"{self._what}: {size(done)} of {size(self._total)}, {rate / 1e9:.2f} GB/s, {left} left")


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
