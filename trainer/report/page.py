"""The page: one HTML file that needs nothing else, its figures inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from trainer import __version__
from trainer.report import tables
from trainer.report.canvas import MOST_POINTS
from trainer.report.html import Html, join, tag
from trainer.report.plots import error_limits, loss_limit
from trainer.report.runs import Line, Run
from trainer.report.style import CSS

# Nothing is loaded and nothing is run, whatever a run folder may hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Figure:
    """A drawn figure."""

    file: str
    """Its name beside the page."""
    png: bytes
    alt: str
    caption: str


@dataclass(frozen=True)
class Group:
    """Runs that are compared with each other, and their figures."""

    title: str
    runs: Sequence[Run]
    figures: Sequence[Figure]


def render(groups: Sequence[Group]) -> str:
    """The whole page."""
    count = sum(len(group.runs) for group in groups)
    written = datetime.now(tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    names = ", ".join(run.label for group in groups for run in group.runs)
    head = [
        tag("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"Training report: {names}"),
        tag("style", Html(CSS)),
    ]
    body = [
        tag("h1", "Training report"),
        tag(
            "p",
            f"{count} run{'s' if count > 1 else ''}; written {written} by imagenet-trainer {__version__}",
            class_="dim",
        ),
        *(_section(group) for group in groups),
    ]
    return f"<!DOCTYPE html>\n{tag('html', tag('head', *head), tag('body', *body), lang='en')}\n"


def figure_captions(runs: Sequence[Run]) -> dict[str, tuple[str, str]]:
    """Of each figure: what it is for those who cannot see it, and its caption."""
    names = ", ".join(run.label for run in runs)
    _, top = error_limits(runs)
    curves = (
        "Training error is of the augmented batches as they were trained on: every point is the mean of a log "
        f"interval, or of several where a run has more than {MOST_POINTS}. Validation error is of the "
        "view that the table above names."
    )
    if top < 100:
        curves += f" Errors above {top:g} %, as at the beginning, are out of view."
    return {
        "curves": (f"Training and validation error over the iterations of {names}", curves),
        "training": (
            f"Training error over the iterations of {names}",
            "Plain against residual networks, as in Figure 1 of the paper; the same training errors as above.",
        ),
        "loss": (
            f"Training and validation loss over the iterations of {names}",
            f"Cross-entropy, up to {loss_limit(runs):.3g}. A gap in a line is a log interval without a finite loss.",
        ),
        "progress": (
            f"Learning rate, images per second and waiting for data over the iterations of {names}",
            "Images/s of all processes together and the share of the time that the main process waited for data, both "
            "the log intervals, without validation and checkpoints; means as above.",
        ),
        "responses": (
            f"Standard deviations of layer responses of {names}",
            "Outputs of each 3x3 layer after batch norm, before the nonlinearity, as in Figure 7 of the paper: of "
            f"{'; '.join(_responded(run, run.responses) for run in runs if run.responses)}.",
        ),
    }


def _responded(run: Run, responses: Line) -> str:
    weights = ", averaged weights" if responses.get("ema") else ""
    since = f", now {run.samples // run.batch:,}" if run.samples > responses["samples"] else ""
    return f"{run.label} at step {responses['step']:,}{since}{weights}, over {responses['images']:,} images"


def _section(group: Group) -> Html:
    runs = group.runs
    return tag(
        "section",
        tag("h2", group.title),
        tables.runs_table(runs),
        *_note_on_passes(runs),
        tag("h3", "Beside the paper"),
        *_beside_the_paper(runs),
        tag("h3", "Curves"),
        *([_figure(figure) for figure in group.figures] or [tag("p", "Nothing has been logged yet.")]),
        tag("h3", "Recipes"),
        tag(
            "p",
            "Marked * is what differs from the paper or, where it says nothing, from its released models; of a budget "
            "that is given in epoch-equivalents the iterations count.",
            class_="dim",
        ),
        tables.recipe_tables(runs),
        tag("h3", "Environment"),
        tables.environment_table(runs),
        tag("h3", "Data"),
        tables.data_table(runs),
        tag("h3", "Events"),
        tables.events_table(runs),
    )


def _note_on_passes(runs: Sequence[Run]) -> list[Html]:
    if all(run.records_its_data for run in runs):
        return []
    text = (
        "The records of an earlier version do not say what data a run had: its passes are over the data that lie where "
        "its recipe says."
    )
    return [tag("p", text, class_="dim")]


def _beside_the_paper(runs: Sequence[Run]) -> list[Html]:
    if not any(run.validation or run.evaluations for run in runs):
        return [tag("p", "No validation yet.")]
    note = (
        "Differences are in points, below 0 is better than the paper; in brackets are 95 % intervals. The paper gives "
        "10-crop errors (Tables 2 and 3), fully convolutional ones at several scales (Table 4) and those of CIFAR-10 "
        "(Table 6), its released models' README those of the centre crop."
    )
    return [tables.paper_table(runs), tag("p", note, class_="dim")]


def _figure(figure: Figure) -> Html:
    source = f"data:image/png;base64,{base64.b64encode(figure.png).decode()}"
    caption = join([figure.caption, " ", tag("code", figure.file)])
    return tag("figure", tag("img", src=source, alt=figure.alt), tag("figcaption", caption))
