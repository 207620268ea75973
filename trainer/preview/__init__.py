"""What the network sees: a sheet of a recipe's training and validation views, made as a run makes them."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from trainer.errors import UsageError
from trainer.files import check_output
from trainer.preview.sheet import draw_sheet
from trainer.preview.views import EPOCHS, training_rows, validation_view
from trainer.recipe import load_recipe
from trainer.run_data import RunData


def preview(recipe_path: str, overrides: list[str], out: Path) -> None:
    """Draw the first images of a recipe's training stream, in several epochs each, and the views of a validation image.

    Raises:
        UsageError: recipe and data do not go together, or `out` is no place for a PNG.
        RunError: an image does not decode.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out is {out}, expected a name that ends in .png")
    check_output(out, "--out")
    recipe = load_recipe(recipe_path, overrides)
    data = RunData(recipe, torch.device("cpu"))
    rows = training_rows(recipe, data)
    width, height = draw_sheet(recipe, rows, validation_view(recipe, data), out)
    what = f"{len(rows)} training images in {EPOCHS} epochs, and the views of a validation image"
    Console().print(f"{out}: {what} ({width}x{height} pixels)", highlight=False, soft_wrap=True)
