"""Starting on a data set of ImageNet's size: array operations only, whatever the number of records."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from xxhash import xxh3_128_hexdigest

from tests.samples import jpeg, smooth_image
from trainer.data.beton import (
    ALLOCATION_DTYPE,
    FIELD_DTYPE,
    HEADER_DTYPE,
    MODE_JPEG,
    SAMPLE_DTYPE,
    TYPE_IMAGE,
    TYPE_INT,
    VERSION,
    align_up,
    metadata_offset,
)
from trainer.data.crops import ScaleCrop
from trainer.data.dataset import Dataset, open_dataset, training_order
from trainer.data.loader import Loader
from trainer.data.manifest import Checksums, Manifest, Statistics, digest_of, manifest_path
from trainer.recipe import IMAGENET_SAMPLES, DataRecipe, Recipe

CLASSES = 1000
CHUNK = 8 << 20
CHUNKS = 500
PAGE = 512 << 10


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imagenet(tmp_path_factory.mktemp("imagenet") / "train.beton")


def write_imagenet(path: Path) -> Path:
    """A beton of as many records as ImageNet has, with a manifest of nearly as many pages.

    All records are one tiny JPEG. It lies in each of 500 chunks, with holes between that take no space.
    """
    image = jpeg(smooth_image(16, 12, 0))
    labels = np.random.default_rng(0).integers(0, CLASSES, IMAGENET_SAMPLES)
    first = align_up(metadata_offset(2) + IMAGENET_SAMPLES * SAMPLE_DTYPE.itemsize, CHUNK)
    offsets = first + np.arange(IMAGENET_SAMPLES) * CHUNKS // IMAGENET_SAMPLES * CHUNK
    table = first + CHUNKS * CHUNK
    fields = np.zeros(2, FIELD_DTYPE)
    fields["type_id"] = TYPE_IMAGE, TYPE_INT
    samples = np.zeros(IMAGENET_SAMPLES, SAMPLE_DTYPE)
    samples["f0"]["mode"], samples["f0"]["width"], samples["f0"]["height"] = MODE_JPEG, 16, 12
    samples["f0"]["data_ptr"], samples["f1"] = offsets, labels
    allocations = np.zeros(IMAGENET_SAMPLES, ALLOCATION_DTYPE)
    allocations["sample_id"], allocations["ptr"], allocations["size"] = np.arange(IMAGENET_SAMPLES), offsets, len(image)
    header = np.array((VERSION, 2, CHUNK, IMAGENET_SAMPLES, table), HEADER_DTYPE)
    head = (header.tobytes() + fields.tobytes() + samples.tobytes()).ljust(first, b"\0")
    with open(path, "wb") as file:
        file.write(head)
        for offset in range(first, table, CHUNK):
            file.seek(offset)
            file.write(image)
        file.seek(table)
        file.write(allocations.tobytes())
    counts = np.bincount(labels, minlength=CLASSES).tolist()
    pages = ["0" * 32] * ((table - first) // PAGE)
    checksums = Checksums(PAGE, xxh3_128_hexdigest(head), pages, xxh3_128_hexdigest(allocations.tobytes()))
    statistics = Statistics(1, [0.0] * 3, [1.0] * 3, [1.0] * 3, np.eye(3).tolist(), "mean.npy")
    names = [f"n{i:08}" for i in range(CLASSES)]
    manifest = Manifest(IMAGENET_SAMPLES, names, counts, {}, {}, {}, checksums, digest_of(checksums), statistics)
    manifest_path(path).write_text(manifest.to_json())
    return path


def measured(work: Callable[[], Any]) -> tuple[Any, float, int]:
    """The result of `work`, the most memory that it held in bytes a record, and how many functions it called."""
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    tracemalloc.start()
    sys.setprofile(count)
    threading.setprofile(count)  # the loader's
    try:
        result = work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return result, peak / IMAGENET_SAMPLES, calls


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_beton_is_opened_without_a_loop_over_its_records(imagenet: Path, tmp_path: Path, with_manifest: bool) -> None:
    path = imagenet
    if not with_manifest:
        path = tmp_path / "stock.beton"
        path.symlink_to(imagenet)
    data, peak, calls = measured(lambda: open_dataset(path))
    assert len(data.beton) == IMAGENET_SAMPLES
    assert len(data.classes) == CLASSES
    assert peak < 65  # the arrays that stay take 39
    assert calls < 10_000


@pytest.mark.parametrize("order", ["random", "chunked"])
def test_the_first_batch_comes_without_a_loop_over_the_records(imagenet: Path, order: str) -> None:
    data = open_dataset(imagenet)
    batch, peak, calls = measured(lambda: first_batch(data, Recipe(data=DataRecipe(order=order))))  # type: ignore[arg-type]
    assert batch.labels.tolist() == data.beton.labels[batch.ids].tolist()
    assert len(np.unique(batch.ids)) == 64
    assert peak < 65
    assert calls < 50_000


def first_batch(data: Dataset, recipe: Recipe) -> Any:
    loader = Loader(data.beton, ScaleCrop(32, 36, 48, seed=0), torch.device("cpu"), colour_seed=0)
    requests = training_order(recipe, data).batches(0, 64, 64, rank=0, world_size=1)
    return next(iter(loader.load(requests)))
