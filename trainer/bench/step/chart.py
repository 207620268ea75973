"""The training steps as a bar chart: images/s of every contestant, by network and batch, and the ratio to ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import matplotlib.figure
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from trainer.bench.bars import draw_bar, finish
from trainer.bench.spread import spread
from trainer.bench.step.contest import Contest
from trainer.bench.step.results import OURS, WITH_DATA, Result, ours_times
from trainer.bench.step.table import number
from trainer.palette import COLOURS

COLOUR: Final = {OURS: COLOURS[1], WITH_DATA: COLOURS[4], "torchvision": COLOURS[0], "timm": COLOURS[2]}


def draw_chart(
    results: Sequence[Result], contests: Sequence[Contest], machine: dict[str, Any]
) -> matplotlib.figure.Figure:
    """The chart of all results that have figures."""
    measured = [result for result in results if result.seconds]
    groups = list(dict.fromkeys((result.network, result.batch) for result in measured))
    names = [name for name in COLOUR if any(result.name == name for result in measured)]
    height = 1.8 + 0.3 * len(measured) + 0.25 * len(groups)
    figure = matplotlib.figure.Figure(figsize=(9, max(height, 2.5)), layout="constrained")
    axes = figure.subplots()
    places, labels, place = [], [], 0.0
    for group in groups:
        rows = [result for result in measured if (result.network, result.batch) == group]
        for row, result in enumerate(rows):
            _draw_bar(axes, result, results, place + row)
        places.append(place + (len(rows) - 1) / 2)
        labels.append(f"{group[0]}\nbatch {group[1]}")
        place += len(rows) + 0.8
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    finish(axes, room=0.25)
    if names:
        handles = [Patch(color=COLOUR[name], label=name) for name in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    recipe = contests[0].recipe
    figure.suptitle(f"Training steps at {recipe.data.size} px, {recipe.precision}\n{machine['device']}", fontsize=11)
    return figure


def _draw_bar(axes: Axes, result: Result, results: Sequence[Result], place: float) -> None:
    rate, times = spread(result.rates), ours_times(result, results)
    assert rate is not None
    share = f"  (ours: {times.median:.2f} x)" if times and result.name != OURS else ""
    draw_bar(axes, place, 0.86, rate, COLOUR[result.name], f"{number(rate.median)}{share}")
