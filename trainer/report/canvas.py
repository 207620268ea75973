"""What all figures share: colours, the axis of iterations, the legend below, and the PNG.

A run has one colour and one marker in all figures. The colours are those of Okabe and Ito, which people of all colour
visions can tell apart, with a violet for their yellow, which paper swallows.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trainer.palette import COLOURS
from trainer.report.runs import Line, Run

MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_RUNS: Final = len(COLOURS)

MOST_POINTS: Final = 240
"""Of a line of training: where there are more log intervals, a point is the mean of several."""

BOLD: Final = 2.2
"""Points."""

_WIDTH: Final = 8.0
_NAME: Final = 36
"""Characters of a run's name in a legend."""
_COLUMN: Final = 40
"""Characters in one of two columns of a legend."""
_STYLE: Final[Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.7,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.handlelength": 3,
    "savefig.dpi": 160,
}


@dataclass(frozen=True)
class Axis:
    """What goes to the right: iterations, or images where the runs' batches differ, in units that keep ticks short."""

    label: str
    unit: Callable[[Run], float]
    """Samples of one unit."""

    def at(self, run: Run, samples: float) -> float:
        return samples / self.unit(run)


def axis_of(runs: Sequence[Run]) -> Axis:
    """Iterations (in 10^4 as the paper has them, where there are as many) if all runs have one batch size."""
    if len({run.batch for run in runs}) > 1:
        return Axis("training images (millions)", lambda run: 1e6)
    scale = 1e4 if max(run.samples / run.batch for run in runs) >= 1e4 else 1
    return Axis("iterations (1e4)" if scale > 1 else "iterations", lambda run: scale * run.batch)


def names(runs: Sequence[Run]) -> list[str]:
    """What legends call the runs: a long name loses its middle."""
    return [
        run.label if len(run.label) <= _NAME else f"{run.label[: _NAME // 2 - 1]}…{run.label[-_NAME // 2 :]}"
        for run in runs
    ]


def canvas(entries: Sequence[str], *heights: float) -> tuple[Figure, list[Axes]]:
    """A figure with panels of `heights` in inches, one below the other, and room for a legend of these entries."""
    rows = math.ceil(len(entries) / _columns(entries))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, sum(heights) + 0.25 + 0.22 * rows), layout="constrained")
        panels = figure.subplots(len(heights), squeeze=False, height_ratios=heights)
    return figure, list(panels[:, 0])


def add_legend(
    figure: Figure, runs: Sequence[Run], entries: Sequence[str], *, dashed: bool = False, markers: Sequence[str] = ()
) -> None:
    """Below all panels, where no curve is.

    Args:
        dashed: plain networks are.
        markers: of the runs, where their lines have any.
    """
    handles = [
        Line2D(
            *([], []),
            color=COLOURS[number],
            marker=markers[number] if markers else "",
            markersize=5,
            linewidth=BOLD,
            linestyle=dashes(run) if dashed else "-",
            label="".join(letter if letter.isprintable() else "?" for letter in entry).replace("$", r"\$"),
        )
        for number, (run, entry) in enumerate(zip(runs, entries, strict=True))
    ]
    with matplotlib.rc_context(_STYLE):
        figure.legend(handles=handles, loc="outside lower left", ncols=_columns(entries))


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    image = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(image, format="png")
    return image.getvalue()


def _columns(entries: Sequence[str]) -> int:
    return 1 if max(map(len, entries)) > _COLUMN else 2


def dashes(run: Run) -> Any:
    """The paper's Figure 7 draws plain networks dashed, residual ones solid."""
    return (0, (4, 2)) if run.is_plain else "-"


def title(axes: Axes, text: str) -> None:
    """What is drawn, and how to read it, above the left end."""
    axes.set_title(text, loc="left", fontsize=_STYLE["font.size"])


def plot(axes: Axes, axis: Axis, run: Run, lines: Sequence[Line], key: str, scale: float = 1, **style: Any) -> None:
    """`scale` times the values of `key`, with a gap where there is none."""
    values = [math.nan if line[key] is None else scale * line[key] for line in lines]
    axes.plot([axis.at(run, line["samples"]) for line in lines], values, **style)


def mark_rate_changes(axes: Axes, axis: Axis, runs: Sequence[Run]) -> None:
    """A dotted line a change of the rate: of the run's colour if only one of several runs has it, else grey."""
    shared = Counter(axis.at(run, change.samples) for run in runs for change in run.rate_changes)
    for number, run in enumerate(runs):
        for change in run.rate_changes:
            place = axis.at(run, change.samples)
            own = len(runs) > 1 and shared[place] == 1
            axes.axvline(place, color=COLOURS[number] if own else "#555555", linewidth=1, linestyle=":", zorder=0.5)


def means(lines: Sequence[Line]) -> list[Line]:
    """At most `MOST_POINTS` means of equally many successive log intervals each, at the end of the last of them."""
    count = math.ceil(len(lines) / MOST_POINTS)
    return [_mean(lines[first : first + count]) for first in range(0, len(lines), count)] if count > 1 else list(lines)


def _mean(lines: Sequence[Line]) -> Line:
    mean: Line = {"samples": lines[-1]["samples"]}
    for key in ("top1_error", "loss", "images_per_s", "data_wait"):
        known = [line[key] for line in lines if line[key] is not None]
        mean[key] = fmean(known) if known else None
    return mean
