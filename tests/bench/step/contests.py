"""Small contests."""

from __future__ import annotations

from typing import Any

from tests.small import begin_anew
from trainer.bench.step.contest import Contest, make_contest
from trainer.bench.step.options import Options
from trainer.processes import start_accelerator
from trainer.recipe import load_recipe

RECIPE = "recipes/imagenet/resnet18.yaml"
SMALL = (
    "precision=fp32",
    "data.size=32",
    "data.min_side=32",
    "data.max_side=40",
    "data.threads=1",
    "optimizer.micro_batch=4",
)


def small_contest(*overrides: str, batch: int = 4, **options: Any) -> Contest:
    """Of ResNet-18 at 32 pixels."""
    begin_anew()
    recipe = load_recipe(RECIPE, [*SMALL, *overrides])
    return make_contest(recipe, batch, start_accelerator(recipe), Options(RECIPE, **options))
