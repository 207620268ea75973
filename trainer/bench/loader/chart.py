"""The benchmark as a bar chart: images/s of every loader, with its ratio to stock FFCV."""

from __future__ import annotations

from typing import Any, Final

import matplotlib.figure
from matplotlib.axes import Axes

from trainer.bench.loader.peers import OURS
from trainer.bench.loader.results import BASELINE, Result, find, ratio
from trainer.bench.loader.work import Work
from trainer.bench.spread import spread
from trainer.palette import COLOURS

OURS_COLOUR: Final = COLOURS[1]
PEER_COLOUR: Final = COLOURS[0]
SHADES: Final = (1.0, 0.55)
"""Of a colour, one a number of workers, in turn."""


def draw_chart(results: list[Result], work: Work, machine: dict[str, Any]) -> matplotlib.figure.Figure:
    """The chart of all results that have figures."""
    measured = [result for result in results if result.epochs]
    names = list(dict.fromkeys(result.name for result in measured))
    counts = sorted({result.workers for result in measured})
    height = 0.9 + 0.34 * len(names) * len(counts) + 0.25 * len(names)
    figure = matplotlib.figure.Figure(figsize=(9, max(height, 2.5)), layout="constrained")
    axes = figure.subplots()
    for place, count in enumerate(counts):
        for row, name in enumerate(names):
            result = find(measured, name, count)
            if result is not None:
                _draw_bar(axes, result, find(measured, BASELINE, count), row, place, len(counts))
    _finish(axes, names)
    title = f"{work.crop} crops of {work.size} px from JPEG, batch {work.batch}"
    figure.suptitle(f"{title}\n{machine['cpu']}, {machine['cores']} cores", fontsize=11)
    return figure


def _draw_bar(axes: Axes, result: Result, base: Result | None, row: int, place: int, bars: int) -> None:
    rate, times = spread(result.rates), ratio(result, base)
    assert rate is not None
    colour = OURS_COLOUR if OURS.name in result.name else PEER_COLOUR
    thickness = 0.8 / bars
    middle = row - 0.4 + (place + 0.5) * thickness
    axes.barh(
        middle,
        rate.median,
        0.92 * thickness,
        xerr=[[rate.median - rate.min], [rate.max - rate.median]],
        color=(colour, SHADES[place % len(SHADES)]),
        error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": "#333333"},
    )
    workers = f"{result.workers} worker{'s' if result.workers > 1 else ''}"
    share = f", {times.median:.1f} x FFCV" if times and result.name != BASELINE else ""
    axes.annotate(
        f"{rate.median:,.0f}  ({workers}{share})",
        (rate.max, middle),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
    )


def _finish(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("images/s: median, with min and max")
    axes.margins(x=0.3)  # room for what is written beside the bars
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
