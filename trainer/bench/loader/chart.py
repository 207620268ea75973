"""The benchmark as a bar chart: images/s of every loader, with its ratio to stock FFCV."""

from __future__ import annotations

from typing import Any, Final

import matplotlib.figure
from matplotlib.axes import Axes

from trainer.bench.bars import draw_bar, finish
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
    axes.set_yticks(range(len(names)), names)
    finish(axes, room=0.3)
    title = f"{work.crop} crops of {work.size} px from JPEG, batch {work.batch}"
    figure.suptitle(f"{title}\n{machine['cpu']}, {machine['cores']} cores", fontsize=11)
    return figure


def _draw_bar(axes: Axes, result: Result, base: Result | None, row: int, place: int, bars: int) -> None:
    rate, times = spread(result.rates), ratio(result, base)
    assert rate is not None
    colour = OURS_COLOUR if OURS.name in result.name else PEER_COLOUR
    thickness = 0.8 / bars
    middle = row - 0.4 + (place + 0.5) * thickness
    workers = f"{result.workers} worker{'s' if result.workers > 1 else ''}"
    share = f", {times.median:.1f} x FFCV" if times and result.name != BASELINE else ""
    shade = (colour, SHADES[place % len(SHADES)])
    draw_bar(axes, middle, 0.92 * thickness, rate, shade, f"{rate.median:,.0f}  ({workers}{share})")
