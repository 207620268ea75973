"""What the sheet shows is what training gets, and what it says of it is what was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import transforms

from tests.data.datasets import write_dataset
from tests.samples import jpeg, smooth_image, without_its_scan, write_beton
from trainer.data.crops import ScaleCrop
from trainer.data.dataset import training_crops
from trainer.errors import RunError
from trainer.jpeg import decode
from trainer.preview.views import EPOCHS, ROWS, Row, corner_boxes, training_rows, validation_view
from trainer.recipe import Recipe, load_recipe
from trainer.run_data import RunData

CPU = torch.device("cpu")
SMALL = ["data.size=16", "data.min_side=18", "data.max_side=30", "evaluation.resize=18", "data.threads=1"]
PADDED = ["data.crop=padded", "data.padding=3", "data.colour=0"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train.beton and val.beton: eight JPEGs of different sizes of two classes, with a mean image of 16x16."""
    images = [jpeg(smooth_image(40 + 3 * i, 50 - i, i) // 2 + 60) for i in range(8)]
    for name in ("train", "val"):
        write_dataset(tmp_path / f"{name}.beton", images, [i % 2 for i in range(8)], ["ape", "bee"])
    (tmp_path / "small.yaml").write_text("{}\n")
    return tmp_path


def open_data(folder: Path, *overrides: str) -> tuple[Recipe, RunData]:
    paths = [f"data.train={folder}/train.beton", f"data.val={folder}/val.beton"]
    recipe = load_recipe(folder / "small.yaml", [*SMALL, *paths, *overrides])
    return recipe, RunData(recipe, CPU)


def rows_of(folder: Path, *overrides: str) -> list[Row]:
    return training_rows(*open_data(folder, *overrides))


@pytest.mark.parametrize("overrides", [[], ["data.crop=rrc"], PADDED, [*PADDED, "data.normalize=mean_image"]])
def test_views_are_the_pixels_that_training_gets(folder: Path, overrides: list[str]) -> None:
    recipe, data = open_data(folder, *overrides, "data.colour=0")
    rows = training_rows(recipe, data)
    assert [row.image.sample for row in rows] == data.order.take(0, ROWS).ids.tolist()
    stream = data.order.take(0, EPOCHS * 8)
    batch = next(data.train_loader.load([stream]))
    shown = 0
    for epoch, sample, pixels in zip(stream.epochs, stream.ids, batch.images.numpy(), strict=True):
        for row in rows:
            if row.image.sample == sample:
                assert np.array_equal(row.views[epoch].pixels, pixels)
                shown += 1
    assert shown == ROWS * EPOCHS


def test_scale_crops_say_s_and_where_they_are(folder: Path) -> None:
    recipe, data = open_data(folder)
    policy = training_crops(recipe)
    assert isinstance(policy, ScaleCrop)
    for row in training_rows(recipe, data):
        shorter = min(row.image.width, row.image.height)
        for view in row.views:
            side = int(view.facts[0].removeprefix("S ").split(",")[0])
            left, top, right, bottom = (round(value) for value in view.box)
            assert 18 <= side <= 30
            assert right - left == bottom - top == min(shorter, round(16 * shorter / side))
            assert view.facts[1] == f"{right - left}×{bottom - top} at ({left}, {top})"


def test_s_is_uniform_over_its_range() -> None:
    sides = ScaleCrop(224, 256, 480, seed=0).shorter_sides(np.zeros(50_000, np.int64), np.arange(50_000))
    counts = np.bincount(sides)
    assert np.flatnonzero(counts).tolist() == list(range(256, 481))
    assert counts[256:].min() > 150


def test_flips_are_told(folder: Path) -> None:
    views = [view for row in rows_of(folder, *PADDED) for view in row.views]
    plain = [view for row in rows_of(folder, *PADDED, "data.flip=false") for view in row.views]
    assert {view.facts[0].rpartition("), ")[2] for view in views} == {"flip", "no flip"}
    for view, unflipped in zip(views, plain, strict=True):
        flipped = not view.facts[0].endswith("no flip")
        assert np.array_equal(view.pixels[:, ::-1] if flipped else view.pixels, unflipped.pixels)


def test_padded_crops_say_where_they_were_moved(folder: Path) -> None:
    for row in rows_of(folder, *PADDED):
        for view in row.views:
            left, top = round(view.box[0]), round(view.box[1])
            assert view.facts[0].startswith(f"at ({left:+d}, {top:+d}), ")


def test_random_resized_crops_say_their_area(folder: Path) -> None:
    for row in rows_of(folder, "data.crop=rrc"):
        for view in row.views:
            left, top, right, bottom = view.box
            share = (right - left) * (bottom - top) / (row.image.width * row.image.height)
            assert view.facts[0].startswith(f"area {share:.0%}, ")


def test_the_shift_of_the_colours_is_seen_and_told(folder: Path) -> None:
    shifted, unshifted = rows_of(folder, "data.colour=0.3"), rows_of(folder, "data.colour=0")
    for row, plain in zip(shifted, unshifted, strict=True):
        for view, without in zip(row.views, plain.views, strict=True):
            told = [float(value) for value in view.facts[-1].removeprefix("RGB ").split(", ")]
            change = view.pixels.astype(int) - without.pixels
            inside = (view.pixels > 0) & (view.pixels < 255)  # the rest is clamped
            assert np.abs(change - told)[inside].max() <= 0.56  # rounded, as are the ones told
            assert not any("RGB" in fact for fact in without.facts)


@pytest.mark.parametrize("normalize", ["channel", "mean_image"])
def test_a_picture_of_the_networks_input_is_the_image(folder: Path, normalize: str) -> None:
    _, data = open_data(folder, "data.colour=0", f"data.normalize={normalize}")
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(data.preprocess.to_rgb(data.preprocess(images, torch.zeros(1, 3))), images)


def test_with_fewer_images_there_are_fewer_rows(folder: Path) -> None:
    write_dataset(folder / "train.beton", [jpeg(smooth_image(40, 50, i)) for i in range(2)], [0, 1], ["ape", "bee"])
    rows = rows_of(folder)
    assert sorted(row.image.sample for row in rows) == [0, 1]
    assert {row.image.class_name for row in rows} == {"ape", "bee"}


def test_a_record_that_does_not_decode_is_named_or_replaced_as_in_training(folder: Path) -> None:
    images = [jpeg(smooth_image(40, 50, i)) for i in range(8)]
    images[3] = without_its_scan(images[3])
    for name in ("train", "val"):
        (folder / f"{name}.beton.json").unlink()
        write_beton(folder / f"{name}.beton", images, [0] * 8)
    with pytest.raises(RunError, match="sample 3"):
        rows_of(folder, "seed=1")
    rows = rows_of(folder, "seed=1", "data.on_error=skip")
    assert len(rows) == ROWS
    assert 3 not in [row.image.sample for row in rows]


def test_the_validation_view_is_the_first_images_centre_crop(folder: Path) -> None:
    recipe, data = open_data(folder)
    found = validation_view(recipe, data)
    whole = PIL.Image.fromarray(decode(data.val.beton.record(0)))
    resized = transforms.Resize(recipe.evaluation.resize, transforms.InterpolationMode.BILINEAR)(whole)
    wanted = np.asarray(transforms.CenterCrop(recipe.data.size)(resized)).astype(int)
    assert found.image.sample == 0
    assert np.abs(found.center - wanted).max() <= 1  # pillow-simd rounds its weights
    assert found.corners.shape == (6, 4)


def test_the_boxes_are_those_of_torchvisions_ten_crops(folder: Path) -> None:
    recipe, _ = open_data(folder, *PADDED, "evaluation.resize=37")
    width, height = 37, 52
    places = PIL.Image.fromarray(np.arange(width * height, dtype=np.int32).reshape(height, width))
    crops = [np.asarray(crop) for crop in transforms.TenCrop(recipe.data.size)(places)]
    corners = [divmod(int(crop.min()), width)[::-1] for crop in crops]  # mirrored or not, the lowest is at its corner
    assert [tuple(box[:2]) for box in corner_boxes(recipe, width, height).tolist()] == [*corners[:5], corners[9]]
    assert set(corners) == {*corners[:5], corners[9]}
    assert corners[4] != corners[9]


def test_a_stored_image_is_shown_whole(folder: Path) -> None:
    _, data = open_data(folder)
    image = rows_of(folder)[0].image
    whole = image.resized(image.width, image.height)
    assert whole.shape == (data.train.beton.heights[image.sample], data.train.beton.widths[image.sample], 3)
    assert image.resized(9, 5).shape == (5, 9, 3)
