"""The figures, as the paper's Figures 1, 4, 6 and 7 for several runs, and how fast they went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.palette import COLOURS
from trainer.report.canvas import (
    BOLD,
    MARKERS,
    Axis,
    add_legend,
    axis_of,
    canvas,
    dashes,
    mark_rate_changes,
    means,
    names,
    plot,
    title,
)
from trainer.report.runs import Line, Run

_THIN: Final = 0.9
_MEDIUM: Final = 1.4
_MOST_MARKED: Final = 40
"""Layers whose responses have markers: more of them would be a band."""


def draw_errors(runs: Sequence[Run]) -> Figure:
    """Figures 4 and 6: top-1 error over the iterations, training thin, validation bold."""
    entries = [f"{name}: {_reached(run)}" for name, run in zip(names(runs), runs, strict=True)]
    figure, (axes,) = canvas(entries, 4.2)
    axis = axis_of(runs)
    for number, run in enumerate(runs):
        plot(axes, axis, run, means(run.train), "top1_error", 100, color=COLOURS[number], linewidth=_THIN)
        plot(axes, axis, run, run.validation, "top1_error", 100, **_bold(number, run.validation))
    _set_up(axes, axis, runs, "top-1 error (%). Thin: training, augmented. Bold: validation.")
    axes.set_ylim(*error_limits(runs))
    add_legend(figure, runs, entries, markers=MARKERS)
    return figure


def draw_training_errors(runs: Sequence[Run]) -> Figure:
    """Figure 1: training error alone, plain networks dashed, residual ones solid."""
    figure, (axes,) = canvas(names(runs), 3.6)
    axis = axis_of(runs)
    for number, run in enumerate(runs):
        style = {"linestyle": dashes(run), "color": COLOURS[number], "linewidth": _MEDIUM}
        plot(axes, axis, run, means(run.train), "top1_error", 100, **style)
    _set_up(axes, axis, runs, "training top-1 error (%). Dashed: plain. Solid: residual.")
    axes.set_ylim(*error_limits(runs))
    add_legend(figure, runs, names(runs), dashed=True)
    return figure


def draw_losses(runs: Sequence[Run]) -> Figure:
    """Cross-entropy over the iterations, training thin, validation bold."""
    figure, (axes,) = canvas(names(runs), 3.6)
    axis = axis_of(runs)
    for number, run in enumerate(runs):
        plot(axes, axis, run, means(run.train), "loss", color=COLOURS[number], linewidth=_THIN)
        plot(axes, axis, run, run.validation, "loss", **_bold(number, run.validation))
    _set_up(axes, axis, runs, "loss. Thin: training, augmented. Bold: validation.")
    axes.set_ylim(0, loss_limit(runs))
    add_legend(figure, runs, names(runs), markers=MARKERS)
    return figure


def draw_progress(runs: Sequence[Run]) -> Figure:
    """Learning rate, images/s and the share of the time spent waiting for data, one below the other."""
    figure, panels = canvas(names(runs), 1.8, 1.8, 1.8)
    rate, speed, wait = panels
    axis = axis_of(runs)
    for number, run in enumerate(runs):
        colour = COLOURS[number]
        # Rates lie on each other, so what is below is wider. A mean would blur their drops.
        width = _MEDIUM + 0.7 * (len(runs) - 1 - number)
        plot(rate, axis, run, run.rates, "lr", color=colour, linewidth=width)
        plot(speed, axis, run, means(run.train), "images_per_s", color=colour, linewidth=_MEDIUM)
        plot(wait, axis, run, means(run.train), "data_wait", 100, color=colour, linewidth=_MEDIUM)
    for axes, text in zip(panels, ("learning rate", "images/s", "waiting for data (% of the time)"), strict=True):
        title(axes, text)
        axes.set_xlim(left=0)
        axes.tick_params(labelbottom=axes is wait)
    rate.set_yscale("log")
    speed.set_ylim(bottom=0)
    wait.set_ylim(0, max(5.0, wait.get_ylim()[1]))
    wait.set_xlabel(axis.label)
    add_legend(figure, runs, names(runs))
    return figure


def draw_responses(runs: Sequence[Run]) -> Figure:
    """Figure 7: standard deviations of the layers' responses in order of depth, and ranked."""
    entries = [name + _of_responses(run) for name, run in zip(names(runs), runs, strict=True)]
    figure, panels = canvas(entries, 2.7, 2.7)
    measured = [[float(layer["std"]) for layer in (run.responses or {"layers": []})["layers"]] for run in runs]
    markers = [MARKERS[number] if len(deviations) <= _MOST_MARKED else "" for number, deviations in enumerate(measured)]
    for number, (run, deviations) in enumerate(zip(runs, measured, strict=True)):
        style: dict[str, Any] = {"color": COLOURS[number], "linewidth": _MEDIUM, "linestyle": dashes(run)}
        style |= {"marker": markers[number], "markersize": 4}
        places = range(1, len(deviations) + 1)
        panels[0].plot(places, deviations, **style)
        panels[1].plot(places, sorted(deviations, reverse=True), **style)
    title(panels[0], "standard deviation of the response. Dashed: plain. Solid: residual.")
    highest = max((max(deviations, default=0.0) for deviations in measured), default=0.0)
    for axes, label in zip(panels, ("layers in order of depth", "layers ranked by their response"), strict=True):
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.08 * highest or 1)
    add_legend(figure, runs, entries, dashed=True, markers=markers)
    return figure


def error_limits(runs: Sequence[Run]) -> tuple[float, float]:
    """Lowest and highest error to show, in percent: what comes after a tenth of every run, in steps of five.

    All errors start near 100 %; with them in view, what the runs differ by would not be.
    """
    seen = [100 * error for error in _after_the_beginning(runs, "top1_error")]
    low, high = min(seen, default=0.0), max(seen, default=100.0)
    bottom = max(0, 5 * math.floor((low - 1) / 5))
    return bottom, min(100, max(bottom + 10, 5 * math.ceil((high + 1) / 5)))


def loss_limit(runs: Sequence[Run]) -> float:
    """Highest loss to show: a little above what comes after a tenth of every run, as the first steps may be far above
    it."""
    return 1.05 * max(_after_the_beginning(runs, "loss"), default=0.0) or 1.0


def _after_the_beginning(runs: Sequence[Run], key: str) -> list[float]:
    """The finite values that training and validation had of `key` after a tenth of their run."""
    lines = (line for run in runs for line in (*run.train, *run.validation) if line["samples"] >= run.samples / 10)
    return [float(line[key]) for line in lines if line[key] is not None and math.isfinite(line[key])]


def _set_up(axes: Axes, axis: Axis, runs: Sequence[Run], text: str) -> None:
    mark_rate_changes(axes, axis, runs)
    title(axes, text + (" Dotted: the learning rate changes." if any(run.rate_changes for run in runs) else ""))
    axes.set_xlabel(axis.label)
    axes.set_xlim(left=0)


def _bold(number: int, lines: Sequence[Line]) -> dict[str, Any]:
    """A marker every so often: more of them would be a thicker line."""
    every = max(1, len(lines) // 15)
    style: dict[str, Any] = {"color": COLOURS[number], "linewidth": BOLD}
    return style | {"marker": MARKERS[number], "markersize": 5, "markevery": (min(number, every - 1), every)}


def _of_responses(run: Run) -> str:
    if run.responses is None:
        return ": none"
    return ", averaged weights" if run.responses.get("ema") else ""


def _reached(run: Run) -> str:
    if not run.validation:
        return "not validated yet"
    last, best = f"{run.validation[-1]['top1_error']:.2%}", f"{run.best_error:.2%}"
    return last if last == best else f"{last} (best {best})"
