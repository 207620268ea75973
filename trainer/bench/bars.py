"""Bars of images/s, as every benchmark's chart has them."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.typing import ColorType

from trainer.bench.spread import Spread


def draw_bar(axes: Axes, place: float, thickness: float, rate: Spread, colour: ColorType, text: str) -> None:
    """The median as a bar, min and max as its whiskers, with `text` beside them."""
    axes.barh(
        place,
        rate.median,
        thickness,
        xerr=[[rate.median - rate.min], [rate.max - rate.median]],
        color=colour,
        error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": "#333333"},
    )
    axes.annotate(text, (rate.max, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5)


def finish(axes: Axes, room: float) -> None:
    """Downwards in the order in which they were drawn.

    Args:
        room: for what is written beside the bars, as a share of their length.
    """
    axes.invert_yaxis()
    axes.set_xlabel("images/s: median, with min and max")
    axes.margins(x=room)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
