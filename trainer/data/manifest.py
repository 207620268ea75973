"""The manifest `NAME.beton.json` beside a beton: what the format itself cannot say. Its one definition.

`data_prep` writes it, training and evaluation read it: class names, statistics for normalisation and the checksums
that say whether two files hold the same data. It may come from anywhere, so nothing in it is believed before it was
checked, and no path in it is followed: the files that belong together are told by the name of the beton.

A key that this format does not have is refused, as one that is missing: a change of the keys is a change of `FORMAT`,
and whoever reads the next format should say so rather than go by half of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trainer.data import manifest_rules as rules
from trainer.data.beton import ALLOCATION_DTYPE, align_up, open_regular
from trainer.errors import RunError, UsageError

FORMAT: Final = 2

MAX_BYTES: Final = 16 << 20
"""Of a manifest. That of ImageNet has 0.7 MB, with its images as they were; most of it are checksums of pages, for
which this is room for 3.5 TB of data."""

MAX_MEAN_IMAGE_BYTES: Final = 256 << 20
"""A mean image is one of the crop's size, 224 x 224, or of whole images with a side below that."""

_NPY: Final = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d{1,5}), (\d{1,5}), 3\), \} *\n",
    re.DOTALL,
)
"""A .npy file of float32 [height, width, 3] as `np.save` writes it. Not read by NumPy, which evaluates headers."""


@dataclass
class Statistics:
    """Statistics of RGB in [0, 255] over `images` sampled images, each seen through its centre crop."""

    images: int
    mean: list[float]
    std: list[float]
    eigenvalues: list[float]
    """Of the 3x3 covariance of RGB, largest first: variances, in squared units of [0, 255]."""
    eigenvectors: list[list[float]]
    """Rows R, G, B; one column an eigenvector, in the order of the eigenvalues."""
    mean_image: str
    """The name under which the mean image was written, for people: see `mean_image_path`."""


@dataclass
class Checksums:
    """XXH3 of 128 bits, in hex, of every byte of the file: `head` is before the first page, `tail` after the last.

    Against damage, not against forgers; it keeps up with any disk, where SHA-256 may take a core for 400 MB/s.
    """

    page_size: int
    head: str
    pages: list[str]
    tail: str


@dataclass
class Manifest:
    """Everything known of a beton. `digest` (see `digest_of`) identifies the data."""

    num_samples: int
    classes: list[str]
    """Class names (wnids for ImageNet) in index order."""
    counts: list[int]
    """Samples a class."""
    options: dict[str, Any]
    source: dict[str, Any]
    versions: dict[str, str]
    checksums: Checksums
    digest: str
    statistics: Statistics
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Bad images left out under `--skip-bad`: name and reason."""
    format: int = FORMAT

    def to_json(self) -> str:
        """The content of the file.

        Raises:
            RunError: it would be larger than what is read.
        """
        text = json.dumps(asdict(self), indent=1) + "\n"
        if len(text) > MAX_BYTES:
            raise RunError(
                f"the manifest would take {len(text):,} bytes, above the {MAX_BYTES:,} that are read, as it lists "
                f"{len(self.skipped):,} bad images; mend or remove them"
            )
        return text


def manifest_path(beton: str | Path) -> Path:
    """`train.beton` -> `train.beton.json`."""
    return Path(f"{beton}.json")


def mean_image_path(beton: str | Path) -> Path:
    """`train.beton` -> `train.beton.mean.npy`: .npy, float32, height x width x 3."""
    return Path(f"{beton}.mean.npy")


def digest_of(checksums: Checksums) -> str:
    """SHA-256 in hex that identifies the data: over head, pages and tail in hex, one a line."""
    return hashlib.sha256("\n".join([checksums.head, *checksums.pages, checksums.tail]).encode("ascii")).hexdigest()


def page_region(length: int, num_samples: int, num_pages: int, page_size: int) -> tuple[int, int]:
    """Where the pages of a beton that `convert` wrote begin, and where they end and the allocation table begins.

    Args:
        length: of the file, in bytes.
        num_samples, num_pages, page_size: as the manifest and its checksums have them. The file's own header is not
            asked: it may be what is damaged. The first page cannot be computed from `num_samples`, as room was made
            for images that were skipped.
    """
    table = length - num_samples * ALLOCATION_DTYPE.itemsize
    return align_up(table, page_size) - num_pages * page_size, table


def parts(checksums: Checksums, first_page: int, table: int, length: int) -> list[tuple[str, int, int, str]]:
    """The whole file in the order of its bytes: name, start, end and checksum of the head, each page and the tail.

    Args:
        first_page, table: as of `page_region`.
        length: of the file, in bytes.
    """
    count, size = len(checksums.pages), checksums.page_size
    starts = [0, *(first_page + i * size for i in range(count)), table]
    names = ["head", *(f"page {i} of {count}" for i in range(count)), "tail"]
    sums = [checksums.head, *checksums.pages, checksums.tail]
    return list(zip(names, starts, [*starts[1:], length], sums, strict=True))


def load_manifest(beton: str | Path) -> Manifest | None:
    """Read the manifest beside `beton`; None when there is none (a beton written by stock FFCV).

    Raises:
        UsageError: it is there but is no manifest of this format, or damaged.
    """
    path = manifest_path(beton)
    try:
        content = _parse_json(_read(path, MAX_BYTES).decode())
        _check_format(path, content)
        return _manifest(content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot read the manifest: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(
            f"{path}: damaged manifest: {reason}; copy it again from a sound one, or convert the data again"
        ) from error


def load_mean_image(beton: str | Path) -> npt.NDArray[np.float32]:
    """The mean image beside `beton`: float32 [height, width, 3], RGB in [0, 255].

    Raises:
        UsageError: it is missing, or is something else.
    """
    path = mean_image_path(beton)
    try:
        return _mean_image(_read(path, MAX_MEAN_IMAGE_BYTES))
    except OSError as error:
        raise UsageError(f"{path}: cannot read the mean image: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(
            f"{path}: damaged mean image: {error}; copy it again from a sound one, or convert the data again"
        ) from error


# ------------------------------------------------------------------------------------------------------------- reading


def _read(path: Path, most: int) -> bytes:
    """All of a file.

    Raises:
        ValueError: it has more than `most` bytes.
    """
    with open_regular(path) as file:
        length = os.fstat(file.fileno()).st_size
        if length > most:
            raise ValueError(f"it has {length:,} bytes, more than the {most:,} that are read")
        return file.read(length)


def _parse_json(text: str) -> Any:
    """As `json.loads`, but keys come once, and numbers are numbers."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"key {rules.short(twice)} comes twice")
        return found

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no number")

    return json.loads(text, object_pairs_hook=members, parse_constant=constant)


def _mean_image(content: bytes) -> npt.NDArray[np.float32]:
    header = _NPY.match(content)
    if header is None or header.end() != 10 + int.from_bytes(content[8:10], "little"):
        raise ValueError("not a .npy file of float32 [height, width, 3]")
    height, width = int(header[1]), int(header[2])
    if height * width == 0 or len(content) != header.end() + height * width * 12:
        raise ValueError(f"{len(content)} bytes are not those of {width}x{height} pixels")
    image = np.frombuffer(content, "<f4", offset=header.end()).reshape(height, width, 3)
    with np.errstate(invalid="ignore"):
        fits = (image >= 0) & (image <= 255)  # which no NaN is
    if not fits.all():
        raise ValueError("pixels outside of [0, 255]")
    return image.astype(np.float32)


def _check_format(path: Path, content: Any) -> None:
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is not int or found != FORMAT:
        raise UsageError(
            f"{path}: not a manifest of format {FORMAT} (found {rules.short(found)}); convert the data again, "
            "or use the version of this project that wrote it"
        )


def _manifest(content: Any) -> Manifest:
    """The manifest that these values of JSON are.

    Raises:
        ValueError: saying which is wrong.
    """
    members = rules.members("", content, Manifest)
    checksums = Checksums(**rules.members("checksums.", members["checksums"], Checksums))
    statistics = Statistics(**rules.members("statistics.", members["statistics"], Statistics))
    manifest = Manifest(**{**members, "checksums": checksums, "statistics": statistics})
    rules.check(manifest)
    return manifest
