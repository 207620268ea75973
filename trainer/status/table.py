"""The table of `trainer status`: as many columns as there is something for, and room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from rich import box
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainer.console import duration
from trainer.status.runs import KILLED, LOST, Look

STYLES: Final = {"finished": "green", "stopped": "yellow", "failed": "bold red", KILLED: "bold red", LOST: "bold red"}
NONE: Final = ""
BAR_WIDTH: Final = 12
NAME_WIDTH: Final = 28
"""Longer names take more lines."""
ANY_WIDTH: Final = 1000
LINES_AROUND: Final = 5
"""Of a table, and of the line that says how many runs are left out."""


def draw(runs: list[Look], console: Console) -> Group:
    """The table as it fits on the terminal, those at work first if not all do; below it, why runs failed."""
    left_out = 0
    if len(runs) + LINES_AROUND > console.height:
        runs = sorted(runs, key=lambda run: not run.at_work)
        fit = max(console.height - LINES_AROUND - 1, 1)
        left_out, runs = len(runs) - fit, runs[:fit]
    more = [Text(f" and {left_out} more", style="dim")] if left_out else []
    return Group(_fitting_table(runs, console), *more, *_errors(runs))


def print_table(runs: list[Look]) -> None:
    """All runs. Where there is no terminal lines are as long as they need to be, for those who search in them."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=ANY_WIDTH)
    console.print(_fitting_table(runs, console))
    for error in _errors(runs):
        console.print(error)


def _errors(runs: list[Look]) -> list[Text]:
    return [Text.assemble((f" {_name(run)}: ", "bold"), run.status.error) for run in runs if run.status.error]


def _fitting_table(runs: list[Look], console: Console) -> Table:
    columns = [column for column in COLUMNS if any(column.cell(run) for run in runs)]
    if not console.is_terminal:
        columns = [column for column in columns if column is not BAR]
    for spare in (None, *SPARE):
        columns = [column for column in columns if column is not spare]
        table = _table(runs, columns)
        if console.measure(table, options=console.options.update(max_width=ANY_WIDTH)).maximum <= console.width:
            break
    return table


def _table(runs: list[Look], columns: list[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run", overflow="fold", min_width=8, max_width=NAME_WIDTH)
    for column in columns:
        table.add_column(column.heading, justify="right" if column.right else "left", no_wrap=True)
    for run in runs:
        table.add_row(_name(run), *(column.cell(run) for column in columns))
    return table


def _name(run: Look) -> str:
    return run.path.name or str(run.path)


def _state(run: Look) -> Text:
    ago = NONE if run.at_work else f" {_ago(run.status.age)}"
    return Text.assemble((run.state, STYLES.get(run.state, "cyan" if run.at_work else "")), (ago, "dim"))


def _ago(seconds: float) -> str:
    """`40s ago`, `5m ago`, `3h ago`, `2d ago`."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit} ago"
    return f"{seconds:.0f}s ago"


def _bar(run: Look) -> ProgressBar:
    return ProgressBar(total=run.status.steps or 1, completed=run.status.step, width=BAR_WIDTH)


def _share(run: Look) -> str:
    status = run.status
    return f"{int(100 * status.step / status.steps)}%" if status.steps else NONE


def _step(run: Look) -> str:
    status = run.status
    return f"{status.step:,}" + (f"/{status.steps:,}" if status.steps else NONE) if status.step else NONE


def _now(value: Callable[[Look], str]) -> Callable[[Look], str]:
    """Of runs that are at work: what others did last is not what they do."""
    return lambda run: value(run) if run.at_work else NONE


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


class Column(NamedTuple):
    heading: str
    cell: Callable[[Look], str | Text | ProgressBar]
    right: bool = True


BAR: Final = Column("", _bar)
STEP: Final = Column("step", _step)
WAIT: Final = Column("data wait", _now(lambda run: _number(run.status.data_wait, ".0%")))
BEST: Final = Column("best", lambda run: _number(run.status.top1_error_best, ".2%"))
RESTARTS: Final = Column("restarts", lambda run: f"{run.status.restarts}" if run.status.restarts else NONE)
JOB: Final = Column("job", lambda run: run.status.slurm_job or NONE)
COLUMNS: Final = (
    Column("state", _state, right=False),
    BAR,
    Column("", _share),
    STEP,
    Column("images/s", _now(lambda run: _number(run.status.images_per_s, ",.0f"))),
    WAIT,
    Column("ETA", _now(lambda run: NONE if run.status.eta_seconds is None else duration(run.status.eta_seconds))),
    Column("top-1 error", lambda run: _number(run.status.top1_error_validation, ".2%")),
    BEST,
    RESTARTS,
    JOB,
)
SPARE: Final = (BAR, WAIT, STEP, RESTARTS, BEST, JOB)
"""What is left out first where a terminal is narrow."""
