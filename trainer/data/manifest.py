"""The manifest `NAME.beton.json` beside a beton: what the format itself cannot say. Its one definition.

`data_prep` writes it, training and evaluation read it: class names, statistics for normalisation and the checksums
that say whether two files hold the same data.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trainer.errors import UsageError

FORMAT: Final = 2


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
    """File name, beside the manifest, of the mean image: .npy, float32, height x width x 3."""


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
    """Everything known of a beton. `digest` (SHA-256 over all checksums) identifies the data."""

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
        return json.dumps(asdict(self), indent=1) + "\n"


def manifest_path(beton: str | Path) -> Path:
    """`train.beton` -> `train.beton.json`."""
    return Path(f"{beton}.json")


def mean_image_path(beton: str | Path) -> Path:
    """`train.beton` -> `train.beton.mean.npy`."""
    return Path(f"{beton}.mean.npy")


def load_manifest(beton: str | Path) -> Manifest | None:
    """Read the manifest beside `beton`; None when there is none (a beton written by stock FFCV).

    Raises:
        UsageError: it is there but is no manifest of this format.
    """
    path = manifest_path(beton)
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot read the manifest: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UsageError(f"{path}: not a manifest of format {FORMAT} (found {found}); convert the data again")
    try:
        content["checksums"] = Checksums(**content["checksums"])
        content["statistics"] = Statistics(**content["statistics"])
        return Manifest(**content)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path}: damaged manifest: {error}") from error


def load_mean_image(beton: str | Path) -> npt.NDArray[np.float32]:
    """The mean image beside `beton`: float32 [height, width, 3], RGB in [0, 255]."""
    path = mean_image_path(beton)
    try:
        image = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot read the mean image: {error}") from error
    return np.ascontiguousarray(image, dtype=np.float32)
