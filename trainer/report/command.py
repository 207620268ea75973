"""`trainer report`: the page of some runs, and a table of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from trainer.errors import UsageError
from trainer.files import check_output, write_atomically
from trainer.report import plots
from trainer.report.canvas import MOST_RUNS, to_png
from trainer.report.page import Figure, Group, figure_captions, render
from trainer.report.runs import Run, read_runs, short_names
from trainer.report.summary import summary_table

PAGE: Final = "index.html"


def report(run_dirs: Sequence[Path], out: Path | None = None) -> None:
    """Print a table of each run, and write the page and its figures.

    Args:
        run_dirs: up to eight of them. Runs of other networks' families or other validation data have figures of
            their own.
        out: a folder, made if it is not there; of one run by default its own `report`.

    Raises:
        UsageError: a folder is no run folder, or `out` is missing or no folder.
    """
    if len(run_dirs) > MOST_RUNS:
        raise UsageError(f"{len(run_dirs)} runs, expected at most {MOST_RUNS}: more curves cannot be told apart")
    if out is None and len(run_dirs) > 1:
        raise UsageError(f"{len(run_dirs)} runs: say with --out DIR where their report is to be written")
    runs = read_runs(list(run_dirs))
    folder = out or run_dirs[0] / "report"
    check_output(folder / PAGE, "--out", with_parents=True)
    console = Console()
    for run in runs:
        console.print(summary_table(run))
    page = _write(runs, folder)
    console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)


def _write(runs: Sequence[Run], out: Path) -> Path:
    """The figures first, the page last; each replaces one that is there. Returns the page's path."""
    groups = _groups(runs)
    out.mkdir(parents=True, exist_ok=True)
    for group in groups:
        for figure in group.figures:
            write_atomically(out / figure.file, figure.png)
    write_atomically(out / PAGE, render(groups).encode())
    return out / PAGE


def _groups(runs: Sequence[Run]) -> list[Group]:
    together: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        together.setdefault(run.group, []).append(run)
    validated = short_names([Path(members[0].recipe.data.val).absolute() for members in together.values()])
    groups = []
    for number, ((family, _), members) in enumerate(together.items(), start=1):
        title = f"{family} networks, validated on {validated[number - 1]}"
        suffix = f"-{number}" if len(together) > 1 else ""
        groups.append(Group(title, members, _figures(members, suffix)))
    return groups


def _figures(runs: Sequence[Run], suffix: str) -> list[Figure]:
    drawn: dict[str, bytes] = {}
    if any(run.train or run.validation for run in runs):
        drawn["curves"] = to_png(plots.draw_errors(runs))
        if len({run.is_plain for run in runs}) > 1:
            drawn["training"] = to_png(plots.draw_training_errors(runs))
        drawn["loss"] = to_png(plots.draw_losses(runs))
        drawn["progress"] = to_png(plots.draw_progress(runs))
    if any(run.responses for run in runs):
        drawn["responses"] = to_png(plots.draw_responses(runs))
    captions = figure_captions(runs)
    return [Figure(f"{name}{suffix}.png", png, *captions[name]) for name, png in drawn.items()]
