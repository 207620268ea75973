"""The errors that a run has reached, each beside the paper's of the same network and protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from trainer.evaluation.protocols import CENTER, TITLES
from trainer.recipe import Recipe
from trainer.report.paper import BUDGET, SCALES, VALIDATION_IMAGES, Published, family, published
from trainer.report.paper_recipe import differing, paper_value, values
from trainer.report.runs import Line, Run

Interval = tuple[float, float]


_NOTED: Final = ("model.", "optimizer.", "schedule.kind", "data.size", "data.crop")
"""What of a recipe that is not the paper's is noted beside its error, by how its keys begin."""


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
        *(_of_run(run, line) for line in run.evaluations),
    ]


def measured_at(run: Run, samples: int, *, ema: bool, recalibrated: bool) -> list[Measured]:
    """What of it is of the weights after so many samples, averaged or not, with batch norm recalibrated or not."""
    there = [line for line in run.validation if line["samples"] == samples and not ema]
    validated = [line for line in there if bool(line.get("recalibrated")) == recalibrated][-1:]
    wanted = (samples, ema, recalibrated)
    found = [x for x in run.evaluations if (x["samples"], x["ema"], bool(x.get("recalibrated"))) == wanted]
    return [*(_validation(run, line) for line in validated), *(_of_run(run, line) for line in found)]


def evaluated(recipe: Recipe, line: Line) -> Measured:
    """What a line of `evaluations.jsonl` says of a run with that recipe."""
    protocol: str = line["protocol"]
    view = f"{TITLES.get(protocol, protocol)} of {', '.join(map(str, line['scales']))}"
    if line["ema"]:
        view += ", averaged weights"
    notes = []
    size = line.get("size", recipe.validation_size)  # older lines have none
    if size != paper_value("data.size", recipe.model.name):
        notes.append(f"crops of {size}")
    if line["scales"] != SCALES.get((family(recipe.model.name), protocol), line["scales"]):
        notes.append("other shorter sides")
    if line["score"] != "softmax" and (protocol != CENTER or line["flip"]):
        notes.append(f"{line['score']} averaged")
    if line["flip"] != (protocol != CENTER):
        notes.append("with mirror images" if line["flip"] else "no mirror images")
    if line.get("recalibrated"):
        notes.append("batch norm recalibrated")
    if line["pool"] == "global":
        notes.append("global pooling")
    if line["ema"]:
        notes.append("averaged weights")
    return _measured(recipe, line, view, line["step"], protocol, notes)


def _of_run(run: Run, line: Line) -> Measured:
    found = evaluated(run.recipe, line)
    others = run.records_its_data and line["data_digest"] != run.starts[-1]["val_digest"]
    return replace(found, notes=[*found.notes, "not the validation data of training"]) if others else found


def _validation(run: Run, line: Line) -> Measured:
    recipe = run.recipe
    size, resize = recipe.validation_size, recipe.evaluation.resize
    view = "the whole image" if size == resize else f"centre crop {size} of {resize}"
    step = line["samples"] // run.batch
    notes = ["batch norm recalibrated"] if line.get("recalibrated") else []
    return _measured(recipe, line, f"while training: {view}", step, CENTER, notes)


def _measured(recipe: Recipe, line: Line, view: str, step: int, protocol: str, notes: list[str]) -> Measured:
    model = recipe.model
    paper = published(model, protocol)
    expected = VALIDATION_IMAGES[family(model.name)]
    comparable = line["images"] == expected
    if paper is not None and not comparable:
        notes = [f"other data: {line['images']:,} images, the paper's {expected:,}", *notes]
    if paper is not None and comparable:
        notes = [*notes, *_budget(recipe, line["samples"]), *_differing(recipe)]
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


def _budget(recipe: Recipe, samples: int) -> list[str]:
    share = samples / BUDGET[family(recipe.model.name)]
    return [] if round(share, 3) == 1 else [f"trained for {share:.1%} of the paper's budget"]


def _differing(recipe: Recipe) -> list[str]:
    """What of network and optimisation is not the paper's. The padding of the first pooling is not worth a note."""
    found = values(recipe)
    keys = (key for key in sorted(differing(recipe)) if key.startswith(_NOTED) and key != "model.stem_pool")
    return [f"{key}={found[key]}" for key in keys]


def _percent(interval: Any) -> Interval | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])
