"""Estimates that the tests take apart."""

from __future__ import annotations

from typing import Any

from trainer.plan.model import Cluster, Estimate
from trainer.plan.saved import Saved
from trainer.plan.speed import speed_of
from trainer.plan.work import work_of
from trainer.recipe import load_recipe

RECIPE = "recipes/imagenet/resnet50.yaml"
ABSENT = ["data.train=absent.beton", "data.val=absent.beton"]


def make_plan(*overrides: str, gpu: str = "h100", recipe: str = RECIPE, **cluster: Any) -> Estimate:
    """A plan on one node of eight, with what a node usually has, for ImageNet."""
    loaded = load_recipe(recipe, [*ABSENT, *overrides])
    work = work_of(loaded, Saved())
    usual: dict[str, Any] = {"nodes": 1, "gpus_per_node": 8, "cores": 64, "memory": 256e9, "network": 100e9 / 8}
    return Estimate(work, speed_of(gpu, work.network, loaded.precision, Saved()), Cluster(**(usual | cluster)))
