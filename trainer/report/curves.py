"""The curves of a run: error and loss over training, as in Figures 4 and 6 of the paper."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib.axes import Axes

from trainer.files import write_atomically
from trainer.report.summary import RunSummary

TRAINING, VALIDATION, DROP = "#9a9a9a", "#c0392b", "#2c3e50"


def draw_curves(summary: RunSummary) -> Path:
    """Draw `report/curves.png` in the run folder and return its path."""
    figure = matplotlib.figure.Figure(figsize=(11, 4.2), layout="constrained")
    errors, losses = figure.subplots(1, 2)
    batch = summary.recipe.optimizer.global_batch
    _draw(errors, summary, batch, "top1_error", 100.0, "top-1 error (%)")
    _draw(losses, summary, batch, "loss", 1.0, "loss")
    errors.set_ylim(0, 100)
    losses.set_ylim(bottom=0)
    if summary.validation:
        last = summary.validation[-1]
        errors.annotate(
            f"{last['top1_error']:.2%}",
            (last["samples"] / batch, 100 * last["top1_error"]),
            xytext=(-4, 8),
            textcoords="offset points",
            ha="right",
            color=VALIDATION,
            weight="bold",
        )
    errors.legend(frameon=False)
    figure.suptitle(f"{summary.recipe.name}: {summary.recipe.model.name}, global batch {batch}", weight="bold")
    path = summary.run_dir / "report" / "curves.png"
    path.parent.mkdir(exist_ok=True)
    image = io.BytesIO()
    figure.savefig(image, dpi=130, format="png")
    write_atomically(path, image.getvalue())
    return path


def _draw(axes: Axes, summary: RunSummary, batch: int, key: str, scale: float, label: str) -> None:
    def points(lines: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
        return [line["samples"] / batch for line in lines], [scale * line[key] for line in lines]

    axes.plot(*points(summary.train), color=TRAINING, linewidth=1, label="training (augmented)")
    axes.plot(
        *points(summary.validation), color=VALIDATION, linewidth=1.8, marker="o", markersize=3, label="validation"
    )
    drops = _drops(summary, batch)
    for step in drops:
        axes.axvline(step, color=DROP, linewidth=0.8, linestyle=":")
    axes.set_xlabel("iterations (dotted: the learning rate drops)" if drops else "iterations")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _drops(summary: RunSummary, batch: int) -> list[float]:
    """Iterations at which a plateau or a milestone divided the learning rate."""
    if summary.recipe.schedule.kind not in ("plateau", "step"):
        return []
    pairs = itertools.pairwise(summary.train)
    return [later["samples"] / batch for earlier, later in pairs if later["lr"] <= 0.5 * earlier["lr"]]
