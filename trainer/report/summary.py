"""One run in one line: how far it is, how fast, and how good."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from trainer.console import duration
from trainer.recipe import IMAGENET_SAMPLES, Recipe, load_recipe
from trainer.record import read_metrics
from trainer.report.paper import published


@dataclass(frozen=True)
class RunSummary:
    """What a run folder says."""

    run_dir: Path
    recipe: Recipe
    train: list[dict[str, Any]]
    """Lines of the metrics of kind `train`, oldest first."""
    validation: list[dict[str, Any]]
    starts: int
    """How often the run was started."""

    @property
    def samples(self) -> int:
        return max((int(line["samples"]) for line in (*self.train, *self.validation)), default=0)

    @property
    def training_seconds(self) -> float:
        """Time in the loop, without validation and checkpoints, over all starts."""
        seconds, previous = 0.0, 0
        for line in self.train:
            seconds += (line["samples"] - previous) / line["images_per_s"]
            previous = line["samples"]
        return seconds


def summarize(run_dir: Path) -> RunSummary:
    """Read a run folder.

    Raises:
        UsageError: it is none.
    """
    lines = read_metrics(run_dir)
    by_kind = {kind: [line for line in lines if line["kind"] == kind] for kind in ("train", "validation", "start")}
    return RunSummary(run_dir, load_recipe(run_dir), by_kind["train"], by_kind["validation"], len(by_kind["start"]))


def summary_table(summary: RunSummary) -> Table:
    """A table of one run, a row a fact."""
    recipe = summary.recipe
    batch = recipe.optimizer.global_batch
    budget = recipe.samples(recipe.schedule.budget)
    shortcut = f", option {recipe.model.shortcut}" if recipe.model.shortcut else ""
    table = Table(title=f"Run {recipe.name}", title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("network", f"{recipe.model.name}{shortcut}, {recipe.data.size}x{recipe.data.size} pixels")
    table.add_row("steps", f"{summary.samples // batch:,} of {budget // batch:,}, {batch} images each")
    table.add_row("epoch-equivalents", f"{summary.samples / IMAGENET_SAMPLES:.4g} of {budget / IMAGENET_SAMPLES:.4g}")
    if summary.train:
        rate = median(line["images_per_s"] for line in summary.train)
        wait = median(line["data_wait"] for line in summary.train)
        starts = "" if summary.starts == 1 else f", started {summary.starts} times"
        table.add_row("training time", f"{duration(summary.training_seconds)}{starts}")
        table.add_row("speed", f"{rate:,.0f} images/s, {wait:.1%} of the time waiting for data")
        skipped = sum(line.get("skipped", 0) for line in summary.train)
        if skipped:
            table.add_row("samples skipped", f"[bold]{skipped:,}[/] did not decode and were replaced")
        table.add_row("learning rate", f"{summary.train[0]['lr']:.4g} at first, {summary.train[-1]['lr']:.4g} at last")
    if summary.validation:
        last = summary.validation[-1]
        best = min(line["top1_error"] for line in summary.validation)
        table.add_row("validation images", f"{last['images']:,}")
        table.add_row("top-1 error, last (best)", f"[bold]{last['top1_error']:.2%}[/] ({best:.2%})")
        table.add_row("top-5 error", f"{last['top5_error']:.2%}")
    paper = published(recipe.model.name, recipe.model.shortcut)
    if paper is not None:
        top5 = "" if paper.top5 is None else f", top-5 {paper.top5:.2f}%"
        table.add_row(f"the paper's, {paper.data}", f"top-1 {paper.top1:.2f}%{top5} ({paper.protocol})")
    table.add_row("run folder", str(summary.run_dir))
    return table
