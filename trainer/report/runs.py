"""What a run folder says of its run: recipe, metrics, milestones, evaluations, layer responses."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Final

from trainer.data.manifest import load_manifest
from trainer.errors import UsageError
from trainer.recipe import IMAGENET_SAMPLES, Recipe, load_recipe
from trainer.record import EVALUATIONS, MILESTONES, RESPONSES, read_metrics
from trainer.report.paper import family
from trainer.schedule import Drop

Line = dict[str, Any]

_NUMBER: Final = (int, float)
_OPTIONAL: Final = (int, float, type(None))
_KEYS: Final[dict[str, dict[str, Any]]] = {
    "start": {"samples": int},
    "train": {
        "samples": int,
        "lr": _NUMBER,
        "loss": _OPTIONAL,
        "top1_error": _NUMBER,
        "images_per_s": _NUMBER,
        "data_wait": _NUMBER,
    },
    "validation": {"samples": int, "top1_error": _NUMBER, "top5_error": _NUMBER, "loss": _OPTIONAL, "images": int},
    "nonfinite": {"samples": int, "step": int},
    "stop": {"samples": int, "cause": str},
    "recalibration": {"samples": int, "images": int},
    "warmup": {"samples": int, "top1_error": _NUMBER, "lr": _NUMBER},
    "evaluation": {
        "protocol": str,
        "scales": list,
        "score": str,
        "pool": (str, type(None)),
        "flip": bool,
        "ema": bool,
        "top1_error": _NUMBER,
        "top5_error": _NUMBER,
        "top1_interval": list,
        "top5_interval": list,
        "images": int,
        "samples": int,
        "step": int,
        "checkpoint": str,
        "data_digest": str,
    },
    "responses": {"samples": int, "step": int, "images": int, "layers": list},
    "layer": {"name": str, "std": _NUMBER},
}
"""What the report reads of each kind of object, and its types."""
_TOLD: Final = ("stop", "recalibration", "warmup")


@dataclass(frozen=True)
class Run:
    """One run, as far as it got."""

    run_dir: Path
    label: str
    """Its folder's name, with as much of the path as tells it from the other runs of the report."""
    recipe: Recipe
    starts: list[Line]
    train: list[Line]
    """One a log interval, oldest first."""
    validation: list[Line]
    nonfinite: list[Line]
    told: list[Line]
    """Stops, recalibrations and ends of warm-ups."""
    drops: list[Drop]
    """Every drop of the learning rate that a plateau or a milestone caused."""
    evaluations: list[Line]
    """The newest of each protocol and checkpoint."""
    responses: Line | None

    @property
    def batch(self) -> int:
        return self.recipe.optimizer.global_batch

    @cached_property
    def samples(self) -> int:
        """Seen so far."""
        return max((int(line["samples"]) for line in (*self.train, *self.validation)), default=0)

    @property
    def rate_changes(self) -> list[Drop]:
        """Where the learning rate dropped, or rose at the end of a conditional warm-up, and to what."""
        warmups = [Drop(line["samples"], line["lr"]) for line in self.told if line["kind"] == "warmup"]
        return sorted([*self.drops, *warmups], key=lambda change: change.samples)

    @property
    def rates(self) -> list[Line]:
        """The learning rate of the log intervals, each as a line with `samples` and `lr`, and at its changes before
        and after: an interval may be wide."""
        found: list[Line] = []
        changes = [{"samples": change.samples, "lr": change.lr} for change in self.rate_changes]
        for line in sorted([*self.train, *changes], key=lambda line: int(line["samples"])):
            if line in changes and found:
                found.append({"samples": line["samples"], "lr": found[-1]["lr"]})
            found.append({"samples": line["samples"], "lr": line["lr"]})
        return found

    @property
    def budget(self) -> int:
        return self.recipe.samples(self.recipe.schedule.budget)

    @property
    def epochs(self) -> float:
        """Epoch-equivalents seen."""
        return self.samples / IMAGENET_SAMPLES

    @property
    def network(self) -> str:
        """For people."""
        return self.recipe.model.title

    @property
    def is_plain(self) -> bool:
        return self.recipe.model.is_plain

    @property
    def best_error(self) -> float:
        """The lowest top-1 error of the validations, a fraction."""
        return min(float(line["top1_error"]) for line in self.validation)

    @property
    def training_seconds(self) -> float:
        """Time in the loop, without validation and checkpoints, over all starts."""
        seconds, previous = 0.0, 0
        for line in self.train:
            if line["images_per_s"] > 0:
                seconds += (line["samples"] - previous) / line["images_per_s"]
            previous = line["samples"]
        return seconds

    def median(self, key: str) -> float | None:
        """Of a value of the log intervals; None: there are none yet."""
        return median(float(line[key]) for line in self.train) if self.train else None

    @property
    def skipped(self) -> int:
        """Samples that did not decode and were replaced."""
        return sum(line.get("skipped", 0) for line in self.train)

    @property
    def records_its_data(self) -> bool:
        return bool(self.starts) and "data_digest" in self.starts[-1]

    @cached_property
    def train_images(self) -> int | None:
        """Images of the training data: as recorded, else those of the data that lie there now; None: not known."""
        if self.records_its_data:
            return int(self.starts[-1]["train_images"])
        manifest = None
        with contextlib.suppress(UsageError):
            manifest = load_manifest(self.recipe.data.train)
        return manifest.num_samples if manifest is not None else None

    @property
    def passes(self) -> float | None:
        """Passes over the training data so far."""
        return self.samples / self.train_images if self.train_images else None

    @property
    def group(self) -> tuple[str, str]:
        """Runs of one group are drawn together: networks of one family, validated on the same data."""
        recorded = self.starts[-1].get("val_digest") if self.starts else None
        return family(self.recipe.model.name), recorded or str(Path(self.recipe.data.val).resolve())


def read_runs(run_dirs: list[Path]) -> list[Run]:
    """Read run folders.

    Raises:
        UsageError: one is none, is given twice, or holds a damaged file.
    """
    places = [run_dir.resolve() for run_dir in run_dirs]
    for place, count in Counter(places).items():
        if count > 1:
            raise UsageError(f"{place}: given {count} times, give every run once")
    return [_read_run(run_dir, label) for run_dir, label in zip(run_dirs, short_names(places), strict=True)]


def _read_run(run_dir: Path, label: str) -> Run:
    by_kind: dict[str, list[Line]] = {kind: [] for kind in ("start", "train", "validation", "nonfinite", *_TOLD)}
    for line in read_metrics(run_dir):
        if line["kind"] in by_kind:
            by_kind[line["kind"]].append(_checked(line, line["kind"], f"{run_dir}/metrics.jsonl"))
    recipe = load_recipe(run_dir)
    samples = max((line["samples"] for line in by_kind["train"]), default=0)
    return Run(
        run_dir=run_dir,
        label=label,
        recipe=recipe,
        starts=by_kind["start"],
        train=by_kind["train"],
        validation=by_kind["validation"],
        nonfinite=by_kind["nonfinite"],
        told=[line for kind in _TOLD for line in by_kind[kind]],
        drops=_drops(run_dir, recipe, samples),
        evaluations=_evaluations(run_dir / EVALUATIONS, recipe),
        responses=_responses(run_dir / RESPONSES),
    )


def short_names(places: list[Path]) -> list[str]:
    """The shortest ends of the paths, of one length, that are all different."""
    for length in range(1, max(len(place.parts) for place in places) + 1):
        labels = ["/".join(place.parts[-length:]) for place in places]
        if len(set(labels)) == len(labels):
            break
    return labels


def _checked(line: Any, kind: str, where: str) -> Line:
    """`line`, if it is an object with what is read of one of its kind.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(line, dict):
        raise UsageError(f"{where}: damaged: {str(line)[:40]!r} is no object ({kind})")
    for key, kinds in _KEYS[kind].items():
        if key not in line or not isinstance(line[key], kinds):
            raise UsageError(f"{where}: damaged: a line of kind {kind} has no valid '{key}'")
    for key in ("top1_interval", "top5_interval"):
        if kind == "evaluation" and not (len(line[key]) == 2 and all(isinstance(end, _NUMBER) for end in line[key])):
            raise UsageError(f"{where}: damaged: {key} is {line[key]}, expected [low, high]")
    return line


def _drops(run_dir: Path, recipe: Recipe, samples: int) -> list[Drop]:
    """Up to `samples`: of a plateau as recorded, of a step schedule as its recipe says."""
    if recipe.schedule.kind == "step":
        places = sorted(recipe.samples(milestone) for milestone in recipe.schedule.milestones)
        rates = [recipe.optimizer.lr * recipe.schedule.factor ** (number + 1) for number in range(len(places))]
        return [Drop(place, rate) for place, rate in zip(places, rates, strict=True) if place <= samples]
    path = run_dir / MILESTONES
    if recipe.schedule.kind != "plateau" or not path.exists():
        return []
    try:
        return [Drop(int(drop["samples"]), float(drop["lr"])) for drop in json.loads(path.read_text())["drops"]]
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: damaged: not the drops of a learning rate") from error


def _evaluations(path: Path, recipe: Recipe) -> list[Line]:
    """Of what was evaluated again, the newest. A torn line is left out, as of the metrics."""
    if not path.exists():
        return []
    found: dict[str, Line] = {}
    for raw in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            content = json.loads(raw)
        except ValueError:
            continue
        line = _checked(content, "evaluation", str(path))
        what = ("checkpoint", "protocol", "scales", "score", "pool", "flip", "ema", "data_digest")
        found[json.dumps([line.get("size", recipe.validation_size), *(line[key] for key in what)])] = line
    return sorted(found.values(), key=lambda line: line["samples"])


def _responses(path: Path) -> Line | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: damaged: not JSON; write it again: python -m trainer responses") from error
    content = _checked(content, "responses", str(path))
    for layer in content["layers"]:
        _checked(layer, "layer", str(path))
    return content
