"""What runs have reached: a table beside the paper's errors, and curves. Reads what training wrote, nothing else."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from trainer.report.curves import draw_curves
from trainer.report.summary import summarize, summary_table


def report(run_dirs: list[Path]) -> None:
    """Print a table of each run, and draw its curves into its `report/curves.png`.

    Raises:
        UsageError: a folder is no run folder.
    """
    console = Console()
    for summary in [summarize(run_dir) for run_dir in run_dirs]:
        curves = draw_curves(summary)
        table = summary_table(summary)
        table.add_row("curves", str(curves))
        console.print(table)
