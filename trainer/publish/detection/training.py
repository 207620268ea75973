"""Fine-tuning a detector, and measuring it as COCO does."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainer.errors import RunError, UsageError
from trainer.publish.detection.recipe import DetectionRecipe
from trainer.publish.detection.scenes import Scene

SAY_EVERY: Final = 50
"""Steps."""
LONGEST_GRADIENT: Final = 10.0
"""In the Euclidean norm; longer ones, which the first steps from random weights may have, are shortened to it."""

Detections = dict[str, Tensor]
"""Of an image: `boxes`, float32 [n, 4]: left, top, right, bottom in pixels; `labels`, int64 [n]; `scores`, float32
[n]."""


@dataclass(frozen=True)
class Outcome:
    """Of one detector."""

    map: float
    """Mean average precision over IoU 0.50 to 0.95, in [0, 1]: COCO's."""
    map_50: float
    """At IoU 0.50: AP50."""
    seconds: float
    """Of training."""
    losses: list[float]
    """Of every step."""


def metrics_package() -> ModuleType:
    """torchmetrics' detection metrics.

    Raises:
        UsageError: torchmetrics or pycocotools is not installed.
    """
    try:
        importlib.import_module("pycocotools.cocoeval")
        return importlib.import_module("torchmetrics.detection.mean_ap")
    except ImportError as error:
        name = (error.name or str(error)).partition(".")[0]
        raise UsageError(
            f"mAP is measured with {name}, which is missing: pip install torchmetrics pycocotools"
        ) from error


def fine_tune(detector: nn.Module, scenes: Sequence[Scene], recipe: DetectionRecipe, name: str) -> list[float]:
    """Train with SGD, telling how it goes; returns the loss of every step.

    Raises:
        RunError: a loss is not finite.
    """
    parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, recipe))
    detector.train()
    losses: list[float] = []
    begun = time.monotonic()
    for step, (images, targets) in enumerate(_batches(scenes, recipe), start=1):
        loss = torch.stack(list(detector(images, targets).values())).sum()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise RunError(f"{name}: the loss of step {step} is {losses[-1]}; try a lower lr than {recipe.lr:g}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, LONGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        if step % SAY_EVERY == 0 or step == recipe.steps:
            recent = losses[-SAY_EVERY:]
            seconds = time.monotonic() - begun
            mean = sum(recent) / len(recent)
            print(f"{name}: step {step} of {recipe.steps}, loss {mean:.3f}, {seconds:.0f} s", flush=True)
    return losses


def rate(step: int, recipe: DetectionRecipe) -> float:
    """The learning rate after `step` steps, as a fraction of the recipe's: a linear warm-up, then half a cosine."""
    if step < recipe.warmup:
        return (step + 1) / (recipe.warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup)))


def _batches(
    scenes: Sequence[Scene], recipe: DetectionRecipe
) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Images, float32 [3, size, size] in [0, 1], and targets of every step; half of them mirrored."""
    generator = torch.Generator().manual_seed(recipe.seed)
    order: list[int] = []
    for _ in range(recipe.steps):
        while len(order) < recipe.batch:
            order += torch.randperm(len(scenes), generator=generator).tolist()
        chosen, order = order[: recipe.batch], order[recipe.batch :]
        flips = torch.rand(recipe.batch, generator=generator) < 0.5
        batch = [mirrored(scenes[index]) if flip else scenes[index] for index, flip in zip(chosen, flips, strict=True)]
        yield [scene.image / 255 for scene in batch], [target(scene) for scene in batch]


def mirrored(scene: Scene) -> Scene:
    """Left to right; the classes stay what they are."""
    left, top, right, bottom = scene.boxes.unbind(1)
    width = scene.image.shape[2]
    return Scene(scene.image.flip(2), torch.stack((width - right, top, width - left, bottom), 1), scene.labels)


def target(scene: Scene) -> dict[str, Tensor]:
    """What is to be found, as torchvision and torchmetrics have it."""
    return {"boxes": scene.boxes, "labels": scene.labels}


@torch.no_grad()
def detect(detector: nn.Module, scenes: Sequence[Scene]) -> list[Detections]:
    """What the detector finds, the surest first."""
    detector.eval()
    return [detector([scene.image / 255])[0] for scene in scenes]


def precision(found: Sequence[Detections], scenes: Sequence[Scene]) -> tuple[float, float]:
    """COCO's mAP and AP50, by pycocotools."""
    metric: Any = metrics_package().MeanAveragePrecision(backend="pycocotools")
    metric.update(list(found), [target(scene) for scene in scenes])
    values = metric.compute()
    return float(values["map"]), float(values["map_50"])
