"""The table of a sweep: what its runs have reached, beside the paper's errors."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from trainer.evaluation.protocols import CENTER, TEN_CROP, TITLES
from trainer.files import write_atomically
from trainer.recipe import Recipe
from trainer.report.paper import VALIDATION_IMAGES, family, published
from trainer.sweep.progress import Progress

UNKNOWN: Final = "-"


class Row(NamedTuple):
    """A run, as the table has it. Errors are top-1."""

    run: str
    network: str
    steps: str
    validation: str
    training: str
    paper: str
    state: str


HEADINGS: Final = Row("run", "network", "steps", "top-1 error, last (best)", "train", "paper", "state")


def write_table(
    runs: list[tuple[Recipe, Progress, int | None]], out: Path | None = None, console: Console | None = None
) -> None:
    """Print the table: for people on a terminal, as Markdown elsewhere. Write it to `out` as Markdown.

    Args:
        runs: recipe, progress and, if it failed in this sweep, its exit status.
    """
    rows = [make_row(*run) for run in runs]
    console = console or Console()
    if console.is_terminal:
        console.print(_rich_table(rows))
    else:
        console.print(to_markdown(rows), end="", markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        write_atomically(out, to_markdown(rows).encode())


def make_row(recipe: Recipe, progress: Progress, failed: int | None = None) -> Row:
    """One run. The training error is that of the last log interval, on augmented images."""
    validation, train = progress.lines_of("validation"), progress.lines_of("train")
    errors = UNKNOWN
    if validation:
        best = min(line["top1_error"] for line in validation)
        errors = f"{validation[-1]['top1_error']:.2%} ({best:.2%})"
    return Row(
        recipe.name,
        recipe.model.title,
        f"{progress.budget // recipe.optimizer.global_batch:,}",
        errors,
        f"{train[-1]['top1_error']:.2%}" if train else UNKNOWN,
        _paper(recipe, validation[-1]["images"] if validation else None),
        _state(progress, failed),
    )


def to_markdown(rows: list[Row]) -> str:
    """A table in Markdown, aligned in the source, too."""
    cells = [HEADINGS, *rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(HEADINGS))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rich_table(rows: list[Row]) -> Table:
    table = Table(
        title="top-1 errors",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    right = (HEADINGS.steps, HEADINGS.validation, HEADINGS.training)
    whole = (HEADINGS.steps, HEADINGS.training, HEADINGS.state)
    for heading in HEADINGS:
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            overflow="fold",
            no_wrap=heading in whole,
        )
    for row in rows:
        table.add_row(*row)
    return table


def _paper(recipe: Recipe, images: int | None) -> str:
    """The errors of one view and of ten; none beside a validation on so many images if the paper's are of others."""
    if images not in (None, VALIDATION_IMAGES[family(recipe.model.name)]):
        return UNKNOWN
    found = {protocol: published(recipe.model, protocol) for protocol in (CENTER, TEN_CROP)}
    names = {protocol: "" if recipe.model.is_cifar else f" {TITLES[protocol]}" for protocol in found}
    texts = [f"{paper.top1_text}%{names[protocol]}" for protocol, paper in found.items() if paper is not None]
    return ", ".join(texts) or UNKNOWN


def _state(progress: Progress, failed: int | None) -> str:
    if progress.done:
        return "done"
    share = "not begun" if progress.share is None else f"{progress.share:.0%}"
    if progress.holder:
        return f"{share}, in use"
    if failed is not None:
        return f"failed ({signal.Signals(-failed).name if failed < 0 else failed})"
    return share
