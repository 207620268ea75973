"""A run that is over in a second, in this process."""

from __future__ import annotations

from pathlib import Path

from accelerate.state import AcceleratorState, PartialState

from tests.samples import smooth_image, write_beton
from trainer.processes import start_accelerator
from trainer.recipe import load_recipe
from trainer.stops import Stop
from trainer.train import Run

OVERRIDES = [
    "model.name=cifar_resnet20",
    "data.size=16",
    "data.crop=padded",
    "data.threads=1",
    "optimizer.global_batch=8",
    "optimizer.micro_batch=4",
    "schedule.budget=4it",
    "evaluation.resize=16",
    "evaluation.batch=8",
    "log.every=2it",
]


def begin_anew() -> None:
    """Accelerate, as it is at the beginning of a process."""
    AcceleratorState._reset_state(True)
    PartialState._reset_state()


def write_data(folder: Path) -> None:
    """`train.beton` and `val.beton` of 16 images in two classes, unless they are there."""
    for name in ("train", "val"):
        if not (folder / f"{name}.beton").exists():
            images = [smooth_image(16, 16, seed) for seed in range(16)]
            write_beton(folder / f"{name}.beton", images, [i % 2 for i in range(16)])


def make_run(folder: Path, *overrides: str) -> Run:
    """`folder/run`, begun or gone on with, before its first step."""
    begin_anew()
    write_data(folder)
    (folder / "run.yaml").write_text("{}\n")
    paths = [f"data.train={folder}/train.beton", f"data.val={folder}/val.beton", f"runs={folder}"]
    recipe = load_recipe(folder / "run.yaml", [*OVERRIDES, *paths, *overrides])
    return Run(recipe, start_accelerator(recipe), Stop())
