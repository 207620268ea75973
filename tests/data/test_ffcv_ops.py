"""Our decoders in a stock FFCV Loader: the pixels of `trainer.jpeg` and `trainer.data.crops`, and no silent failure."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.samples import PYTHON, REPOSITORY, jpeg, smooth_image, write_beton
from trainer.data.beton import MODE_JPEG, Beton
from trainer.data.crops import CenterCrop, CropPolicy, RandomResizedCrop, ScaleCrop
from trainer.jpeg import Pixels, crop_pixels, decode_crop

pytest.importorskip("ffcv")
pytestmark = pytest.mark.slow  # FFCV compiles its pipelines

SCALE = ScaleCrop(32, 36, 60, seed=1)
COUNT = 44
DAMAGED = 18


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Beton:
    """JPEGs of several kinds, every fifth image stored as pixels; labels are the samples' numbers."""
    images: list[Pixels | bytes] = []
    for sample in range(COUNT):
        pixels = smooth_image(60 + 7 * (sample % 5), 50 + 11 * (sample % 7), sample)
        kind = {"subsampling": sample % 3, "progressive": sample % 11 == 0}
        images.append(pixels if sample % 5 == 4 else jpeg(pixels, mode="L" if sample % 7 == 6 else "RGB", **kind))
    return Beton(write_beton(tmp_path_factory.mktemp("ffcv") / "good.beton", images, range(COUNT)))


@pytest.fixture(scope="module")
def found(beton: Beton, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program got out of the beton, and out of a copy in which half of one JPEG is zeros."""
    folder = tmp_path_factory.mktemp("found")
    content = bytearray(beton.path.read_bytes())
    start, size = int(beton.offsets[DAMAGED]), int(beton.sizes[DAMAGED])
    content[start : start + size // 2] = bytes(size // 2)
    (folder / "damaged.beton").write_bytes(content)
    program = Path(__file__).with_name("run_ffcv_ops.py")
    done = subprocess.run(
        [PYTHON, program, beton.path, folder / "damaged.beton", folder / "found.npz"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as content_of:
        return dict(content_of)


def crops_of(beton: Beton, policy: CropPolicy, epoch: int, ids: np.ndarray) -> Pixels:
    widths, heights = beton.widths[ids].astype(np.int64), beton.heights[ids].astype(np.int64)
    crops = policy(np.full(len(ids), epoch), ids, widths, heights)
    out = np.empty((len(ids), policy.size, policy.size, 3), np.uint8)
    for place, sample in enumerate(ids.tolist()):
        left, top, right, bottom = crops.boxes[place].tolist()
        box, flip = (left, top, right, bottom), bool(crops.flips[place])
        size = int(beton.widths[sample]), int(beton.heights[sample])
        if beton.modes[sample] == MODE_JPEG:
            decode_crop(beton.record(sample), size, box, flip, out[place])
        else:
            pixels = np.frombuffer(beton.record(sample), np.uint8).reshape(size[1], size[0], 3)
            crop_pixels(pixels, box, flip, out[place])
    return out


@pytest.mark.parametrize(
    ("workers", "os_cache", "order"),
    [(1, 1, "SEQUENTIAL"), (1, 0, "RANDOM"), (2, 1, "RANDOM"), (2, 0, "SEQUENTIAL")],
)
def test_a_stock_loader_yields_the_crops_of_each_epoch(
    beton: Beton, found: dict[str, Any], workers: int, os_cache: int, order: str
) -> None:
    for epoch in (0, 1):  # the first by `for batch in loader`, the second by `checked(loader)`
        name = f"{workers}_{os_cache}_{order}_{epoch}"
        ids = found[f"{name}_labels"]
        assert sorted(ids) == list(range(COUNT))
        assert (ids.tolist() == list(range(COUNT))) == (order == "SEQUENTIAL")
        assert np.array_equal(found[f"{name}_images"], crops_of(beton, SCALE, epoch, ids))


@pytest.mark.parametrize(("name", "policy"), [("rrc", RandomResizedCrop(32, seed=1)), ("center", CenterCrop(32, 40))])
def test_every_crop_has_its_decoder(beton: Beton, found: dict[str, Any], name: str, policy: CropPolicy) -> None:
    assert np.array_equal(found[f"{name}_images"], crops_of(beton, policy, 0, np.arange(COUNT)))


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("set_7", 7),
        ("after_7", 8),
        ("resumed_3", 3),  # `loader.next_epoch = 3`, `checked(loader)`
        ("used_again", 0),  # the same decoder in another Loader
        ("recompiled_1", 1),
    ],
)
def test_the_epoch_can_be_set_and_counts_on(beton: Beton, found: dict[str, Any], name: str, epoch: int) -> None:
    assert np.array_equal(found[f"{name}_images"], crops_of(beton, SCALE, epoch, np.arange(COUNT)))


def test_in_a_plain_loop_a_damaged_record_is_black_and_warned_of_and_ends_the_next_pass(
    beton: Beton, found: dict[str, Any]
) -> None:
    expected = crops_of(beton, SCALE, 0, np.arange(COUNT))
    expected[DAMAGED] = 0
    assert np.array_equal(found["damaged_images"], expected)
    assert str(found["warning"]).startswith(f"sample {DAMAGED}: ")
    assert str(found["next_pass"]) == f"0 RunError: {found['warning']}"


def test_checked_raises_a_damaged_record_by_name_in_place_of_its_batch(found: dict[str, Any]) -> None:
    message = str(found["checked"])
    assert message.startswith(f"{DAMAGED // 8} RunError: ")
    assert f"damaged.beton: sample {DAMAGED}: " in message


def test_checked_raises_what_fails_in_ffcvs_thread(found: dict[str, Any]) -> None:
    assert str(found["in_thread"]) == "0 ZeroDivisionError: from FFCV's thread"


def test_a_checked_pass_that_is_left_early_ends_its_thread(found: dict[str, Any]) -> None:
    assert found["threads"].tolist() == []
