from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_prep.convert import Options, convert
from tests.faults.trainers import Trainers
from tests.samples import jpeg, smooth_image


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.beton and val.beton with their manifests: pictures of 16 px of 3 classes that differ in brightness."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 50), ("val", 21)):
        for i in range(count):
            path = folder / name / f"class{i % 3}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg((smooth_image(16, 16, i) // 3 + 80 * (i % 3)).astype(np.uint8)))
        convert(Options(folder / name, folder / f"{name}.beton"))
    return folder


@pytest.fixture
def trainers(data: Path, tmp_path: Path) -> Iterator[Trainers]:
    made = Trainers(data, tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainers]:
    """Runs `one` and `two`, on one rank and on two, which nothing happened to."""
    made = Trainers(data, tmp_path_factory.mktemp("undisturbed"))
    made.finish("one")
    made.finish("two", world_size=2)
    yield made
    made.end()


@pytest.fixture(autouse=True)
def no_shared_memory_is_left() -> Iterator[None]:
    before = set(os.listdir("/dev/shm"))
    yield
    left = {name for name in os.listdir("/dev/shm") if name not in before and not name.startswith("sem.mp-")}
    assert not left
