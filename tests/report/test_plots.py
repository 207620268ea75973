"""What the figures draw: which numbers, of which run, how thick, and what is marked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tests.report.run_folders import (
    CIFAR,
    make_recipe,
    start,
    train,
    validation,
    write_metrics,
    write_responses,
)
from trainer.palette import COLOURS
from trainer.report.page import figure_captions
from trainer.report.plots import (
    draw_errors,
    draw_losses,
    draw_progress,
    draw_responses,
    draw_training_errors,
)
from trainer.report.runs import Run, read_runs

ITERATIONS = (10_000, 20_000, 30_000, 40_000, 50_000)
TRAINING = (0.5, 0.4, 0.3, 0.2, 0.1)
VALIDATION = (0.55, 0.45, 0.35, 0.25, 0.15)
RATES = (0.1, 0.1, 0.1, 0.01, 0.001)


def a_run(folder: Path, model: str = "cifar_resnet20", more: float = 0.0) -> Path:
    """Its errors are those above and `more`; it waits for data a tenth of them, at 100, 200, ... images/s."""
    make_recipe(folder, *CIFAR, f"model.name={model}")
    lines = [start()]
    for number, (step, error, tested, lr) in enumerate(zip(ITERATIONS, TRAINING, VALIDATION, RATES, strict=True)):
        speed, wait = 100.0 * (number + 1), error / 10
        lines.append(train(128 * step, error + more, lr, images_per_s=speed, data_wait=wait))
        lines.append(validation(128 * step, tested + more))
    return write_metrics(folder, *lines)


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """A residual network and a plain one, whose errors are five points higher."""
    folders = a_run(tmp_path / "residual"), a_run(tmp_path / "plain", "cifar_plain20", 0.05)
    write_responses(folders[0], [0.3, 0.5, 0.4])
    write_responses(folders[1], [0.8, 9.0], ema=True)
    return read_runs(list(folders))


def curves(axes: Axes, run: int, *, wider_than: float = 0.0) -> list[Line2D]:
    """The curves of a run, by its colour; marks of the learning rate are none."""
    return [
        line
        for line in axes.lines
        if same_color(line.get_color(), COLOURS[run])
        and line.get_linestyle() != ":"
        and line.get_linewidth() > wider_than
    ]


def ys(line: Line2D) -> list[float]:
    return [float(value) for value in line.get_ydata()]  # type: ignore[union-attr]


def xs(line: Line2D) -> list[float]:
    return [float(value) for value in line.get_xdata()]  # type: ignore[union-attr]


def percent(values: tuple[float, ...], more: float) -> list[float]:
    return pytest.approx([100 * (value + more) for value in values])  # type: ignore[return-value]


def marked_changes(axes: Axes) -> set[float]:
    return {xs(line)[0] for line in axes.lines if line.get_linestyle() == ":"}


@pytest.mark.parametrize(("run", "more"), [(0, 0.0), (1, 0.05)])
def test_the_training_error_is_thin_and_the_validation_error_bold(runs: list[Run], run: int, more: float) -> None:
    (axes,) = draw_errors(runs).axes
    thin, bold = sorted(curves(axes, run), key=Line2D.get_linewidth)
    assert thin.get_linewidth() < bold.get_linewidth() / 2
    assert ys(thin) == percent(TRAINING, more)
    assert ys(bold) == percent(VALIDATION, more)
    assert xs(thin) == xs(bold) == [1, 2, 3, 4, 5]
    assert axes.get_xlabel() == "iterations (1e4)"


def test_drops_of_the_learning_rate_are_marked(runs: list[Run]) -> None:
    for figure in (draw_errors(runs), draw_training_errors(runs), draw_losses(runs)):
        (axes,) = figure.axes
        assert marked_changes(axes) == {3.2, 4.8}
        assert "Dotted: the learning rate changes" in axes.get_title(loc="left")


def test_training_errors_alone_are_solid_of_residual_networks_and_dashed_of_plain_ones(runs: list[Run]) -> None:
    (axes,) = draw_training_errors(runs).axes
    (residual,), (plain,) = curves(axes, 0), curves(axes, 1)
    assert (ys(residual), ys(plain)) == (percent(TRAINING, 0), percent(TRAINING, 0.05))
    assert (residual.get_linestyle(), plain.get_linestyle()) == ("-", "--")


def test_the_losses_are_those_of_training_and_validation(runs: list[Run]) -> None:
    (axes,) = draw_losses(runs).axes
    thin, bold = sorted(curves(axes, 0), key=Line2D.get_linewidth)
    assert ys(thin) == pytest.approx([3 * error for error in TRAINING])
    assert ys(bold) == pytest.approx([3 * error for error in VALIDATION])


def test_the_losses_of_the_first_steps_do_not_flatten_the_others(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    lines = [start(), train(128, 0.9, loss=90.0), *(train(128 * step, 0.5, loss=2.0) for step in ITERATIONS)]
    (axes,) = draw_losses(read_runs([write_metrics(folder, *lines)])).axes
    assert axes.get_ylim() == pytest.approx((0, 2.1))


def test_a_short_run_is_in_view_beside_a_long_one(tmp_path: Path) -> None:
    long = write_metrics(a_run(tmp_path / "long"), start(), *(train(128 * step, 0.1, loss=0.3) for step in ITERATIONS))
    lines = [
        train(128 * step, 0.8, loss=loss) for step, loss in ((1, math.nan), (50, 1.7), (100, math.inf), (150, 1.6))
    ]
    short = write_metrics(a_run(tmp_path / "short"), start(), *lines)
    runs = read_runs([long, short])
    assert draw_losses(runs).axes[0].get_ylim() == pytest.approx((0, 1.05 * 1.7))
    assert draw_errors(runs).axes[0].get_ylim()[1] >= 80


def test_rate_speed_and_waiting_have_a_panel_each(runs: list[Run]) -> None:
    rate, speed, wait = draw_progress(runs).axes
    (lr,), (images,), (waiting,) = curves(rate, 0), curves(speed, 0), curves(wait, 0)
    assert list(zip(xs(lr), ys(lr), strict=True)) == [
        *[(1, 0.1), (2, 0.1), (3, 0.1)],
        *[(3.2, 0.1), (3.2, pytest.approx(0.01)), (4, 0.01)],  # where it drops, wherever it was logged
        *[(4.8, 0.01), (4.8, pytest.approx(0.001)), (5, 0.001)],
    ]
    assert rate.get_yscale() == "log"
    assert ys(images) == [100, 200, 300, 400, 500]
    assert ys(waiting) == pytest.approx([5, 4, 3, 2, 1])  # percent


def test_responses_are_in_order_of_depth_and_ranked(runs: list[Run]) -> None:
    depth, ranked = draw_responses(runs).axes
    assert [ys(line) for line in (*curves(depth, 0), *curves(depth, 1))] == [[0.3, 0.5, 0.4], [0.8, 9.0]]
    assert [ys(line) for line in (*curves(ranked, 0), *curves(ranked, 1))] == [[0.5, 0.4, 0.3], [9.0, 0.8]]
    assert all(line.get_linestyle() == "--" for line in curves(depth, 1))
    assert all(axes.get_ylim()[0] == 0 and 9 < axes.get_ylim()[1] < 10 for axes in (depth, ranked))


def test_the_caption_says_what_the_responses_are_of(runs: list[Run]) -> None:
    _, caption = figure_captions(runs)["responses"]
    assert "of residual at step 10, now 50,000, over 100 images; plain at step 10, now 50,000, averaged" in caption
    assert "averaged weights, over 100 images." in caption


def test_responses_of_averaged_weights_are_called_so(runs: list[Run]) -> None:
    (legend,) = draw_responses(runs).legends
    assert [text.get_text() for text in legend.get_texts()] == ["residual", "plain, averaged weights"]


def test_a_legend_shows_a_marker_only_where_lines_have_one(runs: list[Run]) -> None:
    def markers(figure: Figure) -> set[object]:
        (legend,) = figure.legends
        return {line.get_marker() for line in legend.get_lines()}

    assert markers(draw_errors(runs)) == markers(draw_responses(runs)) == {"o", "s"}
    assert markers(draw_training_errors(runs)) == markers(draw_progress(runs)) == {""}
