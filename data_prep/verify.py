"""`python -m data_prep verify`: whether a beton is what its manifest says, and whether every image in it decodes.

The file is read once, front to back, by threads: each takes a page, compares its checksum and decodes the images that
begin in it. Hashing and decoding release the GIL. Memory does not grow with the file, but for its table of contents.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, SupportsIndex

import numpy as np
import numpy.typing as npt

from data_prep.manifest import checksum
from data_prep.progress import ImageProgress
from data_prep.restarts import describe_restarts
from trainer.data.beton import ALLOCATION_DTYPE, HEADER_DTYPE, MODE_JPEG, Beton
from trainer.data.manifest import (
    Manifest,
    digest_of,
    load_manifest,
    load_mean_image,
    manifest_path,
    page_region,
    parts,
)
from trainer.errors import RunError, UsageError
from trainer.jpeg import DecodeError, decode

STRIDE: Final = 8 << 20
"""Bytes a task takes where no manifest tells the pages."""

SampleIds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Region:
    """Part of the file: its bytes, and the images that begin in it."""

    name: str
    start: int
    end: int
    checksum: str | None
    """What the manifest says; None if it says nothing."""
    samples: SampleIds


def verify(path: Path, workers: int) -> list[str]:
    """All that is wrong with a beton, a line each, in the order of the file; an empty list if it is sound.

    Checked are: the table of contents; that records lie within the file and apart from each other; that each JPEG
    decodes completely, to the size that its metadata states; and, if there is a manifest, the checksum of every byte,
    the digest, the number of images of each class, and that the mean image can be read.

    Args:
        workers: threads.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    problems: list[str] = []
    beton: Beton | None = None
    manifest: Manifest | None = None
    with _noted(problems):
        manifest = load_manifest(path)
    with _noted(problems):
        beton = Beton(path)
    if beton is not None:
        problems += _overlaps(beton)
    if manifest is not None:
        problems += _contradictions(path, beton, manifest)
    with open(path, "rb", buffering=0) as file:
        regions, note = _regions(file.fileno(), beton, manifest)
        return problems + note + _check_regions(file.fileno(), regions, beton, workers)


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    """Opening a file ends with an error for people, which is one problem of several here."""
    try:
        yield
    except UsageError as error:
        # Advice follows the semicolon; when it says to run this very command, it is of no use here.
        problems.append(str(error).rsplit("; check it with", 1)[0])


# --------------------------------------------------------------------------------------------------- what tables say


def _overlaps(beton: Beton) -> list[str]:
    order = np.argsort(beton.offsets, kind="stable")
    starts = beton.offsets[order]
    inside = np.flatnonzero(starts[1:] < starts[:-1] + beton.sizes[order][:-1])
    return [f"{_describe(beton, order[i + 1])}: overlaps {_describe(beton, order[i])}" for i in inside]


def _contradictions(path: Path, beton: Beton | None, manifest: Manifest) -> list[str]:
    """Where the manifest disagrees with itself, with the files beside it, or with the labels."""
    problems = []
    digest = digest_of(manifest.checksums)
    if digest != manifest.digest:
        problems.append(f"manifest: its digest is {manifest.digest}, that of its checksums {digest}")
    with _noted(problems):
        load_mean_image(path)
    if beton is None:
        return problems
    if len(beton) != manifest.num_samples:
        problems.append(f"the file has {len(beton)} images, its manifest says {manifest.num_samples}")
    classes = len(manifest.classes)
    for sample in np.flatnonzero((beton.labels < 0) | (beton.labels >= classes)):
        problems.append(f"{_describe(beton, sample)}: there are {classes} classes")
    counts = np.bincount(beton.labels[(beton.labels >= 0) & (beton.labels < classes)], minlength=classes)
    for label in np.flatnonzero(counts != manifest.counts):
        name, stated = manifest.classes[label], manifest.counts[label]
        problems.append(f"class {label} ({name}): {counts[label]} images, the manifest says {stated}")
    return problems


# ------------------------------------------------------------------------------------------------------------ regions


def _regions(fd: int, beton: Beton | None, manifest: Manifest | None) -> tuple[list[_Region], list[str]]:
    """The whole file, in parts, and a line if it is too short or too long."""
    length = os.fstat(fd).st_size
    problems: list[str] = []
    rows: list[tuple[str, int, int, str]] | list[tuple[str, int, int, None]]
    if manifest is None:
        rows = [("", start, min(start + STRIDE, length), None) for start in range(0, length, STRIDE)]
    else:
        first_page, table = _page_region(fd, length, manifest)
        stated = table + manifest.num_samples * ALLOCATION_DTYPE.itemsize
        if stated != length:
            problems.append(f"the file has {length} bytes, it should have {stated}")
            length = max(length, stated)
        rows = parts(manifest.checksums, first_page, table, length)
    groups = _samples_by_region(beton, [start for _, start, _, _ in rows])
    return [_Region(*row, group) for row, group in zip(rows, groups, strict=True)], problems


def _page_region(fd: int, length: int, manifest: Manifest) -> tuple[int, int]:
    """Where the pages begin and end: by the header if it is sound, else by the length of the file."""
    layout = (manifest.num_samples, len(manifest.checksums.pages), manifest.checksums.page_size)
    header = os.pread(fd, HEADER_DTYPE.itemsize, 0)
    if len(header) == HEADER_DTYPE.itemsize:
        table = int(np.frombuffer(header, HEADER_DTYPE)[0]["alloc_table_ptr"])
        stated = table + manifest.num_samples * ALLOCATION_DTYPE.itemsize
        first_page, _ = page_region(stated, *layout)
        if 0 <= first_page <= length and checksum(fd, 0, first_page) == manifest.checksums.head:
            return first_page, table
    first_page, table = page_region(length, *layout)
    return max(first_page, 0), max(table, 0)


def _samples_by_region(beton: Beton | None, starts: list[int]) -> list[SampleIds]:
    if beton is None:
        return [np.empty(0, np.int64)] * len(starts)
    order = np.argsort(beton.offsets, kind="stable")
    return np.split(order, np.searchsorted(beton.offsets[order], starts[1:]))


def _check_regions(fd: int, regions: list[_Region], beton: Beton | None, workers: int) -> list[str]:
    problems: list[str] = []
    done = bad = 0
    threads = ThreadPoolExecutor(workers, "verify")
    try:
        with ImageProgress("verify", sum(len(region.samples) for region in regions)) as progress:
            results = threads.map(lambda region: _check_region(fd, region, beton), regions)
            for region, (damage, undecodable) in zip(regions, results, strict=True):
                problems += damage + undecodable
                done, bad = done + len(region.samples), bad + len(undecodable)
                progress.update(done, bad)
    finally:
        threads.shutdown(cancel_futures=True)
    return problems


def _check_region(fd: int, region: _Region, beton: Beton | None) -> tuple[list[str], list[str]]:
    """What is wrong with the bytes of a region, and with the images that begin in it."""
    try:
        damage = _check_bytes(fd, region, beton)
        if beton is None:
            return damage, []
        checked = (_check_image(fd, beton, sample) for sample in region.samples)
        return damage, [problem for problem in checked if problem]
    except OSError as error:
        return [f"{_where(region)}: cannot be read: {error.strerror}{_holding(region, beton)}"], []


def _check_bytes(fd: int, region: _Region, beton: Beton | None) -> list[str]:
    if region.checksum is None or checksum(fd, region.start, region.end) == region.checksum:
        return []
    what = "is not what was written (its checksum differs)"
    if os.fstat(fd).st_size < region.end:
        what = "is cut off"
    return [f"{_where(region)} {what}{_holding(region, beton)}"]


def _check_image(fd: int, beton: Beton, sample: int) -> str | None:
    if beton.modes[sample] != MODE_JPEG:
        return None  # pixels: `Beton` has compared their number with the size
    try:
        height, width, _ = decode(os.pread(fd, int(beton.sizes[sample]), int(beton.offsets[sample]))).shape
    except DecodeError as error:
        return f"{_describe(beton, sample)}: {error}"
    stated = beton.widths[sample], beton.heights[sample]
    if (width, height) == stated:
        return None
    return f"{_describe(beton, sample)}: decodes to {width}x{height}, its metadata says {stated[0]}x{stated[1]}"


# ----------------------------------------------------------------------------------------------------------- messages


def _where(region: _Region) -> str:
    return f"{region.name or 'part'} (bytes {region.start} to {region.end - 1})"


def _describe(beton: Beton, sample: SupportsIndex) -> str:
    label, size, offset = beton.labels[sample], beton.sizes[sample], beton.offsets[sample]
    return f"sample {sample} (label {label}, {size} bytes at offset {offset})"


def _holding(region: _Region, beton: Beton | None) -> str:
    if beton is None:
        return ""
    touching = (beton.offsets < region.end) & (beton.offsets + beton.sizes > region.start)
    samples = np.flatnonzero(touching)
    return f"; in it: samples {_ranges(samples)}" if len(samples) else ""


def _ranges(ids: npt.NDArray[np.int64]) -> str:
    """Ascending numbers for people: 3-7, 9."""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check a beton: every byte against the checksums of its manifest FILE.beton.json, every record against the "
        "file, every JPEG by decoding it, and the number of images of each class. Lists whatever is wrong and then "
        "exits with 1. A file of stock FFCV has no manifest: then the rest is checked."
    )
    parser.add_argument("file", type=Path, metavar="FILE.beton", help="the file to check")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one a core)")


def run(args: argparse.Namespace) -> int:
    path: Path = args.file
    workers = len(os.sched_getaffinity(0)) if args.workers is None else args.workers
    if workers < 1:
        raise UsageError(f"--workers {workers}: must be 1 or more")
    has_manifest = manifest_path(path).exists()
    if not has_manifest and path.is_file():
        print(f"{path}: no manifest {manifest_path(path).name} beside it: checksums and classes cannot be checked")
    problems = verify(path, workers)
    for problem in problems:
        print(problem)
    if problems:
        number = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
        raise RunError(f"{path}: {number}, listed above; copy the file again from a sound one, or convert it again")
    print(_praise(path, has_manifest), flush=True)
    return 0


def _praise(path: Path, has_manifest: bool) -> str:
    beton, manifest = Beton(path), load_manifest(path)
    text = f"{path}: sound: {len(beton):,} images"
    if (beton.modes == MODE_JPEG).any():
        text += f", every JPEG decodes to its stated size; {describe_restarts(beton)}"
    if manifest is not None:
        text += f"; every checksum matches; digest {manifest.digest}"
    return text
