"""Where crops are: section 3.4 (scale augmentation), 4.2 (padding) and the evaluation view."""

import numpy as np
import PIL.Image
import pytest
import torchvision.transforms.functional as tv
from hypothesis import given
from hypothesis import strategies as st

from tests.samples import smooth_image
from trainer.data.crops import CenterCrop, PaddedCrop, ScaleCrop, draw_colour
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


def test_a_draw_depends_on_seed_epoch_and_sample_alone() -> None:
    policy = ScaleCrop(224, 256, 480, seed=4)
    epochs, ids, widths, heights = many(500, 375, 64)
    whole = policy(epochs, ids, widths, heights).boxes
    part = policy(epochs[40:50], ids[40:50], widths[40:50], heights[40:50]).boxes
    assert np.array_equal(whole[40:50], part)
    assert not np.array_equal(whole, policy(epochs + 1, ids, widths, heights).boxes)
    assert not np.array_equal(whole, ScaleCrop(224, 256, 480, seed=5)(epochs, ids, widths, heights).boxes)


def test_padded_crops_reach_four_pixels_out_on_every_side() -> None:
    crops = PaddedCrop(32, 4, seed=0)(*many(32, 32, 5000))
    assert {int(v) for v in np.unique(crops.boxes[:, 0])} == set(range(-4, 5))
    assert {int(v) for v in np.unique(crops.boxes[:, 1])} == set(range(-4, 5))
    assert (crops.boxes[:, 2] - crops.boxes[:, 0] == 32).all()


def test_no_flip_when_it_is_off() -> None:
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
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_the_centre_crop_of_an_image_of_the_networks_size_is_the_image() -> None:
    assert CenterCrop(32, 32)(*many(32, 32, 1)).boxes.tolist() == [[0, 0, 32, 32]]


def test_colour_draws_are_standard_normal_one_triple_an_image() -> None:
    draws = draw_colour(0, np.zeros(50_000, np.int64), np.arange(50_000))
    assert draws.shape == (50_000, 3)
    assert np.abs(draws.mean(axis=0)).max() < 0.02
    assert np.abs(draws.std(axis=0) - 1).max() < 0.02
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.02
