"""Progressive resizing: the size follows from the position alone, and changes nothing of a crop but its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.beton import Beton
from trainer.data.crops import CropPolicy, RandomResizedCrop, ScaleCrop
from trainer.data.loader import Batch, Loader
from trainer.data.order import Request, TrainingOrder
from trainer.data.progressive import MULTIPLE, ProgressiveResizing

CPU = torch.device("cpu")
IMAGENET = 1_281_167

sides = st.integers(1, 400)
amounts = st.integers(0, 10**8)


@st.composite
def resizings(draw: st.DrawFn) -> ProgressiveResizing:
    first, last = sorted((draw(sides), draw(sides)))
    begin, end = sorted((draw(amounts), draw(amounts)))
    return ProgressiveResizing(first, last, begin, end)


@given(resizing=resizings())
def test_the_ends_are_exact(resizing: ProgressiveResizing) -> None:
    assert resizing.size(resizing.end) == resizing.size(resizing.end + 1) == resizing.last
    if resizing.begin < resizing.end:
        assert resizing.size(0) == resizing.size(resizing.begin) == resizing.first


@given(resizing=resizings(), positions=st.lists(amounts, min_size=2))
def test_crops_only_grow_and_are_multiples_between_the_ends(
    resizing: ProgressiveResizing, positions: list[int]
) -> None:
    sizes = [resizing.size(position) for position in sorted(positions)]
    assert sizes == sorted(sizes)
    assert all(size in (resizing.first, resizing.last) or size % MULTIPLE == 0 for size in sizes)
    assert all(resizing.first <= size <= resizing.last for size in sizes)


@pytest.mark.parametrize(
    ("epoch", "size"),
    # ffcv-imagenet's get_resolution for rn50_16_epochs.yaml (160 to 192, epochs 11 to 13), and a longer way.
    [((160, 192), {0: 160, 11: 160, 12: 192, 13: 192, 15: 192}), ((128, 224), {0: 128, 11: 128, 12: 192, 13: 224})],
)
def test_sizes_are_those_of_ffcv_imagenet(epoch: tuple[int, int], size: dict[int, int]) -> None:
    resizing = ProgressiveResizing(*epoch, 11 * IMAGENET, 13 * IMAGENET)
    assert {number: resizing.size(number * IMAGENET) for number in size} == size


RESIZING = ProgressiveResizing(32, 96, 16, 48)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_global_batch_has_one_size_on_all_ranks_and_from_any_position(world_size: int) -> None:
    order = TrainingOrder(40, 0, resizing=RESIZING)
    expected = [32, 32, 32, 64, 64, 64, 96, 96]  # from 0, 8, 16, ... samples on
    for rank in range(world_size):
        assert [request.size for request in order.batches(0, 64, 8, rank, world_size)] == expected
        assert [request.size for request in order.batches(24, 64, 8, rank, world_size)] == expected[3:]


def test_the_samples_of_a_run_do_not_depend_on_the_sizes() -> None:
    plain, growing = TrainingOrder(40, 0), TrainingOrder(40, 0, resizing=RESIZING)
    for one, other in zip(plain.batches(0, 64, 8, 0, 1), growing.batches(0, 64, 8, 0, 1), strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.size is None


def loaded(loader: Loader, size: int | None) -> np.ndarray:
    batch: Batch = next(iter(loader.load([Request(np.zeros(8, np.int64), np.arange(8), size)])))
    return batch.images.numpy().copy()


@pytest.mark.parametrize("crops", [ScaleCrop(96, 96, 120, seed=1), RandomResizedCrop(96, seed=1)])
def test_a_small_crop_shows_what_the_large_one_does(photos: Path, crops: CropPolicy) -> None:
    loader = Loader(Beton(photos), crops, CPU)
    large, small = loaded(loader, None), loaded(loader, 32)
    assert (large.shape, small.shape) == ((8, 96, 96, 3), (8, 32, 32, 3))
    means = large.reshape(8, 32, 3, 32, 3, 3).mean(axis=(2, 4))
    assert np.abs(means - small).mean() < 4  # another crop or its mirror image differs by tens


def test_batches_of_all_sizes_share_the_memory_of_the_largest(photos: Path) -> None:
    loader = Loader(Beton(photos), RandomResizedCrop(96, seed=1), CPU, prefetch=2)
    order = TrainingOrder(40, 0, resizing=RESIZING)
    places, sizes = set(), []
    for batch in loader.load(order.batches(0, 80, 8, 0, 1)):
        places.add(batch.images.data_ptr())
        sizes.append(batch.images.shape[1])
        assert batch.images.is_contiguous()
    assert sizes == [32, 32, 32, 64, 64, 64, 96, 96, 96, 96]
    assert len(places) == 3  # slots, whatever the size


def test_more_pixels_than_the_crops_have_are_refused(photos: Path) -> None:
    loader = Loader(Beton(photos), RandomResizedCrop(96, seed=1), CPU)
    with pytest.raises(ValueError, match="crops of 128 px, larger than the loader's of 96"):
        loaded(loader, 128)
