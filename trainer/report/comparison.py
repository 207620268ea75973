"""The errors that a run has reached, each beside the paper's of the same network and protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from trainer.evaluation.protocols import CENTER, MULTI_SCALE_DENSE, TITLES
from trainer.recipe import Recipe
from trainer.report.paper import BUDGET, SCALES, VALIDATION_IMAGES, Published, family, published
from trainer.report.paper_recipe import differing, paper_value, values
from trainer.report.runs import Line, Run

Interval = tuple[float, float]


_NOT_NOTED: Final = ("model.stem_pool", "optimizer.ema", "batch_norm.recalibrate", "schedule.budget")
"""What of a recipe that is not the paper's is not worth a note, or has one of its own."""


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
    of_view: list[str]
    """What of the evaluation was otherwise than for the paper's number."""
    of_run: list[str]
    """What of the network and its training was."""

    @property
    def notes(self) -> list[str]:
        """Both."""
        return [*self.of_view, *self.of_run]

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
    protocol, scales = str(line["protocol"]), list(line["scales"])
    size = line.get("size", recipe.validation_size)  # older lines have none
    paper = published(recipe.model, protocol)
    expected = VALIDATION_IMAGES[family(recipe.model.name)]
    comparable = line["images"] == expected
    of_view = [] if paper is None else _view_unlike_the_papers(recipe, protocol, size, scales)
    if paper is not None and not comparable:
        of_view.insert(0, f"other data: {line['images']:,} images, the paper's {expected:,}")
    return Measured(
        view=view_of(protocol, size, scales) + (", averaged weights" if line["ema"] else ""),
        step=line["step"],
        images=line["images"],
        top1=100 * line["top1_error"],
        top5=100 * line["top5_error"],
        top1_interval=_percent(line.get("top1_interval")),
        top5_interval=_percent(line.get("top5_interval")),
        paper=paper,
        comparable=comparable,
        of_view=[*of_view, *_unusual(recipe, line)],
        of_run=[*_budget(recipe, line["samples"]), *_differing(recipe)] if paper is not None and comparable else [],
    )


def view_of(protocol: str, size: int, scales: Sequence[int]) -> str:
    """What is looked at, for people.

    Args:
        size: side of the crops in pixels.
        scales: shorter sides of the images in pixels.
    """
    sides = ", ".join(map(str, scales))
    if protocol == CENTER and list(scales) == [size]:
        return "the whole image"
    crops = "" if protocol == MULTI_SCALE_DENSE else f" {size}"
    return f"{TITLES.get(protocol, protocol)}{crops} of {sides}"


def _view_unlike_the_papers(recipe: Recipe, protocol: str, size: int, scales: list[int]) -> list[str]:
    other_crops = protocol != MULTI_SCALE_DENSE and size != paper_value("data.size", recipe.model.name)
    other_sides = scales != SCALES[family(recipe.model.name), protocol]
    return ["other crops"] * other_crops + ["other shorter sides"] * other_sides


def _unusual(recipe: Recipe, line: Line) -> list[str]:
    """What else of an evaluation is not the usual way."""
    center = line["protocol"] == CENTER
    notes = []
    if line["score"] != "softmax" and (not center or line["flip"]):
        notes.append(f"{line['score']} averaged")
    if line["flip"] == center:
        notes.append("with mirror images" if line["flip"] else "no mirror images")
    recalibrated = bool(line.get("recalibrated"))
    if recalibrated != bool(paper_value("batch_norm.recalibrate", recipe.model.name)):
        notes.append("batch norm recalibrated" if recalibrated else "batch norm by moving averages")
    if line["pool"] == "global":
        notes.append("global pooling")
    if line["ema"]:
        notes.append("averaged weights")
    return notes


def _of_run(run: Run, line: Line) -> Measured:
    found = evaluated(run.recipe, line)
    others = run.records_its_data and line["data_digest"] != run.starts[-1]["val_digest"]
    return replace(found, of_view=[*found.of_view, "not the validation data of training"]) if others else found


def _validation(run: Run, line: Line) -> Measured:
    recipe = run.recipe
    way = {"protocol": CENTER, "size": recipe.validation_size, "scales": [recipe.evaluation.resize], "pool": None}
    way |= {"score": "softmax", "flip": False, "ema": False, "step": line["samples"] // run.batch}
    found = evaluated(recipe, {**line, **way})
    return replace(found, view=f"while training: {found.view}")


def _budget(recipe: Recipe, samples: int) -> list[str]:
    share = samples / BUDGET[family(recipe.model.name)]
    part = f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
    return [] if round(share, 3) == 1 else [f"trained for {part} of the paper's budget"]


def _differing(recipe: Recipe) -> list[str]:
    """What of the recipe is not the paper's. Where the budget is another one, so are the milestones."""
    found, keys = values(recipe), differing(recipe)
    left_out = (*_NOT_NOTED, *["schedule.milestones"] * ("schedule.budget" in keys))
    return [f"{key}={_text(found[key])}" for key in sorted(keys) if key not in left_out]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _percent(interval: Any) -> Interval | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])
