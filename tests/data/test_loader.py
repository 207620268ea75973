"""The loader: right pixels in the right order, and nothing that fails goes unnoticed."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from tests.samples import jpeg, smooth_image, write_beton
from trainer.data.beton import Beton
from trainer.data.crops import CenterCrop, PaddedCrop, ScaleCrop
from trainer.data.loader import Loader, crop_padded
from trainer.data.order import Request, TrainingOrder, evaluation_batches
from trainer.errors import RunError
from trainer.jpeg import DecodeError, decode, decode_crop

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
        image = PIL.Image.fromarray(decode(beton.record(i)))
        want = np.asarray(image.resize((32, 32), PIL.Image.Resampling.BILINEAR, tuple(box)))
        assert np.array_equal(batch.images[i].numpy(), want[:, ::-1] if flip else want)


def test_labels_and_ids_belong_to_the_images(photos: Path) -> None:
    for _, labels, _, ids in stream(scale_loader(photos), 0, 40, 8):
        assert labels.tolist() == [sample % 5 for sample in ids]


def test_the_last_evaluation_batch_may_be_smaller(photos: Path) -> None:
    loader = Loader(Beton(photos), CenterCrop(32, 36), CPU)
    sizes = [len(batch.labels) for batch in loader.load(evaluation_batches(40, 16, rank=0, world_size=1))]
    assert sizes == [16, 16, 8]
    assert list(loader.load([])) == []


def test_raw_and_jpeg_records_of_one_picture_give_one_crop(tmp_path: Path) -> None:
    picture = jpeg(smooth_image(64, 48, 0))
    beton = Beton(write_beton(tmp_path / "both.beton", [picture, decode(picture)], [0, 0]))
    batch = next(iter(Loader(beton, CenterCrop(32, 40), CPU).load(evaluation_batches(2, 2, 0, 1))))
    assert torch.equal(batch.images[0], batch.images[1])


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


def test_a_padded_crop_beside_the_image_is_all_padding() -> None:
    out = np.zeros((8, 8, 3), np.uint8)
    crop_padded(smooth_image(8, 8, 0), (-20, 3), False, np.array((9, 9, 9), np.uint8), out)
    assert (out == 9).all()


def test_a_record_that_does_not_decode_ends_the_stream_with_its_name(tmp_path: Path) -> None:
    good = jpeg(smooth_image(640, 480, 0))
    beton = Beton(write_beton(tmp_path / "bad.beton", [good, good[: len(good) // 2], good], [0, 1, 2]))
    loader = Loader(beton, CenterCrop(32, 40), CPU)
    with pytest.raises(RunError, match=r"bad\.beton: sample 1 \(label 1, .*damaged JPEG"):
        list(loader.load(evaluation_batches(3, 1, 0, 1)))


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


class TestDecoding:
    """`trainer.jpeg`, the decoder under the loader."""

    def test_grayscale_becomes_rgb(self) -> None:
        pixels = decode(jpeg(smooth_image(20, 10, 0), mode="L"))
        assert pixels.shape == (10, 20, 3)
        assert np.array_equal(pixels[..., 0], pixels[..., 2])

    def test_a_box_outside_of_the_image_is_refused(self) -> None:
        out = np.empty((8, 8, 3), np.uint8)
        with pytest.raises(DecodeError, match="outside of the image of 20x10"):
            decode_crop(jpeg(smooth_image(20, 10, 0)), (20, 10), (0, 0, 11, 11), False, out)

    def test_an_image_of_another_size_than_its_record_says_is_refused(self) -> None:
        out = np.empty((8, 8, 3), np.uint8)
        with pytest.raises(DecodeError, match="the JPEG is 20x10, its record says 16x10"):
            decode_crop(jpeg(smooth_image(20, 10, 0)), (16, 10), (0, 0, 8, 8), False, out)

    @pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"no image at all", jpeg(smooth_image(20, 10, 0))[:200]])
    def test_what_is_no_jpeg_is_refused(self, data: bytes) -> None:
        with pytest.raises(DecodeError):
            decode(data)

    def test_exif_orientation_is_ignored(self) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        picture = smooth_image(20, 10, 0)
        assert np.array_equal(decode(jpeg(picture, exif=exif.tobytes())), decode(jpeg(picture)))
