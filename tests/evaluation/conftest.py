"""A small network that was trained, and images of many shapes that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState, PartialState

from tests.samples import Pixels, jpeg, smooth_image, write_beton
from trainer.recipe import load_recipe
from trainer.train import train

SIZE, RESIZE, CLASSES, IMAGES = 16, 18, 6, 41
RECIPE = f"""
name: run
model: {{name: cifar_resnet20}}
data: {{size: {SIZE}, min_side: {RESIZE}, max_side: 30, colour: 0, threads: 1}}
optimizer: {{global_batch: 32, micro_batch: 32, lr: 0.05}}
schedule: {{budget: 60it, kind: cosine}}
evaluation: {{every: 60it, resize: {RESIZE}, batch: 32}}
log: {{every: 10it}}
"""


@dataclass(frozen=True)
class Trained:
    """Paths of a run and of what to evaluate it on."""

    run: Path
    raw: Path
    """The images as they are."""
    jpegs: Path
    """The same as JPEGs whose colours have the resolution of their brightness."""
    subsampled: Path
    """The same as JPEGs whose colours have half of it."""
    images: list[Pixels]
    labels: list[int]


def picture(seed: int, label: int) -> Pixels:
    """uint8 [24-60, 24-60, 3], of a pattern with a tint, faint or strong, that tells the class."""
    rng = np.random.default_rng(seed)
    width, height = rng.integers(24, 61, 2)
    tint = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]])[label] * rng.uniform(10, 120)
    return np.clip(smooth_image(int(width), int(height), seed) * 0.5 + tint, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    labels = [i % CLASSES for i in range(300)]
    write_beton(folder / "train.beton", [picture(1000 + i, label) for i, label in enumerate(labels)], labels)
    labels = [i % CLASSES for i in range(IMAGES)]
    images = [picture(i, label) for i, label in enumerate(labels)]
    raw = write_beton(folder / "val.beton", images, labels)
    jpegs, subsampled = (
        write_beton(folder / f"jpegs{sampling}.beton", [jpeg(i, 95, subsampling=sampling) for i in images], labels)
        for sampling in (0, 2)
    )
    (folder / "run.yaml").write_text(RECIPE)
    PartialState._reset_state()
    AcceleratorState._reset_state(True)
    overrides = [f"data.train={folder}/train.beton", f"data.val={raw}", f"runs={folder}"]
    train(load_recipe(folder / "run.yaml", overrides))
    PartialState._reset_state()
    AcceleratorState._reset_state(True)
    return Trained(folder / "run", raw, jpegs, subsampled, images, labels)
