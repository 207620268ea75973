"""Data sets as `convert` makes them, from images in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.samples import Pixels, checksum_file, write_beton
from trainer.data.beton import ALLOCATION_DTYPE, HEADER_DTYPE, Beton
from trainer.data.manifest import Checksums, Manifest, Statistics, digest_of, manifest_path, mean_image_path

PAGE_SIZE = 8 << 20


def write_dataset(path: Path, images: Sequence[Pixels | bytes], labels: Sequence[int], classes: Sequence[str]) -> Path:
    """A beton with its manifest and a mean image."""
    write_beton(path, images, labels)
    mean_image = np.full((16, 16, 3), 100, np.float32)
    np.save(mean_image_path(path), mean_image)
    checksums = checksums_of(path)
    statistics = Statistics(len(images), [100.0] * 3, [50.0] * 3, [9.0, 4.0, 1.0], np.eye(3).tolist(), "mean.npy")
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    manifest = Manifest(
        len(images), list(classes), counts, {"split": "train"}, {"kind": "test"}, {}, checksums, "", statistics
    )
    manifest.digest = digest_of(checksums)
    manifest_path(path).write_text(manifest.to_json())
    return path


def checksums_of(path: Path) -> Checksums:
    """Those of a beton as it is."""
    table = int(np.fromfile(path, HEADER_DTYPE, 1)["alloc_table_ptr"][0])
    first_page = int(Beton(path).offsets.min()) // PAGE_SIZE * PAGE_SIZE
    return checksum_file(path, PAGE_SIZE, first_page, table)


def edit_manifest(beton: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON beside `beton`."""
    content = json.loads(manifest_path(beton).read_text())
    change(content)
    manifest_path(beton).write_text(json.dumps(content))


def flip_byte(path: Path, offset: int, mask: int = 0x5A) -> None:
    """Change one byte; a negative offset counts from the end."""
    with open(path, "r+b") as file:
        file.seek(offset, 0 if offset >= 0 else 2)
        place, byte = file.tell(), file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ mask]))


def allocation_table(path: Path) -> int:
    """Where it begins."""
    return path.stat().st_size - len(Beton(path)) * ALLOCATION_DTYPE.itemsize
