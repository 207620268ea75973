"""The report as a person reads it: a table on a terminal, lines for grep everywhere else."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.doctor.check import Check

STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}

WIDEST: Final = 120
"""Columns of a table; longer lines are hard to read."""


def looking(console: Console) -> AbstractContextManager[object]:
    """A sign of life on a terminal while the checks are made: they take seconds."""
    first = os.environ.get("RANK", "0") == "0"
    return console.status("looking …") if console.is_terminal and first else contextlib.nullcontext()


def print_report(checks: Sequence[Check], console: Console) -> None:
    """Print all checks, and how many there are of each kind."""
    if console.is_terminal:
        console.print(_table(checks), width=min(console.width, WIDEST))
    else:
        width = max((len(check.name) for check in checks), default=0)
        for check in checks:
            console.print(plain(check, width), markup=False, highlight=False, soft_wrap=True)
    console.print(_summary(checks), markup=False, highlight=False, soft_wrap=True)


def plain(check: Check, width: int = 0) -> str:
    """`warn memory  22 GiB free — what to do`; names padded to `width`."""
    advice = f" — {check.advice}" if check.advice else ""
    return f"{check.status:<4} {check.name:<{width}}  {check.found}{advice}"


def _table(checks: Sequence[Check]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        style = STYLES[check.status]
        found = Text(check.found)
        if check.advice:
            found.append(f"\n→ {check.advice}", style=style)
        table.add_row(Text(check.status, style=style), check.name, found)
    return table


def _summary(checks: Sequence[Check]) -> str:
    count = Counter(check.status for check in checks)
    return f"{len(checks)} checks: {count['ok']} ok, {count['warn']} warn, {count['fail']} fail"
