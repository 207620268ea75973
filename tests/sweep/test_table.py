"""What stands beside the runs of a sweep: the paper's errors, where they are of the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.samples import REPOSITORY
from trainer.recipe import load_recipe
from trainer.sweep.progress import Progress
from trainer.sweep.table import Row, make_row

RECIPES = REPOSITORY / "recipes"


def row(recipe: Path, images: int | None = None) -> Row:
    """Of a run that was validated on so many images."""
    lines: list[dict[str, Any]] = []
    if images is not None:
        lines = [{"kind": "validation", "samples": 128, "top1_error": 0.5, "images": images}]
    return make_row(load_recipe(recipe), Progress(1280, 128, lines, recalibrates=False, holder=None))


@pytest.mark.parametrize(
    ("recipe", "paper"),
    [
        ("imagenet/plain34", "28.54% 10-crop"),
        ("imagenet/resnet50", "24.7% centre crop, 22.85% 10-crop"),
        ("imagenet/resnet152", "23.0% centre crop, 21.43% 10-crop"),
        ("imagenet/resnet18", "-"),  # the paper has it with option A
        ("cifar10/resnet20", "8.75%"),
        ("cifar10/plain20", "-"),
        ("cifar10/ablations/resnet20_kernel5", "-"),
    ],
)
def test_the_papers_errors_say_what_they_are_of(recipe: str, paper: str) -> None:
    assert row(RECIPES / f"{recipe}.yaml").paper == paper


@pytest.mark.parametrize(("images", "paper"), [(None, "8.75%"), (10_000, "8.75%"), (101, "-")])
def test_there_are_none_beside_other_data(images: int | None, paper: str) -> None:
    assert row(RECIPES / "cifar10" / "resnet20.yaml", images).paper == paper


def test_networks_are_told_apart() -> None:
    ablations = RECIPES / "cifar10" / "ablations"
    networks = [row(path).network for path in sorted(ablations.glob("resnet56_*.yaml"))]
    assert len(networks) > 5
    assert len(set(networks)) == len(networks)
