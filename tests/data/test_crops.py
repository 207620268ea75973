"""Where crops are: section 3.4 (scale augmentation), 4.2 (padding) and the evaluation view."""

from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision.transforms
import torchvision.transforms.functional as tv
from hypothesis import given
from hypothesis import strategies as st

from tests.samples import smooth_image
from trainer.data.crops import CenterCrop, CropPolicy, PaddedCrop, RandomResizedCrop, ScaleCrop, draw_colour
from trainer.jpeg import crop_pixels

SIDES = st.integers(1, 2000)


def many(width: int, height: int, count: int = 500) -> tuple[np.ndarray, ...]:
    return np.zeros(count, np.int64), np.arange(count), np.full(count, width), np.full(count, height)


@given(width=SIDES, height=SIDES, seed=st.integers(0, 1000))
def test_scale_crops_are_squares_within_the_image(width: int, height: int, seed: int) -> None:
    boxes = ScaleCrop(224, 256, 480, seed)(*many(width, height, 50)).boxes
    left, top, right, bottom = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    assert np.array_equal(right - left, bottom - top)


def test_scale_crops_show_what_the_paper_shows() -> None:
    # Shorter side 400 resized to s in [256, 480]: a 224 crop shows 224 * 400 / s of its pixels.
    crops = ScaleCrop(224, 256, 480, seed=0)(*many(400, 500, 20_000))
    sides = crops.boxes[:, 2] - crops.boxes[:, 0]
    assert sides.min() == round(224 * 400 / 480)
    assert sides.max() == round(224 * 400 / 256)
    s = np.arange(256, 481)
    assert sides.mean() == pytest.approx(np.rint(224 * 400 / s).mean(), rel=0.01)
    assert crops.flips.mean() == pytest.approx(0.5, abs=0.02)
    assert crops.boxes[:, 0].min() == 0
    assert crops.boxes[:, 3].max() == 500


RANGES = st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: (min(pair), max(pair)))
RATIOS = st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(lambda pair: (min(pair), max(pair)))


@given(width=SIDES, height=SIDES, seed=st.integers(0, 1000), scale=RANGES, ratio=RATIOS)
def test_random_resized_crops_are_boxes_of_whole_pixels_within_the_image(
    width: int, height: int, seed: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    boxes = RandomResizedCrop(224, seed, scale, ratio)(*many(width, height, 50)).boxes
    left, top, right, bottom = boxes.T
    assert np.array_equal(boxes, np.rint(boxes))
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right > left).all()
    assert (bottom > top).all()
    assert (right <= width).all()
    assert (bottom <= height).all()


@given(width=st.integers(100, 2000), height=st.integers(100, 2000), seed=st.integers(0, 1000))
def test_random_resized_crops_have_an_allowed_area_and_ratio(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = RandomResizedCrop(224, seed, (0.2, 0.5))(*many(width, height, 50)).boxes.T
    area, ratio = (right - left) * (bottom - top), (right - left) / (bottom - top)
    rounding = 0.03  # half a pixel on sides of at least 38
    assert (area <= 0.5 * width * height * (1 + rounding)).all()
    fits = area >= 0.2 * width * height * (1 - rounding)  # else the fallback, in images that are too long
    assert fits.all() or not 2 / 4 < width / height < 4 / 2
    assert (ratio >= 3 / 4 * (1 - rounding)).all()
    assert (ratio <= 4 / 3 * (1 + rounding)).all()


@pytest.mark.parametrize(
    ("width", "height", "scale", "ratio"),
    [
        (500, 375, (0.08, 1.0), (3 / 4, 4 / 3)),
        (200, 900, (0.3, 1.0), (3 / 4, 4 / 3)),
        (640, 480, (0.5, 1.0), (0.4, 2.0)),
    ],
)
def test_random_resized_crops_are_distributed_as_torchvisions(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    left, top, right, bottom = RandomResizedCrop(224, 7, scale, ratio)(*many(width, height, 40_000)).boxes.T
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    draw = torchvision.transforms.RandomResizedCrop.get_params
    theirs = np.array([draw(image, scale, ratio) for _ in range(4000)])  # top, left, height, width
    found = [(right - left) * (bottom - top), (right - left) / (bottom - top), left, top]
    wanted = [theirs[:, 2] * theirs[:, 3], theirs[:, 3] / theirs[:, 2], theirs[:, 1], theirs[:, 0]]
    for ours, their in zip(found, wanted, strict=True):
        # The largest distance between two distribution functions: below 0.033 for equal ones, but once in 1,000 draws.
        values = np.sort(their)
        distance = np.searchsorted(np.sort(ours), values, "right") / len(ours) - np.searchsorted(
            values, values, "right"
        ) / len(values)
        assert np.abs(distance).max() < 0.033


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (1000, 100, (433, 0, 566, 100)),
        (100, 1000, (0, 433, 100, 566)),
        (1, 1, (0, 0, 1, 1)),
        (300, 300, (0, 0, 300, 300)),
    ],
)
def test_where_no_box_fits_the_largest_of_an_allowed_ratio_is_taken_from_the_centre(
    width: int, height: int, box: tuple[int, ...]
) -> None:
    policy = RandomResizedCrop(224, 0, scale=(1.2, 1.2))
    assert policy(*many(width, height, 3)).boxes.tolist() == [list(box)] * 3


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: ScaleCrop(224, 256, 480, seed),
        lambda seed: RandomResizedCrop(224, seed),
        lambda seed: PaddedCrop(224, 16, seed),
    ],
)
def test_a_draw_depends_on_seed_epoch_and_sample_alone(make: Callable[[int], CropPolicy]) -> None:
    policy = make(4)
    epochs, ids, widths, heights = many(500, 375, 64)
    whole = policy(epochs, ids, widths, heights).boxes
    part = policy(epochs[40:50], ids[40:50], widths[40:50], heights[40:50]).boxes
    assert np.array_equal(whole[40:50], part)
    assert not np.array_equal(whole, policy(epochs + 1, ids, widths, heights).boxes)
    assert not np.array_equal(whole, make(5)(epochs, ids, widths, heights).boxes)


def test_padded_crops_reach_four_pixels_out_on_every_side() -> None:
    crops = PaddedCrop(32, 4, seed=0)(*many(32, 32, 5000))
    assert {int(v) for v in np.unique(crops.boxes[:, 0])} == set(range(-4, 5))
    assert {int(v) for v in np.unique(crops.boxes[:, 1])} == set(range(-4, 5))
    assert (crops.boxes[:, 2] - crops.boxes[:, 0] == 32).all()


def test_no_flip_when_it_is_off() -> None:
    assert not RandomResizedCrop(224, seed=0, flip=False)(*many(500, 400)).flips.any()
    assert not ScaleCrop(224, 256, 480, seed=0, flip=False)(*many(500, 400)).flips.any()


@given(width=st.integers(40, 160), height=st.integers(40, 160), seed=st.integers(0, 9))
def test_the_centre_crop_is_torchvisions_resize_and_center_crop(width: int, height: int, seed: int) -> None:
    pixels = smooth_image(width, height, seed)
    policy = CenterCrop(28, 32)
    box = policy(*many(width, height, 1)).boxes[0].tolist()
    ours = np.empty((28, 28, 3), np.uint8)
    crop_pixels(pixels, tuple(box), False, ours)
    resized = tv.resize(PIL.Image.fromarray(pixels), 32, tv.InterpolationMode.BILINEAR)
    theirs = np.asarray(tv.center_crop(resized, [28, 28]))
    assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_the_centre_crop_of_an_image_of_the_networks_size_is_the_image() -> None:
    assert CenterCrop(32, 32)(*many(32, 32, 1)).boxes.tolist() == [[0, 0, 32, 32]]


def test_colour_draws_are_standard_normal_one_triple_an_image() -> None:
    draws = draw_colour(0, np.zeros(50_000, np.int64), np.arange(50_000))
    assert draws.shape == (50_000, 3)
    assert np.abs(draws.mean(axis=0)).max() < 0.02
    assert np.abs(draws.std(axis=0) - 1).max() < 0.02
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.02
