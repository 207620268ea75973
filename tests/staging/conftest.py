"""Betons of several pages, and processes that stage them slowly enough to be interrupted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from data_prep.images import Record
from data_prep.writer import BetonWriter
from tests.faults.trainers import until
from tests.samples import PYTHON, REPOSITORY
from trainer.data.beton import MODE_RAW
from trainer.data.manifest import Manifest, Statistics, digest_of, manifest_path, mean_image_path
from trainer.staging.folder import PARTIAL

SIDE = 1000
IMAGES = 4
PAGES = 2
"""Of 8 MiB, two images of 3 MB each in one."""

Beton = Callable[..., Path]
Start = Callable[..., "subprocess.Popen[str]"]

STAGE = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
from trainer.staging import copying, holding
copying.BLOCK, holding.POLL_SECONDS = int(sys.argv.pop(1)), 0.01
from trainer.__main__ import main
sys.exit(main(["stage", *sys.argv[1:]]))
"""

SLOWLY = 100
"""Bytes a block: some seconds a page."""


def make_beton(path: Path, seed: int = 0, *, manifest: bool = True) -> Path:
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        writer = BetonWriter(file, IMAGES)
        for i in range(IMAGES):
            writer.append(Record(MODE_RAW, SIDE, SIDE, rng.bytes(SIDE * SIDE * 3)), i % 2)
        checksums = writer.finish()
    assert len(checksums.pages) == PAGES
    if manifest:
        np.save(mean_image_path(path), np.zeros((4, 4, 3), np.float32))
        statistics = Statistics(IMAGES, [0.0] * 3, [1.0] * 3, [1.0] * 3, np.eye(3).tolist(), mean_image_path(path).name)
        written = Manifest(IMAGES, ["a", "b"], [2, 2], {}, {}, {}, checksums, digest_of(checksums), statistics)
        manifest_path(path).write_text(written.to_json())
    return path


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.beton, with its manifest and mean image; to be read only."""
    return make_beton(tmp_path_factory.mktemp("sound") / "train.beton")


@pytest.fixture
def own(sound: Path, tmp_path: Path) -> Path:
    """A copy of `sound` that a test may change."""
    shutil.copytree(sound.parent, tmp_path / "own")
    return tmp_path / "own" / sound.name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where to stage to."""
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def start() -> Iterator[Start]:
    """`python -m trainer stage`, with blocks of so many bytes, in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start_process(block: int, *words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [PYTHON, "-c", STAGE, str(block), *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start_process
    for process in started:
        process.kill()
        process.communicate()


def await_partial(folder: Path) -> Path:
    """Wait until somebody is copying into `folder`."""
    until(lambda: any(path.stat().st_size for path in folder.glob(f"staged-beton-*/{PARTIAL}")))
    return next(folder.glob("staged-beton-*"))


def flip_byte(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x5A]))
