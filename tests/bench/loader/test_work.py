"""What is asked of every loader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trainer.bench.loader.work import CROPS, CropKind, Work, crops_of, reference, windows_of
from trainer.data.beton import Beton
from trainer.data.crops import CenterCrop, Crops, RandomResizedCrop, ScaleCrop
from trainer.data.order import Request
from trainer.jpeg import decode


def test_crops_are_those_of_the_recipes_defaults(work: Work) -> None:
    full = replace(work, size=224)
    assert full.policy() == ScaleCrop(224, 256, 480, seed=0)
    assert replace(full, crop="rrc").policy() == RandomResizedCrop(224, 0, (0.08, 1.0), (3 / 4, 4 / 3))
    assert replace(full, crop="center").policy() == CenterCrop(224, 256)


def test_the_view_of_another_size_is_in_proportion(work: Work) -> None:
    assert replace(work, crop="center", size=448).policy() == CenterCrop(448, 512)


def test_epochs_have_the_same_images_and_other_crops(work: Work) -> None:
    first, second = (work.requests(40, epoch) for epoch in (0, 1))
    assert [request.ids.tolist() for request in first] == [request.ids.tolist() for request in second]
    keys = [set(zip(request.epochs.tolist(), request.ids.tolist(), strict=True)) for request in [*first, *second]]
    assert len(set().union(*keys)) == 2 * work.images, "no image has the same crop twice"


def test_a_small_data_set_is_gone_through_again(work: Work) -> None:
    requests = work.requests(40, 0)
    ids = np.concatenate([request.ids for request in requests])
    assert [len(request.ids) for request in requests] == [16, 16, 16]
    assert sorted(ids[:40].tolist()) == list(range(40))
    assert set(ids[40:].tolist()) < set(range(40))


def test_of_a_large_data_set_an_epoch_takes_a_part(work: Work) -> None:
    ids = np.concatenate([request.ids for request in work.requests(10_000, 3)])
    assert len(set(ids.tolist())) == work.images


@pytest.mark.parametrize("crop", CROPS)
def test_whole_pixels_are_within_half_a_pixel_of_the_box(work: Work, crop: CropKind) -> None:
    work, beton = replace(work, crop=crop), Beton(work.beton)
    request = work.requests(len(beton), 0)[0]
    crops = crops_of(work, beton, request)
    left, top, width, height = windows_of(crops, beton, request).T
    windows = np.stack([left, top, left + width, top + height], axis=1)
    assert np.abs(windows - crops.boxes).max() <= 0.5


@given(arrays.arrays(np.float64, (40, 2), elements=st.floats(0, 1)), st.floats(0, 1))
def test_windows_are_never_empty_and_never_leave_the_image(corners: np.ndarray, extent: float) -> None:
    beton = _Sizes()
    request = Request(np.zeros(40, np.int64), np.arange(40))
    sides = np.stack([beton.widths, beton.heights], axis=1)
    start = corners * (sides - 0.01)
    stop = start + np.maximum((sides - start) * extent, 0.01)
    crops = Crops(np.concatenate([start, stop], axis=1), np.zeros(40, np.bool_))
    left, top, width, height = windows_of(crops, beton, request).T  # type: ignore[arg-type]
    assert min(left.min(), top.min()) >= 0
    assert min(width.min(), height.min()) >= 1
    assert (left + width <= beton.widths).all()
    assert (top + height <= beton.heights).all()


class _Sizes:
    """What `windows_of` reads of a beton."""

    widths = np.arange(1, 41, dtype=np.int32)
    heights = np.arange(40, 0, -1, dtype=np.int32)


def test_the_reference_is_our_decoder_of_the_box_and_flip(work: Work) -> None:
    work, beton = replace(work, crop="center"), Beton(work.beton)
    request = work.requests(len(beton), 0)[0]
    images = reference(work, beton, request)
    assert images.shape == (16, 32, 32, 3)
    assert images.dtype == np.uint8
    for image, sample in zip(images, request.ids.tolist(), strict=True):
        whole = decode(beton.record(sample))
        assert np.abs(image.mean((0, 1)) - whole.mean((0, 1))).max() < 25
