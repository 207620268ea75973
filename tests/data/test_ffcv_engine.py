"""`data.engine: ffcv`: the batches of our own loader, bit for bit, out of FFCV's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.samples import PYTHON, REPOSITORY, in_order, jpeg, smooth_image, write_beton
from trainer.data.beton import Beton
from trainer.data.crops import CenterCrop, CropPolicy, PaddedCrop, ScaleCrop
from trainer.data.ffcv_engine import FfcvLoader
from trainer.data.loader import Loader
from trainer.data.order import Request, TrainingOrder
from trainer.errors import RunError, UsageError
from trainer.jpeg import Pixels

CPU = torch.device("cpu")
SCALE = ScaleCrop(32, 36, 60, seed=1)
COUNT = 42  # global batches of 16 span epochs
DAMAGED = 19


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Beton:
    images: list[Pixels | bytes] = []
    for sample in range(COUNT):
        pixels = smooth_image(60 + 7 * (sample % 5), 50 + 11 * (sample % 7), sample)
        images.append(pixels if sample % 6 == 5 else jpeg(pixels))
    labels = [sample % 5 for sample in range(COUNT)]
    return Beton(write_beton(tmp_path_factory.mktemp("engine") / "good.beton", images, labels))


@pytest.fixture(scope="module")
def damaged(beton: Beton) -> Beton:
    """A copy in which half of one JPEG is zeros."""
    content = bytearray(beton.path.read_bytes())
    start, size = int(beton.offsets[DAMAGED]), int(beton.sizes[DAMAGED])
    content[start : start + size // 2] = bytes(size // 2)
    path = beton.path.with_name("damaged.beton")
    path.write_bytes(content)
    return Beton(path)


@pytest.fixture(scope="module")
def found(beton: Beton, damaged: Beton, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("ffcv")
    program, out = Path(__file__).with_name("run_ffcv_engine.py"), tmp_path_factory.mktemp("found") / "found.npz"
    done = subprocess.run(
        [PYTHON, program, beton.path, damaged.path, out],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as content:
        return dict(content)


def check_same(
    beton: Beton, found: dict[str, Any], name: str, requests: Iterable[Request], crops: CropPolicy = SCALE
) -> None:
    loader = Loader(beton, crops, CPU, colour_seed=1, fill=(1, 2, 3))
    start = 0
    for size, batch in zip(found[f"{name}_sizes"], loader.load(requests), strict=True):
        part = slice(start, start + size)
        assert np.array_equal(found[f"{name}_ids"][part], batch.ids)
        assert np.array_equal(found[f"{name}_images"][part], batch.images.numpy())
        assert np.array_equal(found[f"{name}_labels"][part], batch.labels.numpy())
        assert np.array_equal(found[f"{name}_colour"][part], batch.colour.numpy())
        start += size
    assert start == len(found[f"{name}_ids"]) > 0


@pytest.mark.slow
class TestBatches:
    """FFCV compiles its pipeline."""

    @pytest.mark.parametrize(
        ("name", "start", "rank", "world_size"),
        [
            ("threads1", 0, 0, 1),
            ("threads2", 0, 0, 1),
            ("middle", 64, 0, 1),  # as a run goes on from there
            ("rank1of4", 0, 1, 4),
        ],
    )
    def test_are_those_of_our_loader(
        self, beton: Beton, found: dict[str, Any], name: str, start: int, rank: int, world_size: int
    ) -> None:
        order = TrainingOrder(COUNT, seed=1)
        check_same(beton, found, name, order.batches(start, 160, 16, rank, world_size))

    def test_may_be_padded(self, beton: Beton, found: dict[str, Any]) -> None:
        requests = TrainingOrder(COUNT, seed=1).batches(0, 160, 16, 0, 1)
        check_same(beton, found, "padded", requests, PaddedCrop(32, 4, seed=1))

    def test_may_be_smaller_than_the_first(self, beton: Beton, found: dict[str, Any]) -> None:
        assert found["evaluation_sizes"].tolist() == [12, 12, 12, 6]
        check_same(beton, found, "evaluation", in_order(COUNT, 12))

    def test_of_another_load_may_be_larger(self, found: dict[str, Any]) -> None:
        assert found["too_large"].tolist() == [40, 2]

    def test_of_no_request_are_none(self, found: dict[str, Any]) -> None:
        assert found["nothing"] == "0 and no error"


@pytest.mark.slow
class TestFailures:
    def test_a_damaged_record_ends_the_stream_with_the_error_of_our_loader(
        self, damaged: Beton, found: dict[str, Any]
    ) -> None:
        ours = Loader(damaged, SCALE, CPU)
        with pytest.raises(RunError) as error:
            list(ours.load(in_order(COUNT, 8)))
        assert found["damaged"] == f"{DAMAGED // 8} RunError: {error.value}"

    def test_an_error_in_the_order_reaches_the_consumer(self, found: dict[str, Any]) -> None:
        assert found["order"] == "2 ZeroDivisionError: from the order"

    def test_a_stream_that_is_left_early_leaves_no_thread_behind(self, found: dict[str, Any]) -> None:
        assert found["threads"].tolist() == []

    def test_the_threads_of_torch_stay_as_they_were(self, found: dict[str, Any]) -> None:
        assert found["torch_threads"] == 2


def test_without_ffcv_the_error_says_how_to_install_it(beton: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "trainer.data.ffcv_ops", raising=False)
    for module in [name for name in sys.modules if name.split(".")[0] == "ffcv"] + ["ffcv"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"data.engine=ffcv: .*pip install '\.\[ffcv\]'.*data.engine=native"):
        FfcvLoader(beton, CenterCrop(32, 40), CPU)
