"""Makers of images, folders and archives in the layouts that `convert` reads."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

Photo = Callable[..., PIL.Image.Image]
Encode = Callable[..., bytes]
Tree = dict[str, bytes]


def make_photo(seed: int, width: int = 48, height: int = 40) -> PIL.Image.Image:
    """A smooth picture in colour with a little noise, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC)).astype(np.int16)
    return PIL.Image.fromarray(np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8))


def make_file(image: PIL.Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """An image file of this kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_tree(classes: Mapping[str, int], width: int = 48, height: int = 40) -> Tree:
    """`class/file` -> JPEG file, with a few shapes and one gray image; names do not sort by number."""
    tree, seed = {}, 0
    for name, count in classes.items():
        for i in range(count):
            photo = make_photo(seed, width + 4 * (seed % 3), height + 6 * (seed % 2))
            tree[f"{name}/{name}_{i}.JPEG"] = make_file(photo.convert("L") if seed % 7 == 5 else photo)
            seed += 1
    return tree


def write_tree(folder: Path, tree: Mapping[str, bytes]) -> Path:
    for name, data in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def make_tar(files: Mapping[str, bytes], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def make_class_tars(tree: Mapping[str, bytes]) -> bytes:
    """The layout of ILSVRC2012_img_train.tar: a tar of tars; classes and files in no particular order."""
    classes: dict[str, Tree] = {}
    for name, data in reversed(list(tree.items())):
        class_name, file_name = name.split("/")
        classes.setdefault(class_name, {})[file_name] = data
    return make_tar({f"{name}.tar": make_tar(files) for name, files in classes.items()})


def run_data_prep(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


@pytest.fixture(scope="session")
def photo() -> Photo:
    return make_photo


@pytest.fixture(scope="session")
def encoded() -> Encode:
    return make_file


@pytest.fixture(scope="session")
def tree() -> Callable[..., Tree]:
    return make_tree


@pytest.fixture(scope="session")
def write() -> Callable[[Path, Mapping[str, bytes]], Path]:
    return write_tree


@pytest.fixture(scope="session")
def tar() -> Callable[..., bytes]:
    return make_tar


@pytest.fixture(scope="session")
def class_tars() -> Callable[[Mapping[str, bytes]], bytes]:
    return make_class_tars


@pytest.fixture(scope="session")
def cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m data_prep` in a process of its own."""
    return run_data_prep
