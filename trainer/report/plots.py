"""The figures: as the paper's Figures 1, 4, 6 and 7 for several runs, and how fast they went. Each is a PNG in bytes.

A run has one colour and one marker in all figures. The colours are those of Okabe and Ito, which people of all colour
visions can tell apart; yellow, which paper swallows, is left out.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trainer.report.runs import Line, Run

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A8A8A")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_RUNS: Final = len(COLOURS)

_THIN, _BOLD = 0.9, 2.2
_LABEL: Final = 44
"""Characters of a run's name in a legend."""
_STYLE: Final[Any] = {
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "legend.fontsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.7,
    "axes.formatter.use_mathtext": True,
    "legend.frameon": False,
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


def draw_errors(runs: Sequence[Run]) -> bytes:
    """Figures 4 and 6: top-1 error over the iterations, training thin, validation bold."""
    figure, axes = _figure(4.9, "top-1 error (%). Thin: training, augmented. Bold: validation.", runs)
    axis = axis_of(runs)
    for number, run in enumerate(runs):
        _plot(axes, axis, run, run.train, "top1_error", 100, color=COLOURS[number], linewidth=_THIN)
        _plot(axes, axis, run, run.validation, "top1_error", 100, **_bold(number, run.validation))
    _mark_drops(axes, axis, runs)
    axes.set_ylim(*error_limits(runs))
    axes.set_xlabel(axis.label)
    _legend(figure, runs, _reached)
    return _png(figure)


def draw_training_errors(runs: Sequence[Run]) -> bytes:
    """Figure 1: training error alone, plain networks dashed, residual ones solid."""
    figure, axes = _figure(4.2, "training top-1 error (%). Dashed: plain. Solid: residual.", runs)
    axis = axis_of(runs)
    for number, run in enumerate(runs):
        style = {"linestyle": _dashes(run), "color": COLOURS[number], "linewidth": 1.4}
        _plot(axes, axis, run, run.train, "top1_error", 100, **style)
    _mark_drops(axes, axis, runs)
    axes.set_ylim(*error_limits(runs))
    axes.set_xlabel(axis.label)
    _legend(figure, runs, lambda run: "", _dashes)
    return _png(figure)


def draw_losses(runs: Sequence[Run]) -> bytes:
    """Cross-entropy over the iterations, training thin, validation bold."""
    figure, axes = _figure(4.2, "loss. Thin: training, augmented. Bold: validation.", runs)
    axis = axis_of(runs)
    for number, run in enumerate(runs):
        _plot(axes, axis, run, run.train, "loss", 1, color=COLOURS[number], linewidth=_THIN)
        _plot(axes, axis, run, run.validation, "loss", 1, **_bold(number, run.validation))
    _mark_drops(axes, axis, runs)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(axis.label)
    _legend(figure, runs)
    return _png(figure)


def draw_progress(runs: Sequence[Run]) -> bytes:
    """Learning rate, images/s and the share of the time spent waiting for data, one below the other."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 6.6), layout="constrained")
        panels = figure.subplots(3, 1, sharex=True)
    axis = axis_of(runs)
    kinds = (("lr", "learning rate", 1), ("images_per_s", "images/s", 1), ("data_wait", "waiting for data (%)", 100))
    for axes, (key, title, scale) in zip(panels, kinds, strict=True):
        for number, run in enumerate(runs):
            # Equal rates lie on each other: dashes of what is above let through what is below.
            over = (0, (4, 2 + 2 * number)) if key == "lr" and number else "-"
            _plot(axes, axis, run, run.train, key, scale, color=COLOURS[number], linewidth=1.4, linestyle=over)
        axes.set_title(title, loc="left", fontsize=10.5)
    panels[0].set_yscale("log")
    panels[1].set_ylim(bottom=0)
    panels[2].set_ylim(0, max(5.0, panels[2].get_ylim()[1]))
    panels[2].set_xlabel(axis.label)
    _legend(figure, runs)
    return _png(figure)


def draw_responses(runs: Sequence[Run]) -> bytes:
    """Figure 7: standard deviations of the layers' responses in order of depth, and ranked."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 6.4), layout="constrained")
        panels = figure.subplots(2, 1)
    for number, run in enumerate(runs):
        if run.responses is None:
            continue
        deviations = [float(layer["std"]) for layer in run.responses["layers"]]
        style: dict[str, Any] = {"color": COLOURS[number], "linewidth": 1.4, "linestyle": _dashes(run)}
        if len(deviations) <= 60:
            style |= {"marker": MARKERS[number], "markersize": 4}
        places = range(1, len(deviations) + 1)
        panels[0].plot(places, deviations, **style)
        panels[1].plot(places, sorted(deviations, reverse=True), **style)
    for axes, label in zip(panels, ("in order of depth", "ranked by size"), strict=True):
        axes.set_title(f"standard deviation, {label}. Dashed: plain. Solid: residual.", loc="left", fontsize=10.5)
        axes.set_xlabel(f"layer ({label})")
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    shown = [run for run in runs if run.responses is not None]
    _legend(figure, shown, dashes=_dashes, of=runs)
    return _png(figure)


def error_limits(runs: Sequence[Run]) -> tuple[float, float]:
    """Lowest and highest error to show, in percent: what comes after the first tenth of a run, in whole tens.

    All errors start near 100 %; with them in view, what the runs differ by would not be.
    """
    seen = [
        100 * line["top1_error"]
        for run in runs
        for line in (*run.train, *run.validation)
        if line["samples"] >= run.samples / 10
    ]
    low, high = min(seen, default=0.0), max(seen, default=100.0)
    bottom = max(0, 10 * math.floor((low - 2) / 10))
    return bottom, min(100, max(bottom + 10, 10 * math.ceil(high / 10)))


# -------------------------------------------------------------------------------------------------------------- parts


def _figure(height: float, title: str, runs: Sequence[Run]) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, height), layout="constrained")
        axes = figure.subplots()
    drops = " Dotted: the learning rate drops." if any(run.drops for run in runs) else ""
    axes.set_title(title + drops, loc="left", fontsize=10.5)
    return figure, axes


def _plot(axes: Axes, axis: Axis, run: Run, lines: Sequence[Line], key: str, scale: float, **style: Any) -> None:
    values = [math.nan if line[key] is None else scale * line[key] for line in lines]
    axes.plot([axis.at(run, line["samples"]) for line in lines], values, **style)


def _bold(number: int, lines: Sequence[Line]) -> dict[str, Any]:
    """A marker every so often: more of them would be a thicker line."""
    every = max(1, len(lines) // 15)
    return {
        "color": COLOURS[number],
        "linewidth": _BOLD,
        "marker": MARKERS[number],
        "markersize": 5,
        "markevery": (min(number, every - 1), every),
    }


def _mark_drops(axes: Axes, axis: Axis, runs: Sequence[Run]) -> None:
    """A dotted line a drop: grey where several runs share it or there is one run, else of the run's colour."""
    shared = Counter(axis.at(run, drop.samples) for run in runs for drop in run.drops)
    for number, run in enumerate(runs):
        for drop in run.drops:
            place = axis.at(run, drop.samples)
            own = len(runs) > 1 and shared[place] == 1
            axes.axvline(place, color=COLOURS[number] if own else "#555555", linewidth=1, linestyle=":", zorder=0.5)


def _dashes(run: Run) -> Any:
    return (0, (4, 2)) if run.is_plain else "-"


def _reached(run: Run) -> str:
    if not run.validation:
        return "not validated yet"
    return f"{run.validation[-1]['top1_error']:.2%} (best {run.best_error:.2%})"


def _legend(
    figure: Figure,
    runs: Sequence[Run],
    text: Callable[[Run], str] = lambda run: "",
    dashes: Callable[[Run], Any] = lambda run: "-",
    of: Sequence[Run] | None = None,
) -> None:
    """One entry a run below the figure, where no curve is. `of`: all runs, by whose places the colours go."""
    places = {id(run): number for number, run in enumerate(of or runs)}
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[places[id(run)]],
            marker=MARKERS[places[id(run)]],
            linewidth=_BOLD,
            markersize=5,
            linestyle=dashes(run),
            label=_legend_text(run.label, text(run)),
        )
        for run in runs
    ]
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    with matplotlib.rc_context(_STYLE):
        figure.legend(handles=handles, loc="outside lower left", ncols=1 if longest > _LABEL else 2, handlelength=3)


def _legend_text(label: str, more: str) -> str:
    if len(label) > _LABEL:
        label = f"{label[: _LABEL // 2 - 1]}…{label[-_LABEL // 2 :]}"
    text = f"{label}: {more}" if more else label
    return "".join(letter if letter.isprintable() else "?" for letter in text).replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    with matplotlib.rc_context(_STYLE):
        image = io.BytesIO()
        figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()
