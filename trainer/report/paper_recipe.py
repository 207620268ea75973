"""The values of a recipe's keys that the paper or its released models state, and what differs from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, NamedTuple

from trainer.recipe import Recipe
from trainer.report.paper import CIFAR, family

_NOT_GIVEN: Final = object()


class Stated(NamedTuple):
    """The paper's value of a key for networks of ImageNet and of CIFAR-10."""

    imagenet: Any
    cifar: Any
    applies: Callable[[Recipe], bool] = lambda recipe: True
    """Whether the key has any effect under a recipe."""


_WARMED_UP: Final = ("cifar_resnet110", "cifar_resnet1202")
"""Networks that begin by `_WARM_UP`."""
_WARM_UP: Final = {"schedule.warmup_until_error": 0.8, "schedule.warmup_lr": 0.01}
"""Of section 4.2: a learning rate of 0.01 until the training error is below 80 %."""


def _has_bottlenecks(recipe: Recipe) -> bool:
    return recipe.model.is_deep


def _scales(recipe: Recipe) -> bool:
    return recipe.data.crop == "scale"


def _drops(recipe: Recipe) -> bool:
    return recipe.schedule.kind in ("plateau", "step")


STATED: Final[dict[str, Stated]] = {
    "precision": Stated("fp32", "fp32"),
    "model.shortcut": Stated(_NOT_GIVEN, "A", lambda recipe: not recipe.model.is_plain),  # A, B and C are compared
    "model.stride_in": Stated("1x1", _NOT_GIVEN, _has_bottlenecks),
    "model.stem_pool": Stated("caffe", _NOT_GIVEN),
    "model.block": Stated(_NOT_GIVEN, "basic"),
    "model.kernel": Stated(_NOT_GIVEN, 3),
    "model.skip": Stated(_NOT_GIVEN, 2, lambda recipe: not recipe.model.is_plain),
    "model.dropout": Stated(0.0, 0.0),
    "data.size": Stated(224, 32),
    "data.first_size": Stated(0, 0),
    "data.crop": Stated("scale", "padded"),
    "data.min_side": Stated(256, _NOT_GIVEN, _scales),
    "data.max_side": Stated(480, _NOT_GIVEN, _scales),
    "data.padding": Stated(_NOT_GIVEN, 4, lambda recipe: recipe.data.crop == "padded"),
    "data.flip": Stated(True, True),
    "data.colour": Stated(0.1, 0.0),
    "data.normalize": Stated("mean_image", "mean_image"),
    "optimizer.global_batch": Stated(256, 128),
    "optimizer.micro_batch": Stated(32, 64),
    "optimizer.lr": Stated(0.1, 0.1),
    "optimizer.momentum": Stated(0.9, 0.9),
    "optimizer.weight_decay": Stated(1e-4, 1e-4),
    "optimizer.decay": Stated("all", "all"),
    "optimizer.label_smoothing": Stated(0.0, 0.0),
    "optimizer.ema": Stated(0.0, 0.0),
    "batch_norm.recalibrate": Stated(True, _NOT_GIVEN),
    "schedule.budget": Stated("600000it", "64000it"),
    "schedule.kind": Stated("plateau", "step"),
    "schedule.factor": Stated(0.1, 0.1, _drops),
    "schedule.milestones": Stated(_NOT_GIVEN, ["32000it", "48000it"], lambda recipe: recipe.schedule.kind == "step"),
    "schedule.warmup": Stated("0it", "0it"),
    "schedule.warmup_until_error": Stated(0.0, 0.0),
    "schedule.warmup_lr": Stated(_NOT_GIVEN, _NOT_GIVEN, lambda recipe: recipe.schedule.warmup_until_error > 0),
    "evaluation.size": Stated(224, 32, lambda recipe: recipe.evaluation.size > 0),  # else data.size says it
    "evaluation.resize": Stated(256, 32),
}
"""Sections 3.4 and 4.2; decay, stride, stem, recalibration and the views of validation are the released models'."""

_AMOUNTS: Final = ("schedule.budget", "schedule.milestones", "schedule.warmup")


def values(recipe: Recipe) -> dict[str, Any]:
    """Every value of a recipe by its dotted key, with the shortcut and the block that null stands for."""
    flat: dict[str, Any] = {}
    for name, content in asdict(recipe).items():
        group = content.items() if isinstance(content, dict) else ()
        flat |= {f"{name}.{key}": value for key, value in group} or {name: content}
    shortcut = recipe.model.option or None
    block = recipe.model.block or ("basic" if family(recipe.model.name) == CIFAR else None)
    return flat | {"model.shortcut": shortcut, "model.block": block}


def paper_value(key: str, model: str) -> Any | None:
    """The paper's value of a key for a network, None where it states none."""
    stated = STATED.get(key)
    if stated is None:
        return None
    if key in _WARM_UP and model in _WARMED_UP:
        return _WARM_UP[key]
    value = stated.cifar if family(model) == CIFAR else stated.imagenet
    return None if value is _NOT_GIVEN else value


def differing(recipe: Recipe) -> set[str]:
    """The keys whose values have an effect and are not the paper's."""
    found = values(recipe)
    return {key for key, stated in STATED.items() if stated.applies(recipe) and _differs(key, found[key], recipe)}


def _differs(key: str, value: Any, recipe: Recipe) -> bool:
    paper = paper_value(key, recipe.model.name)
    if paper is None:
        return False
    if key not in _AMOUNTS:
        return bool(value != paper)
    return _iterations(value, recipe) != _iterations(paper, recipe)


def _iterations(amount: str | list[str], recipe: Recipe) -> list[int]:
    """Amounts of training as the paper counts them, so that `119.9ep` may be `600000it`."""
    amounts = amount if isinstance(amount, list) else [amount]
    return sorted(recipe.samples(one) // recipe.optimizer.global_batch for one in amounts)
