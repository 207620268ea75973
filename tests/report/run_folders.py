"""Run folders as training leaves them, without any training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from trainer.recipe import Recipe, load_recipe

TIME = 1_790_000_000.0

IMAGENET = ["evaluation.every=1ep", "data.val=val.beton"]
CIFAR = [
    "data.size=32",
    "data.crop=padded",
    "data.colour=0",
    "data.normalize=mean_image",
    "data.statistics=data",
    "optimizer.global_batch=128",
    "optimizer.micro_batch=64",
    "schedule.budget=64000it",
    "schedule.kind=step",
    "schedule.milestones=[32000it,48000it]",
    "evaluation.resize=32",
    "data.val=test.beton",
]
"""The paper's recipe for CIFAR-10."""


def make_recipe(folder: Path, *overrides: str) -> Recipe:
    """The recipe of the run `folder`, written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text("{}\n")
    recipe = load_recipe(folder, list(overrides))
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    return recipe


def start(samples: int = 0, **more: Any) -> dict[str, Any]:
    recorded = {"train_images": 1000, "data_digest": "da" * 32, "val_digest": "fa" * 32}
    versions = {"imagenet-trainer": "0.1.0", "torch": "2.9.0"}
    line = {"kind": "start", "samples": samples, "world_size": 2, "device": "cuda", "hardware": "GPU of a test"}
    line["versions"] = versions
    return {**line, **recorded, "time": TIME, **more}


def train(samples: int, error: float, lr: float = 0.1, **more: Any) -> dict[str, Any]:
    line = {"kind": "train", "samples": samples, "lr": lr, "loss": 3 * error, "top1_error": error}
    return {**line, "images_per_s": 500.0, "data_wait": 0.01, "skipped": 0, "time": TIME + samples / 500, **more}


def validation(samples: int, error: float, images: int = 10_000, **more: Any) -> dict[str, Any]:
    line = {"kind": "validation", "samples": samples, "top1_error": error, "top5_error": error / 4, "images": images}
    return {**line, "loss": 3 * error, "time": TIME + samples / 500, **more}


def write_metrics(folder: Path, *lines: dict[str, Any]) -> Path:
    """`metrics.jsonl` of these lines; returns the folder."""
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_run(folder: Path, *overrides: str, floor: float = 0.1, share: float = 1.0, images: int = 10_000) -> Path:
    """A whole run: an error that falls to `floor`, in two steps more after its milestones, over `share` of the budget.

    40 log intervals and 20 validations in the whole budget.
    """
    recipe = make_recipe(folder, *overrides)
    budget, batch = recipe.samples(recipe.schedule.budget), recipe.optimizer.global_batch
    milestones = [recipe.samples(milestone) for milestone in recipe.schedule.milestones]
    lines = [start()]
    for interval in range(1, 41):
        samples = budget * interval // 40 // batch * batch
        if interval > 40 * share:
            break
        drops = sum(milestone < samples for milestone in milestones)
        error = floor * (1 + 0.4 * (2 - drops)) + 0.8 * math.exp(-interval / 4)
        lines.append(train(samples, error, lr=0.1 * 0.1**drops))
        if interval % 2 == 0:
            lines.append(validation(samples, error * 1.1, images))
    return write_metrics(folder, *lines)


def evaluation(protocol: str, error: float, **more: Any) -> dict[str, Any]:
    """A line of `evaluations.jsonl`."""
    line: dict[str, Any] = {"protocol": protocol, "scales": [256], "score": "softmax", "pool": None, "flip": True}
    line |= {
        "ema": False,
        "recalibrated": True,
        "top1_error": error,
        "top5_error": error / 4,
        "images": 50_000,
        "loss": 1.0,
        "seconds": 9.0,
    }
    line |= {"top1_interval": [error - 0.003, error + 0.003], "top5_interval": [error / 4 - 0.002, error / 4 + 0.002]}
    line |= {"step": 600_000, "samples": 153_600_000, "checkpoint": "step-00600000", "data": "val.beton"}
    return {**line, "data_digest": "fa" * 32, "time": TIME, **more}


def write_evaluations(folder: Path, *lines: dict[str, Any]) -> None:
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_responses(folder: Path, deviations: list[float], **more: Any) -> None:
    layers = [{"name": f"layer{number}", "std": deviation} for number, deviation in enumerate(deviations)]
    content = {"step": 10, "samples": 1280, "data": "val.beton", "data_digest": "fa" * 32, "images": 100}
    (folder / "responses.json").write_text(json.dumps({**content, "layers": layers, **more}))
