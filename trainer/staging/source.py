"""A beton that is to be copied, what lies beside it, and the name of its copy."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.data.beton import Beton, open_regular
from trainer.data.manifest import load_manifest, manifest_path, mean_image_path, page_region, parts
from trainer.errors import UsageError

STRIDE: Final = 8 << 20
"""Bytes of a part where no manifest tells the pages."""

_ENDS: Final = 1 << 20
"""Bytes at either end that help to tell betons without a manifest apart."""


@dataclass(frozen=True)
class Part:
    """Some bytes of the file, with their checksum as of the manifest; None without one."""

    name: str
    start: int
    end: int
    checksum: str | None

    def __str__(self) -> str:
        return f"{self.name} (bytes {self.start} to {self.end - 1})"


@dataclass(frozen=True)
class Source:
    """What a copy is made of.

    Attributes:
        path: of the beton, as it was given.
        length: bytes of the beton.
        modified: its time of modification, ns.
        parts: all of it, in order.
        side_cars: names and contents of the manifest and the mean image, as far as they are there.
        key: tells it from others of the same name: 32 digits in hex.
    """

    path: Path
    length: int
    modified: int
    parts: list[Part]
    side_cars: dict[str, bytes]
    key: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.length + sum(map(len, self.side_cars.values()))

    @staticmethod
    def of(path: Path) -> Source:
        """Look at a beton: its table of contents is read, and its manifest, but no image.

        Raises:
            UsageError: it is missing or damaged, or its manifest is, or is of other data.
        """
        Beton(path)
        manifest = load_manifest(path)
        side_cars = {}
        for beside in (manifest_path(path), mean_image_path(path)):
            if beside.exists():
                with open_regular(beside) as file:
                    side_cars[beside.name] = file.read()
        with open_regular(path) as opened:
            status = os.fstat(opened.fileno())
            length = status.st_size
            identity = [path.name.encode(), str(length).encode(), *side_cars.values()]
            if manifest is None:
                starts = range(0, length, STRIDE)
                found = [Part("part", start, min(start + STRIDE, length), None) for start in starts]
                ends = [os.pread(opened.fileno(), _ENDS, start) for start in (0, max(0, length - _ENDS))]
                identity += [str(status.st_mtime_ns).encode(), *ends]
            else:
                sums = manifest.checksums
                first_page, table = page_region(length, manifest.num_samples, len(sums.pages), sums.page_size)
                if not 0 < first_page <= table:
                    raise UsageError(
                        f"{path}: the manifest beside it is of other data ({len(sums.pages)} pages, the beton has "
                        f"{length} bytes); copy both files again, or convert again"
                    )
                found = [Part(*row) for row in parts(sums, first_page, table, length)]
        return Source(path, length, status.st_mtime_ns, found, side_cars, _key(identity))


def _key(identity: list[bytes]) -> str:
    digest = hashlib.sha256()
    for content in identity:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]
