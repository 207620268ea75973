"""The tables of the page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Final

from trainer.console import duration
from trainer.recipe import IMAGENET_SAMPLES, INDIFFERENT_KEYS
from trainer.report.comparison import Interval, Measured, measured
from trainer.report.html import Html, join, table, tag
from trainer.report.paper_recipe import differing, paper_value, values
from trainer.report.runs import Line, Run

NONE: Final = "–"
MOST_STEPS: Final = 20
"""Steps that were not finite, listed one by one for a run."""


def runs_table(runs: Sequence[Run]) -> Html:
    """How far every run is, and how good."""
    head = ["run", "network", "iterations", "batch", "epoch-equivalents", "passes over the data", "training time"]
    head += ["images/s", "top-1 error, last (best), %", "top-5 error, last (best), %"]
    return table(head, [_run_row(run) for run in runs], numbers=range(2, len(head)))


def _run_row(run: Run) -> list[str]:
    rate = run.median("images_per_s")
    return [
        run.label,
        run.network,
        f"{run.samples // run.batch:,} of {run.budget // run.batch:,}",
        f"{run.batch}",
        f"{run.epochs:.4g} of {run.budget / IMAGENET_SAMPLES:.4g}",
        NONE if run.passes is None else f"{run.passes:,.1f}",
        duration(run.training_seconds),
        NONE if rate is None else f"{rate:,.0f}",
        _last_and_best(run.validation, "top1_error"),
        _last_and_best(run.validation, "top5_error"),
    ]


def _last_and_best(lines: Sequence[Line], key: str) -> str:
    if not lines:
        return NONE
    return f"{100 * lines[-1][key]:.2f} ({100 * min(line[key] for line in lines):.2f})"


def paper_table(runs: Sequence[Run]) -> Html:
    """Every error beside the paper's."""
    head = ["run", "evaluated", "step", "images", "top-1 error, %", "the paper's", "difference", "top-5 error, %"]
    head += ["the paper's", "difference", "the paper's is of; note"]
    rows = [[run.label, *_paper_row(found)] for run in runs for found in measured(run)]
    return table(head, rows, numbers=range(2, 10))


def _paper_row(found: Measured) -> list[str]:
    paper = found.paper
    return [
        tag("div", found.view, class_="words"),
        f"{found.step:,}",
        f"{found.images:,}",
        error(found.top1, found.top1_interval),
        NONE if paper is None else paper.top1_text,
        points(found.top1_difference),
        error(found.top5, found.top5_interval),
        (paper.top5_text if paper is not None else "") or NONE,
        points(found.top5_difference),
        tag("div", "; ".join([*([paper.source] if paper is not None else []), *found.notes]) or NONE, class_="words"),
    ]


def error(percent: float, interval: Interval | None) -> str:
    """`12.34 [12.01, 12.68]`."""
    return f"{percent:.2f}" + ("" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]")


def points(difference: float | None) -> str:
    """`+0.12` or `−0.12`, in points."""
    return NONE if difference is None else f"{difference:+.2f}".replace("-", "−")


def recipe_tables(runs: Sequence[Run]) -> Html:
    """What differs from the paper or between the runs, which are of one family; below, folded, everything else."""
    found = [values(run.recipe) for run in runs]
    unlike = [differing(run.recipe) for run in runs]
    keys = [key for key in found[0] if key not in ("name", "runs")]
    important = [
        key
        for key in keys
        if any(key in keys_of for keys_of in unlike)
        or (key not in INDIFFERENT_KEYS and any(content[key] != found[0][key] for content in found))
    ]
    model = runs[0].recipe.model.name

    def rows(of: Sequence[str]) -> list[list[str]]:
        return [
            [
                tag("code", key),
                _shown(paper_value(key, model)),
                *(
                    tag("td", _shown(content[key]), class_="differs" if key in keys_of else "same")
                    for content, keys_of in zip(found, unlike, strict=True)
                ),
            ]
            for key in of
        ]

    head = ["key", "the paper's", *(run.label for run in runs)]
    rest = [key for key in keys if key not in important]
    everything = tag("details", tag("summary", f"The other {len(rest)} keys"), table(head, rows(rest)))
    return join([table(head, rows(important)), everything])


def _shown(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def environment_table(runs: Sequence[Run]) -> Html:
    """Where the runs ran, by their last start."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        for last in run.starts[-1:]:
            versions = ", ".join(f"{name} {number}" for name, number in last.get("versions", {}).items())
            processes = f"{last.get('world_size', '?')} x {last.get('device', '?')}"
            hardware = last.get("hardware", "not recorded")
            rows.setdefault((processes, hardware, run.recipe.precision, versions), []).append(run.label)
    return table(["runs", "processes", "the main one on", "precision", "versions"], _together(rows))


def data_table(runs: Sequence[Run]) -> Html:
    """What the runs were trained and validated on."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        last = run.starts[-1] if run.starts else {}
        images = run.validation[-1]["images"] if run.validation else None
        sets = (
            ("training", run.recipe.data.train, run.train_images, last.get("data_digest")),
            ("validation", run.recipe.data.val, images, last.get("val_digest")),
        )
        for use, path, count, digest in sets:
            shown = tag("code", str(digest)) if digest else "not recorded"
            key = (use, path, NONE if count is None else f"{count:,}", shown)
            rows.setdefault(key, []).append(run.label)
    return table(["runs", "use", "file", "images", "digest"], _together(rows), numbers=(3,))


def _together(rows: dict[tuple[str, ...], list[str]]) -> list[list[str]]:
    """Rows that several runs share, with the runs first."""
    return [[tag("div", ", ".join(labels), class_="words"), *row] for row, labels in rows.items()]


def events_table(runs: Sequence[Run]) -> Html:
    """Starts, drops of the learning rate, skipped samples and steps that were not finite, in the order of the runs."""
    rows = [
        [run.label, f"{samples // run.batch:,}", what, tag("span", when, class_="once")]
        for run in runs
        for samples, what, when in _events(run)
    ]
    return table(["run", "step", "event", "time"], rows, numbers=(1,))


def _events(run: Run) -> list[tuple[int, str, str]]:
    found = [(line["samples"], "started" if line["samples"] == 0 else "resumed", _when(line)) for line in run.starts]
    found += [(drop.samples, f"learning rate drops to {drop.lr:.4g}", "") for drop in run.drops]
    found += [(line["samples"], _told(line), _when(line)) for line in run.told]
    intervals = [line for line in run.train if line.get("skipped", 0)]
    if intervals:
        last = intervals[-1]["samples"] // run.batch
        text = f"{run.skipped:,} samples did not decode and were replaced, until step {last:,}"
        found.append((intervals[0]["samples"], text, _when(intervals[0])))
    for line in run.nonfinite[:MOST_STEPS]:
        found.append((line["step"] * run.batch, f"the loss is {line.get('loss', 'not finite')}", _when(line)))
    if len(run.nonfinite) > MOST_STEPS:
        more = f"{len(run.nonfinite) - MOST_STEPS:,} more steps until the end with a loss that is not finite"
        found.append((run.nonfinite[MOST_STEPS]["step"] * run.batch, more, ""))
    return sorted(found, key=lambda event: event[0])


def _told(line: Line) -> str:
    """Of a stop, a recalibration or the end of a warm-up."""
    if line["kind"] == "stop":
        return f"stopped by {line['cause']}"
    if line["kind"] == "recalibration":
        return f"batch norm recalibrated over {line['images']:,} images"
    return f"the warm-up ends at a training error of {line['top1_error']:.2%}, learning rate {line['lr']:.4g}"


def _when(line: Line) -> str:
    seconds = line.get("time")
    if not isinstance(seconds, (int, float)):
        return ""
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
