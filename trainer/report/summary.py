"""One run as a table on the terminal: how far it is, how fast, and how good."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from trainer.console import duration
from trainer.recipe import IMAGENET_SAMPLES
from trainer.report.comparison import Measured, measured
from trainer.report.paper import family
from trainer.report.runs import Run
from trainer.report.tables import error, points


def summary_table(run: Run) -> Table:
    """A table of one run, a row a fact."""
    table = Table(title=f"Run {escape(run.label)}", title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("network", f"{run.network}, crops of {run.recipe.crop_sizes} pixels")
    table.add_row("steps", f"{run.samples // run.batch:,} of {run.budget // run.batch:,}, {run.batch} images each")
    table.add_row("epoch-equivalents", f"{run.epochs:.4g} of {run.budget / IMAGENET_SAMPLES:.4g}")
    if run.passes is not None and run.train_images is not None:
        passes = f"{run.passes:.4g} of {run.budget / run.train_images:.4g}"
        table.add_row("passes over the data", f"{passes}, {run.train_images:,} images each")
    _add_training(table, run)
    for found in measured(run):
        table.add_row(*_result(run, found))
    table.add_row("run folder", escape(str(run.run_dir)))
    return table


def _add_training(table: Table, run: Run) -> None:
    rate, wait = run.median("images_per_s"), run.median("data_wait")
    if rate is None or wait is None:
        return
    starts = "" if len(run.starts) == 1 else f", started {len(run.starts)} times"
    table.add_row("training time", f"{duration(run.training_seconds)}{starts}")
    table.add_row("speed", f"{rate:,.0f} images/s, {wait:.1%} of the time waiting for data")
    if run.skipped:
        table.add_row("samples skipped", f"[bold]{run.skipped:,}[/] did not decode and were replaced")
    if run.nonfinite:
        table.add_row("steps not finite", f"[bold]{len(run.nonfinite):,}[/]")
    table.add_row("learning rate", f"{run.train[0]['lr']:.4g} at first, {run.train[-1]['lr']:.4g} at last")
    if run.validation:
        table.add_row("best top-1 error", f"{run.best_error:.2%}")


def _result(run: Run, found: Measured) -> tuple[str, str]:
    """An evaluation and, below, the paper's."""
    top1, top5 = error(found.top1, found.top1_interval), error(found.top5, found.top5_interval)
    text = f"top-1 error [bold]{escape(top1)}[/] %, top-5 {escape(top5)} %, {found.images:,} images"
    if found.paper is not None:
        top5 = found.paper.top5_text and f", top-5 {found.paper.top5_text} %"
        text += f"\nthe paper's on {family(run.recipe.model.name)}: top-1 {found.paper.top1_text} %{top5}"
        text += f" ({found.paper.source})"
        if found.top1_difference is not None:
            text += f"; difference {points(found.top1_difference)} points"
    return escape(found.view), text + "".join(f"\n{escape(note)}" for note in found.notes)
