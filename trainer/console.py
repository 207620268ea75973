"""Everything a person sees while a run goes on: a live view on a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainer.recipe import IMAGENET_SAMPLES

TABLE_WIDTH: Final = 110
"""Columns of a table where there is no terminal."""


def table_console() -> Console:
    """Where tables go: the terminal as wide as it is, or a pipe, as wide as COLUMNS says or as they need."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal or "COLUMNS" in os.environ else Console(width=TABLE_WIDTH, highlight=False)


@dataclass
class Status:
    """What is known of the run at this moment. Rates and shares are of the time since the last log line."""

    samples: int
    budget: int
    global_batch: int
    lr: float = 0.0
    images_per_s: float = 0.0
    wait_share: float = 0.0
    """Share of the time spent waiting for data."""
    loss: float | None = None
    train_error: float | None = None
    val_error: float | None = None
    best_error: float | None = None
    skipped: int = 0
    """Samples that did not decode, over all ranks."""
    activity: str = "starting"
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._first_samples = self.samples

    @property
    def epoch(self) -> float:
        """Epoch-equivalents seen."""
        return self.samples / IMAGENET_SAMPLES

    @property
    def eta_seconds(self) -> float | None:
        """Until the end of the budget, at the pace since this began; None before the first step."""
        done = self.samples - self._first_samples
        return (time.monotonic() - self.began) * (self.budget - self.samples) / done if done > 0 else None


class RunConsole:
    """Shows a run's status. Only the main process shows anything; on the others every call does nothing.

    A context manager. With a terminal on stdout the status is a panel that is redrawn four times a second; without
    one it is a line at most every `seconds`.
    """

    def __init__(self, title: str, status: Status, *, seconds: float, shown: bool) -> None:
        self._console = Console(quiet=not shown, highlight=False, soft_wrap=True)
        self._title = title
        self._status = status
        self._seconds = seconds
        self._last_line = time.monotonic()
        self._live = (
            Live(get_renderable=self._panel, console=self._console, refresh_per_second=4, transient=True)
            if shown and self._console.is_terminal
            else None
        )

    def message(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False)

    def tick(self) -> None:
        """The status changed. Cheap: may be called after every step."""
        now = time.monotonic()
        if self._live is None and now - self._last_line >= self._seconds:
            self._last_line = now
            self.message(self._line())

    def __enter__(self) -> RunConsole:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _eta(self) -> str:
        eta = self._status.eta_seconds
        return "unknown" if eta is None else duration(eta)

    def _fields(self) -> list[tuple[str, str]]:
        status = self._status
        return [
            ("epoch-equivalent", f"{status.epoch:.4g} of {status.budget / IMAGENET_SAMPLES:.4g}"),
            ("step", f"{status.samples // status.global_batch:,} of {status.budget // status.global_batch:,}"),
            ("images/s", f"{status.images_per_s:,.0f}"),
            ("waiting for data", f"{status.wait_share:.1%}"),
            ("lr", f"{status.lr:.4g}"),
            ("loss", _known(status.loss, ".4f")),
            ("top-1 error, training", _known(status.train_error, ".2%")),
            ("top-1 error, validation", _known(status.val_error, ".2%") + _best(status)),
            ("ETA", self._eta()),
            *([("samples skipped", f"{status.skipped:,}")] if status.skipped else []),
        ]

    def _line(self) -> str:
        status = self._status
        parts = [
            f"step {status.samples // status.global_batch:,} of {status.budget // status.global_batch:,}",
            f"{status.epoch:.4g} ep",
            f"{status.images_per_s:,.0f} images/s",
            f"data wait {status.wait_share:.1%}",
            f"lr {status.lr:.4g}",
            f"loss {_known(status.loss, '.4f')}",
            f"top-1 error {_known(status.train_error, '.2%')}",
            *([f"{status.skipped:,} samples skipped"] if status.skipped else []),
            f"ETA {self._eta()}",
        ]
        return " | ".join(parts)

    def _panel(self) -> Panel:
        grid = Table.grid(padding=(0, 3))
        grid.add_column(style="dim")
        grid.add_column()
        grid.add_column(style="dim")
        grid.add_column()
        entries = self._fields()
        half = -(-len(entries) // 2)
        for i in range(half):
            left = entries[i]
            right = entries[i + half] if i + half < len(entries) else ("", "")
            grid.add_row(left[0], Text(left[1], style="bold"), right[0], Text(right[1], style="bold"))
        bar = ProgressBar(total=self._status.budget, completed=self._status.samples)
        elapsed = duration(time.monotonic() - self._status.began)
        return Panel(
            Group(bar, Text(), grid),
            title=self._title,
            subtitle=f"{self._status.activity}, {elapsed}",
            border_style="cyan",
            padding=(1, 2),
            width=min(self._console.width, 100),
        )


def duration(seconds: float) -> str:
    """`4:07`, `1:02:33` or `2d 3:00:00`."""
    whole = round(seconds)
    days, rest = divmod(whole, 86_400)
    hours, minutes, second = rest // 3600, rest // 60 % 60, rest % 60
    clock = f"{hours}:{minutes:02}:{second:02}" if hours or days else f"{minutes}:{second:02}"
    return f"{days}d {clock}" if days else clock


def _known(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _best(status: Status) -> str:
    return "" if status.best_error is None else f" (best {status.best_error:.2%})"
