"""Progress of a conversion: a bar with rate and remaining time on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_SECONDS: Final = 5.0


class ImageProgress:
    """Counts images on stderr while its block runs."""

    def __init__(self, verb: str, total: int) -> None:
        self._verb, self._total = verb, total
        self._start = self._last_line = time.monotonic()
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task = self._bar.add_task(verb, total=total, rate="", bad="") if self._bar else TaskID(0)

    def __enter__(self) -> ImageProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def update(self, done: int, bad: int) -> None:
        """Tell how many images are behind, and how many of them were bad."""
        now = time.monotonic()
        rate = done / max(now - self._start, 1e-9)
        bad_text = f", {bad:,} bad" if bad else ""
        if self._bar:
            self._bar.update(self._task, completed=done, rate=f"{rate:,.0f} images/s", bad=bad_text)
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            remaining = _duration((self._total - done) / rate) if rate else "?"
            line = f"{self._verb}: {done:,} of {self._total:,} images, {rate:,.0f} images/s, {remaining} left{bad_text}"
            print(line, file=sys.stderr, flush=True)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[bad]}", style="red"),
        console=Console(stderr=True),
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
