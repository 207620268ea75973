"""The errors that a run has reached, each beside the paper's of the same network and protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.evaluation.protocols import CENTER, TITLES
from trainer.report.paper import (
    BUDGET,
    IMAGENET,
    SCALES,
    VALIDATION_IMAGES,
    Published,
    family,
    published,
)
from trainer.report.paper_recipe import differing, paper_value, values
from trainer.report.runs import Line, Run

Interval = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """Errors of one evaluation, in percent."""

    view: str
    """How it was evaluated, for people."""
    step: int
    images: int
    top1: float
    top5: float
    top1_interval: Interval | None
    """95 %; None: not computed."""
    top5_interval: Interval | None
    paper: Published | None
    comparable: bool
    """Whether it was measured on as many images as the paper's: elsewhere a difference says nothing."""
    notes: list[str]
    """What was otherwise than for the paper's number."""

    @property
    def top1_difference(self) -> float | None:
        """In points, to the paper's; negative is better."""
        return self.top1 - self.paper.top1 if self.paper is not None and self.comparable else None

    @property
    def top5_difference(self) -> float | None:
        if self.paper is None or self.paper.top5 is None or not self.comparable:
            return None
        return self.top5 - self.paper.top5


def measured(run: Run) -> list[Measured]:
    """The last validation while training, if there is one, and every evaluation of the run's checkpoints."""
    return [
        *(_validation(run, line) for line in run.validation[-1:]),
        *(_evaluation(run, line) for line in run.evaluations),
    ]


def measured_at(run: Run, samples: int, *, ema: bool, recalibrated: bool) -> list[Measured]:
    """What of it is of the weights after so many samples, averaged or not, with batch norm recalibrated or not."""
    there = [line for line in run.validation if line["samples"] == samples and not ema]
    validated = [line for line in there if bool(line.get("recalibrated")) == recalibrated][-1:]
    wanted = (samples, ema, recalibrated)
    found = [x for x in run.evaluations if (x["samples"], x["ema"], bool(x.get("recalibrated"))) == wanted]
    return [*(_validation(run, line) for line in validated), *(_evaluation(run, line) for line in found)]


def _validation(run: Run, line: Line) -> Measured:
    recipe = run.recipe
    size, resize = recipe.validation_size, recipe.evaluation.resize
    view = "the whole image" if size == resize else f"centre crop {size} of {resize}"
    step = line["samples"] // run.batch
    notes = ["batch norm recalibrated"] if line.get("recalibrated") else []
    return _measured(run, line, f"while training: {view}", step, CENTER, notes)


def _evaluation(run: Run, line: Line) -> Measured:
    protocol: str = line["protocol"]
    view = TITLES.get(protocol, protocol)
    if line["ema"]:
        view += ", averaged weights"
    notes = []
    size = line.get("size", run.recipe.validation_size)  # older lines have none
    if size != paper_value("data.size", run.recipe.model.name):
        notes.append(f"crops of {size}")
    if family(run.recipe.model.name) == IMAGENET and protocol in SCALES and line["scales"] != SCALES[protocol]:
        notes.append(f"shorter side {', '.join(map(str, line['scales']))}")
    if protocol != CENTER and line["score"] != "softmax":
        notes.append(f"{line['score']} averaged")
    if line["flip"] != (protocol != CENTER):
        notes.append("with mirror images" if line["flip"] else "no mirror images")
    if line.get("recalibrated"):
        notes.append("batch norm recalibrated")
    if line["pool"] == "global":
        notes.append("global pooling")
    if line["ema"]:
        notes.append("averaged weights")
    if run.records_its_data and line["data_digest"] != run.starts[-1]["val_digest"]:
        notes.append("not the validation data of training")
    return _measured(run, line, view, line["step"], protocol, notes)


def _measured(run: Run, line: Line, view: str, step: int, protocol: str, notes: list[str]) -> Measured:
    model = run.recipe.model
    paper = published(model, protocol)
    expected = VALIDATION_IMAGES[family(model.name)]
    comparable = line["images"] == expected
    if paper is not None and not comparable:
        notes = [f"other data: {line['images']:,} images, the paper's {expected:,}", *notes]
    if paper is not None and comparable:
        notes = [*notes, *_budget(run, line["samples"]), *_network(run)]
    return Measured(
        view=view,
        step=step,
        images=line["images"],
        top1=100 * line["top1_error"],
        top5=100 * line["top5_error"],
        top1_interval=_percent(line.get("top1_interval")),
        top5_interval=_percent(line.get("top5_interval")),
        paper=paper,
        comparable=comparable,
        notes=notes,
    )


def _budget(run: Run, samples: int) -> list[str]:
    share = samples / BUDGET[family(run.recipe.model.name)]
    return [] if round(share, 3) == 1 else [f"trained for {share:.1%} of the paper's budget"]


def _network(run: Run) -> list[str]:
    """What of the network itself is not the paper's. The padding of its first pooling is not worth a note."""
    found = values(run.recipe)
    keys = (key for key in sorted(differing(run.recipe)) if key.startswith("model.") and key != "model.stem_pool")
    return [f"{key}={found[key]}" for key in keys]


def _percent(interval: Any) -> Interval | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])
