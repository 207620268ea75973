"""How far runs are, and what became of them: `trainer status`. Reads the files of run folders alone, without torch."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Final

from trainer.errors import UsageError
from trainer.status.runs import find_runs, look

WATCH_SECONDS: Final = 2.0


def show_status(paths: list[Path], *, watch: bool = False, as_json: bool = False) -> None:
    """Print a table of the runs at `paths` (run folders, or folders of them), with what went wrong below it.

    Args:
        watch: redraw it on the terminal until Ctrl-C.
        as_json: print a list of objects instead, see `runs.Look.to_json`.

    Raises:
        UsageError: there is no run at one of the paths, or no terminal to watch on.
    """
    if as_json:
        print(json.dumps([look(run).to_json() for run in find_runs(paths)], indent=1))
        return
    if watch and not sys.stdout.isatty():
        raise UsageError("--watch redraws a terminal, and this is none; leave it out, or ask for --json")
    if watch:
        _watch(paths)
        return
    from trainer.status.table import print_table

    print_table([look(run) for run in find_runs(paths)])


def _watch(paths: list[Path]) -> None:
    from rich.console import Console
    from rich.live import Live

    from trainer.status.table import draw

    console = Console(highlight=False)
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                live.update(draw([look(run) for run in find_runs(paths)], console), refresh=True)
                time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return
