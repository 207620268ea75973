"""The loader: right pixels in the right order, and nothing that fails goes unnoticed."""

from __future__ import annotations

import contextlib
import io
import itertools
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from tests.samples import in_order, jpeg, smooth_image, without_its_scan, write_beton
from trainer.data.beton import Beton
from trainer.data.crops import CenterCrop, PaddedCrop, ScaleCrop
from trainer.data.loader import Batch, Loader
from trainer.data.order import Request, TrainingOrder
from trainer.errors import RunError
from trainer.jpeg import decode

CPU = torch.device("cpu")


def scale_loader(path: Path, **options: int) -> Loader:
    return Loader(Beton(path), ScaleCrop(32, 36, 60, seed=1), CPU, colour_seed=1, **options)


def stream(loader: Loader, start: int, stop: int, batch: int) -> Generator[tuple[np.ndarray, ...], None, None]:
    order = TrainingOrder(len(loader.beton), seed=1)
    for got in loader.load(order.batches(start, stop, batch, rank=0, world_size=1)):
        yield got.images.numpy().copy(), got.labels.numpy().copy(), got.colour.numpy().copy(), got.ids


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (3, 2), (8, 5)])
def test_the_stream_does_not_depend_on_threads_or_prefetching(photos: Path, threads: int, prefetch: int) -> None:
    expected = list(stream(scale_loader(photos, threads=2), 0, 96, 8))
    found = list(stream(scale_loader(photos, threads=threads, prefetch=prefetch), 0, 96, 8))
    assert len(found) == 12
    for got, want in zip(found, expected, strict=True):
        for one, other in zip(got, want, strict=True):
            assert np.array_equal(one, other)


def test_a_stream_from_the_middle_is_the_tail_of_the_whole(photos: Path) -> None:
    tail = list(stream(scale_loader(photos), 0, 96, 8))[7:]
    for got, want in zip(stream(scale_loader(photos), 56, 96, 8), tail, strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(got, want, strict=True))


def test_a_crop_is_the_crop_of_the_resized_image(photos: Path) -> None:
    beton = Beton(photos)
    policy = ScaleCrop(32, 36, 60, seed=1)
    batch = next(iter(scale_loader(photos).load([Request(np.zeros(8, np.int64), np.arange(8))])))
    crops = policy(np.zeros(8, np.int64), np.arange(8), beton.widths[:8], beton.heights[:8])
    for i, (box, flip) in enumerate(zip(crops.boxes, crops.flips, strict=True)):
        image = PIL.Image.open(io.BytesIO(beton.record(i))).convert("RGB")
        want = np.asarray(image.resize((32, 32), PIL.Image.Resampling.BILINEAR, tuple(box))).astype(int)
        # Our colours are resized once, not enlarged by libjpeg before; tests/jpeg says how near that is.
        assert np.abs(batch.images[i].numpy() - (want[:, ::-1] if flip else want)).mean() < 1


def test_labels_and_ids_belong_to_the_images(photos: Path) -> None:
    for _, labels, _, ids in stream(scale_loader(photos), 0, 40, 8):
        assert labels.tolist() == [sample % 5 for sample in ids]


def test_the_last_evaluation_batch_may_be_smaller(photos: Path) -> None:
    loader = Loader(Beton(photos), CenterCrop(32, 36), CPU)
    sizes = [len(batch.labels) for batch in loader.load(in_order(40, 16))]
    assert sizes == [16, 16, 8]
    assert list(loader.load([])) == []


def test_raw_and_jpeg_records_of_one_picture_give_one_crop(tmp_path: Path) -> None:
    picture = jpeg(smooth_image(64, 48, 0))
    beton = Beton(write_beton(tmp_path / "both.beton", [picture, decode(picture)], [0, 0]))
    batch = next(iter(Loader(beton, CenterCrop(32, 40), CPU).load(in_order(2, 2))))
    assert (batch.images[0].int() - batch.images[1].int()).abs().float().mean() < 1


@pytest.mark.parametrize("stored", ["jpeg", "raw"])
def test_padded_crops_of_small_images(tmp_path: Path, stored: str) -> None:
    pixels = smooth_image(32, 32, 3)
    image = jpeg(pixels) if stored == "jpeg" else pixels
    beton = Beton(write_beton(tmp_path / "small.beton", [image] * 50, [0] * 50))
    policy = PaddedCrop(32, 4, seed=0)
    batch = next(iter(Loader(beton, policy, CPU, fill=(1, 2, 3)).load([Request(np.zeros(50, int), np.arange(50))])))
    crops = policy(np.zeros(50, int), np.arange(50), beton.widths, beton.heights)
    source = decode(image) if isinstance(image, bytes) else image
    padded = np.empty((40, 40, 3), np.uint8)
    padded[:] = (1, 2, 3)
    padded[4:36, 4:36] = source
    for got, (left, top, _, _), flip in zip(batch.images.numpy(), crops.boxes.astype(int), crops.flips, strict=True):
        want = padded[top + 4 : top + 36, left + 4 : left + 36]
        assert np.array_equal(got, want[:, ::-1] if flip else want)


def test_a_record_that_does_not_decode_ends_the_stream_with_its_name(tmp_path: Path) -> None:
    good = jpeg(smooth_image(640, 480, 0))
    beton = Beton(write_beton(tmp_path / "bad.beton", [good, good[: len(good) // 2], good], [0, 1, 2]))
    loader = Loader(beton, CenterCrop(32, 40), CPU)
    with pytest.raises(RunError, match=r"bad\.beton: sample 1 \(label 1, .*damaged JPEG"):
        list(loader.load(in_order(3, 1)))


def test_an_error_in_the_order_reaches_the_consumer(photos: Path) -> None:
    def broken() -> Iterator[Request]:
        raise ZeroDivisionError("from the loader's thread")
        yield

    with pytest.raises(ZeroDivisionError, match="from the loader's thread"):
        list(scale_loader(photos).load(broken()))


def test_a_stream_that_is_left_early_leaves_no_thread_behind(photos: Path) -> None:
    before = set(threading.enumerate())
    with contextlib.closing(stream(scale_loader(photos), 0, 8000, 8)) as batches:
        assert len(list(itertools.islice(batches, 3))) == 3
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(threading.enumerate()) - before


class TestSkipping:
    """`data.on_error: skip`: what does not decode is replaced, by the same sample wherever it is met, and counted."""

    COUNT, BAD = 24, (3, 17)

    @pytest.fixture(scope="class")
    @classmethod
    def beton(cls, tmp_path_factory: pytest.TempPathFactory) -> Beton:
        images = [jpeg(smooth_image(64, 48, i)) for i in range(cls.COUNT)]
        for sample in cls.BAD:
            images[sample] = without_its_scan(images[sample])
        return Beton(write_beton(tmp_path_factory.mktemp("skip") / "bad.beton", images, list(range(cls.COUNT))))

    def batches(self, beton: Beton, batch: int, rank: int = 0, world_size: int = 1, **options: int) -> list[Batch]:
        loader = Loader(beton, ScaleCrop(32, 36, 60, seed=1), CPU, colour_seed=1, replacement_seed=7, **options)
        order = TrainingOrder(len(beton), seed=1).batches(0, 3 * self.COUNT, batch, rank, world_size)
        return [
            replace(got, images=got.images.clone(), labels=got.labels.clone(), colour=got.colour.clone())
            for got in loader.load(order)
        ]

    def test_every_place_is_taken_by_a_sample_that_decodes(self, beton: Beton) -> None:
        found = self.batches(beton, 12)
        wanted = TrainingOrder(self.COUNT, seed=1).take(0, 3 * self.COUNT).ids
        ids = np.concatenate([batch.ids for batch in found])
        sound = ~np.isin(wanted, self.BAD)
        assert np.array_equal(ids[sound], wanted[sound])
        assert not np.isin(ids, self.BAD).any()
        assert torch.cat([batch.labels for batch in found]).tolist() == ids.tolist()
        skipped = np.concatenate([batch.skipped for batch in found])
        assert set(skipped.tolist()) == set(self.BAD)
        assert len(skipped) >= 6  # three epochs of two; more where a replacement was damaged, too

    def test_what_came_in_is_cropped_and_coloured_as_itself(self, beton: Beton) -> None:
        order = TrainingOrder(self.COUNT, seed=1)
        requests = order.batches(0, 3 * self.COUNT, 12, 0, 1)
        found = self.batches(beton, 12)
        sound = Loader(beton, ScaleCrop(32, 36, 60, seed=1), CPU, colour_seed=1)
        again = [Request(request.epochs, batch.ids) for request, batch in zip(requests, found, strict=True)]
        for got, want in zip(found, sound.load(again), strict=True):
            assert torch.equal(got.images, want.images)
            assert torch.equal(got.colour, want.colour)

    @pytest.mark.parametrize("threads", [1, 5])
    @pytest.mark.parametrize(("batch", "world_size"), [(8, 1), (12, 3), (24, 2)])
    def test_the_stream_is_the_same_for_any_number_of_ranks(
        self, beton: Beton, batch: int, world_size: int, threads: int
    ) -> None:
        whole = np.concatenate([got.ids for got in self.batches(beton, 12)])
        ranks = [self.batches(beton, batch, rank, world_size, threads=threads) for rank in range(world_size)]
        shares = [np.concatenate([part.ids for part in parts]) for parts in zip(*ranks, strict=True)]
        assert np.array_equal(np.concatenate(shares), whole)

    def test_data_that_are_mostly_damaged_are_given_up(self, tmp_path: Path) -> None:
        bad = without_its_scan(jpeg(smooth_image(64, 48, 0)))
        beton = Beton(write_beton(tmp_path / "all.beton", [bad] * 6, [0] * 6))
        loader = Loader(beton, CenterCrop(32, 40), CPU, replacement_seed=0)
        with pytest.raises(RunError, match=r"sample \d .*\(the last of 3 replacements for sample \d\): damaged JPEG"):
            list(loader.load(in_order(6, 3)))


def test_a_batch_larger_than_the_first_is_refused(photos: Path) -> None:
    requests = [Request(np.zeros(size, np.int64), np.arange(size)) for size in (4, 8)]
    with pytest.raises(ValueError, match="a batch of 8 after a first one of 4"):
        list(Loader(Beton(photos), CenterCrop(32, 36), CPU).load(requests))
