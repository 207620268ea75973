"""The sheet itself: a PNG whose tiles are the views, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from tests.samples import jpeg, smooth_image, write_beton
from trainer.__main__ import main
from trainer.preview.sheet import HEADER, draw_sheet
from trainer.preview.sheet import _Layout as Layout
from trainer.preview.views import training_rows, validation_view
from trainer.recipe import load_recipe
from trainer.run_data import RunData

SCALE = ["data.size=16", "data.min_side=18", "data.max_side=30", "evaluation.resize=18"]
PADDED = ["data.size=32", "data.crop=padded", "evaluation.resize=32", "data.colour=0"]


def write_recipe(folder: Path, sizes: list[tuple[int, int]]) -> str:
    """A recipe whose data are pictures of these sizes."""
    images = [jpeg(smooth_image(width, height, seed)) for seed, (width, height) in enumerate(sizes)]
    for name in ("train", "val"):
        write_beton(folder / f"{name}.beton", images, [0] * len(images))
    path = folder / "seen.yaml"
    path.write_text(f"data: {{train: {folder}/train.beton, val: {folder}/val.beton, threads: 1}}\n")
    return str(path)


LARGER = [*SCALE, "evaluation.size=24", "evaluation.resize=27"]


@pytest.mark.parametrize("overrides", [SCALE, [*SCALE, "data.crop=rrc"], PADDED, LARGER])
def test_every_view_is_on_the_sheet_enlarged_and_otherwise_unchanged(tmp_path: Path, overrides: list[str]) -> None:
    recipe = load_recipe(write_recipe(tmp_path, [(40, 50), (60, 34), (33, 33)]), overrides)
    data = RunData(recipe, torch.device("cpu"))
    rows, validation = training_rows(recipe, data), validation_view(recipe, data)
    size = draw_sheet(recipe, rows, validation, tmp_path / "sheet.png")
    with PIL.Image.open(tmp_path / "sheet.png") as image:
        assert image.size == size
        sheet = np.asarray(image.convert("RGB"))
    layout = Layout(recipe, rows, validation)
    factor = layout.factor
    for place, row in enumerate(rows):
        for column, view in enumerate(row.views, start=1):
            left, top = layout.left(column), HEADER + place * layout.row
            tile = sheet[top : top + layout.tile, left : left + layout.tile]
            assert np.array_equal(tile[::factor, ::factor], view.pixels)
            assert np.array_equal(tile[factor - 1 :: factor, factor - 1 :: factor], view.pixels)
    assert len(validation.center) == recipe.validation_size
    assert layout.center == factor * recipe.validation_size


@pytest.mark.parametrize("size", [(900, 20), (20, 900), (20, 20)])
def test_images_of_any_shape_fit(tmp_path: Path, size: tuple[int, int]) -> None:
    recipe = load_recipe(write_recipe(tmp_path, [size]), SCALE)
    data = RunData(recipe, torch.device("cpu"))
    rows, validation = training_rows(recipe, data), validation_view(recipe, data)
    width, _ = draw_sheet(recipe, rows, validation, tmp_path / "sheet.png")
    assert width == Layout(recipe, rows, validation).left(5) + Layout(recipe, rows, validation).cell + 28


def test_the_command_writes_the_sheet_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = write_recipe(tmp_path, [(40, 50)] * 9), tmp_path / "sheet.png"
    assert main(["preview", recipe, *SCALE, "--out", str(out)]) == 0
    with PIL.Image.open(out) as image:
        width, height = image.size
    assert f"6 training images in 5 epochs, and the views of a validation image ({width}x{height} pixels)" in (
        capsys.readouterr().out
    )
    assert sorted(path.name for path in tmp_path.iterdir() if "sheet" in path.name) == ["sheet.png"]


@pytest.mark.parametrize(
    ("out", "reason"),
    [("sheet.jpg", "expected a name that ends in .png"), ("none/sheet.png", "none: No such file or directory")],
)
def test_a_place_where_no_png_can_be_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, reason: str
) -> None:
    assert main(["preview", "recipes/quickstart.yaml", "--out", str(tmp_path / out)]) == 2
    assert reason in capsys.readouterr().err
