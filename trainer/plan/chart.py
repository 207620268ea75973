"""The scaling curve as a PNG: images/s of 1 to 1024 devices, with what each resource would sustain."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from trainer.palette import COLOURS
from trainer.plan.curve import Point
from trainer.plan.model import Estimate

LOOKS: Final = {
    "compute": (COLOURS[0], (0, (6, 2))),
    "launching": (COLOURS[1], (0, (1, 1.5))),
    "all-reduce": (COLOURS[3], (0, (5, 1.5, 1, 1.5))),
    "optimizer": (COLOURS[7], (0, (3, 3))),
    "decoding": (COLOURS[2], (0, (4, 1, 1, 1, 1, 1))),
    "storage": (COLOURS[4], (0, (8, 3))),
}
"""Colour and dashes of a resource's ceiling."""

ROOM: Final = 30.0
"""Ceilings that are always above so many times the run's rate are left out: they are far from limiting it."""

STYLE: Final[Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.handlelength": 4,
    "savefig.dpi": 160,
}


def draw_curve(curve: Sequence[Point], planned: Estimate, device: str) -> bytes:
    """Both axes are logarithmic. Filled points are sizes that the recipe's own batch can be shared among."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 6.2), layout="constrained")
        axes = figure.subplots()
        _draw(axes, curve)
        recipe = planned.work.recipe
        axes.set_title(
            f"On paper: {recipe.model.name} at {recipe.crop_sizes} px, {recipe.precision}, {device}, "
            f"{planned.cluster.gpus_per_node} a node, {planned.share} images each a step",
            loc="left",
            fontsize=10.5,
        )
        figure.legend(loc="outside lower left", ncols=2)
        image = io.BytesIO()
        figure.savefig(image, format="png")
    return image.getvalue()


def _draw(axes: Axes, curve: Sequence[Point]) -> None:
    worlds = [point.world for point in curve]
    rates = [point.estimate.images_per_s for point in curve]
    for name, (colour, dashes) in LOOKS.items():
        shown = [(point.world, point.estimate.ceilings[name]) for point in curve if name in point.estimate.ceilings]
        if any(point.estimate.ceilings.get(name, math.inf) < ROOM * point.estimate.images_per_s for point in curve):
            axes.plot(*zip(*shown, strict=True), color=colour, linestyle=dashes, linewidth=1.5, label=f"{name} allows")
    axes.plot(worlds, [rates[0] * world / worlds[0] for world in worlds], "--", color="#777777", linewidth=1)
    axes.plot([], [], "--", color="#777777", linewidth=1, label="one device's rate, times devices")
    axes.plot(worlds, rates, color="black", linewidth=2.4, label="the run", zorder=3)
    for fits, face, label in (
        (True, "black", "with the recipe's global batch"),
        (False, "white", "with a global batch in proportion"),
    ):
        points = [(point.world, point.estimate.images_per_s) for point in curve if point.fits is fits]
        if points:
            style: dict[str, Any] = {"markerfacecolor": face, "markeredgecolor": "black", "zorder": 4}
            axes.plot(*zip(*points, strict=True), "o", markersize=6.5, label=label, **style)
    _name_limits(axes, curve)
    _set_up(axes, worlds)


def _name_limits(axes: Axes, curve: Sequence[Point]) -> None:
    """The limit's name in its colour, below the curve, where it begins to be the limit."""
    before = ""
    for point in curve:
        limit = point.estimate.limit
        if limit != before:
            place = (point.world, point.estimate.images_per_s)
            style: dict[str, Any] = {"color": LOOKS[limit][0], "fontweight": "bold", "va": "top", "zorder": 5}
            axes.annotate(f"limit: {limit}", place, xytext=(9, -7), textcoords="offset points", **style)
        before = limit


def _set_up(axes: Axes, worlds: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(worlds, [f"{world:,}" for world in worlds])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}" if rate >= 1 else f"{rate:g}"))
    axes.set_ylim(bottom=0.4 * axes.get_ylim()[0])  # room for the name of the first limit
    axes.set_xlabel("devices")
    axes.set_ylabel("images/s")
