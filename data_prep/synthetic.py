"""A generated data set that can be learnt: an ImageFolder of JPEGs of photographic size, ten kinds of pattern.

A class is the kind of pattern that covers the image, so every crop shows it; its colours, scale, phase, slant, light
and noise are drawn at random, so neither the colours nor any single pixel say which class it is. Mirroring and zooming
keep the class. Image i of a split depends on (seed, split, i, number of classes) alone, neither on the number of
workers nor on that of images. Pixels come from additions, multiplications and square roots only, which every processor
rounds alike.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_prep.pool import map_in_order
from data_prep.progress import ImageProgress
from trainer.errors import RunError, UsageError

GENERATOR_VERSION: Final = 1
"""To be raised with any change to the pictures: a folder of another version is not the same data."""

OPTIONS_FILE: Final = "synth.json"
SPLITS: Final = ("train", "val")
CHUNK_IMAGES: Final = 25

Plane: TypeAlias = npt.NDArray[np.float32]
"""float32 [height, width], or broadcastable to it."""


# ---------------------------------------------------------------------------------------------------------- patterns
# A pattern maps the position of each pixel, in cells, to its signed distance (in cells) from the edge of the figure,
# positive inside. A position may be any real number; one cell is one repetition.


def _centred(position: Plane) -> Plane:
    """Position relative to the middle of its cell, in [-1/2, 1/2)."""
    centred = position - np.floor(position)
    centred -= np.float32(0.5)
    return centred


def _sign(rng: np.random.Generator) -> np.float32:
    return np.float32(rng.choice((-1, 1)))


def _stripe(position: Plane, rng: np.random.Generator) -> Plane:
    return np.float32(rng.uniform(0.17, 0.33)) - np.abs(_centred(position))


def _horizontal_stripes(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    return _stripe(y, rng)


def _vertical_stripes(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    return _stripe(x, rng)


def _diagonal_stripes(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    return _stripe((x + _sign(rng) * y) * np.float32(math.sqrt(0.5)), rng)


def _zigzag(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    return _stripe(y + np.float32(1.0) * np.abs(_centred(x * np.float32(0.6))), rng)


def _checkerboard(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    across, down = (np.abs(_centred(axis * np.float32(0.6))) - np.float32(0.25) for axis in (x, y))
    return np.maximum(np.minimum(across, down), -np.maximum(across, down))


def _bricks(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    across = np.float32(0.5) - np.abs(_centred(x * np.float32(0.5) + np.float32(0.5) * np.floor(y)))
    down = np.float32(0.5) - np.abs(_centred(y))
    return np.minimum(np.float32(2) * across, down) - np.float32(rng.uniform(0.08, 0.14))


def _in_cells(x: Plane, y: Plane, shift: bool) -> tuple[Plane, Plane]:
    """Positions within the cells of a square lattice, every other row shifted by half a cell or not."""
    return _centred(x + np.float32(0.5 * shift) * np.floor(y)), _centred(y)


def _radius(x: Plane, y: Plane, shift: bool) -> Plane:
    across, down = _in_cells(x, y, shift)
    return np.sqrt(across * across + down * down)


def _dots(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    return np.float32(rng.uniform(0.25, 0.32)) - _radius(x, y, shift=False)


def _rings(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    radius = _radius(x, y, shift=rng.random() < 0.5)
    return np.float32(rng.uniform(0.07, 0.1)) - np.abs(radius - np.float32(0.33))


def _crosses(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    across, down = (np.abs(axis) for axis in _in_cells(x, y, shift=False))
    thickness, length = np.float32(rng.uniform(0.08, 0.12)), np.float32(0.45)
    lying = np.minimum(length - across, thickness - down)
    return np.maximum(lying, np.minimum(length - down, thickness - across))


def _triangles(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    across, down = _in_cells(x, y, shift=True)
    inner_radius = np.float32(rng.uniform(0.25, 0.28))
    base = down * _sign(rng) - inner_radius / 2
    sides = np.float32(math.sqrt(0.75)) * np.abs(across) - np.float32(0.5) * base
    return inner_radius - np.maximum(base, sides)


PATTERNS: Final[dict[str, Callable[[Plane, Plane, np.random.Generator], Plane]]] = {
    "horizontal_stripes": _horizontal_stripes,
    "vertical_stripes": _vertical_stripes,
    "checkerboard": _checkerboard,
    "dots": _dots,
    "rings": _rings,
    "triangles": _triangles,
    "crosses": _crosses,
    "diagonal_stripes": _diagonal_stripes,
    "zigzag": _zigzag,
    "bricks": _bricks,
}
"""The classes; the first n of them make a task of n."""


# ------------------------------------------------------------------------------------------------------------ images


def render(pattern: str, rng: np.random.Generator) -> Image.Image:
    """Draw one RGB image of the class `pattern`, with sides of 352 to 512 pixels."""
    width, height = (int(side) for side in rng.integers(352, 513, 2))
    period = min(width, height) / rng.uniform(2.6, 3.8)
    x, y = _positions(width, height, period, rng)
    distance = PATTERNS[pattern](x, y, rng)
    soft_edge = rng.uniform(1.5, 4)
    inside = np.clip(distance * np.float32(period / soft_edge) + np.float32(0.5), 0, 1)
    return _paint(np.broadcast_to(inside, (height, width)), rng)


def _positions(width: int, height: int, period: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """The x [height, width] and y [height, width] of every pixel in cells: scaled, shifted and slightly turned."""
    angle = rng.uniform(-0.1, 0.1)
    cosine, sine = math.cos(angle) / period, math.sin(angle) / period
    left, top = rng.uniform(0, 64, 2)
    columns, rows = np.arange(width)[None, :], np.arange(height)[:, None]
    x = (cosine * columns + left).astype(np.float32) - (sine * rows).astype(np.float32)
    y = (sine * columns + top).astype(np.float32) + (cosine * rows).astype(np.float32)
    return x, y


def _paint(inside: Plane, rng: np.random.Generator) -> Image.Image:
    """Two colours, mixed by `inside` in [0, 1], under uneven light, with blotches and noise of the sensor."""
    height, width = inside.shape
    light = _light(width, height, rng)
    grain = rng.integers(0, 256, (height, width), np.uint8) * np.float32(rng.uniform(0.02, 0.14))
    grain += _blotches(width, height, rng) * np.float32(rng.uniform(0.05, 0.25))
    outer, inner = _two_colours(rng)
    planes, plane = [], np.empty((height, width), np.float32)
    for base, difference in zip(outer, inner - outer, strict=True):
        np.multiply(inside, difference, out=plane)
        plane += base
        plane *= light
        plane += grain
        planes.append(Image.fromarray(np.clip(plane, 0, 255, out=plane).astype(np.uint8)))
    return Image.merge("RGB", planes)


def _two_colours(rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Two RGB colours, the second brighter by 90 in luma at least, so that the pattern shows in grayscale too."""
    luma = np.array((0.299, 0.587, 0.114))
    dark = rng.uniform(20, 100)
    colours = []
    for level in (dark, rng.uniform(dark + 90, 210)):
        colour = rng.uniform(0, 160, 3)
        colours.append(np.clip(colour + level - colour @ luma, 0, 230).astype(np.float32))
    return colours[0], colours[1]


def _light(width: int, height: int, rng: np.random.Generator) -> Plane:
    """A gain that falls off linearly in a random direction, 0.75 to 1.25 at most."""
    across, down = rng.uniform(-0.125, 0.125, 2)
    columns = np.linspace(-across, across, width) + 1
    rows = np.linspace(-down, down, height)
    return columns.astype(np.float32)[None, :] + rows.astype(np.float32)[:, None]


def _blotches(width: int, height: int, rng: np.random.Generator) -> Plane:
    """Smooth random spots, larger than the pattern: [height, width] in [-128, 127]."""
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) - np.float32(128)


def encode(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A JPEG as cameras and web sites make them: quality 80 to 95; 4:2:0, one in ten 4:4:4, one in twenty grayscale."""
    quality, kind = int(rng.integers(80, 96)), rng.random()
    buffer = io.BytesIO()
    (image.convert("L") if kind < 0.05 else image).save(
        buffer, "JPEG", quality=quality, subsampling=0 if kind >= 0.9 else 2
    )
    return buffer.getvalue()


def make_image(seed: int, split: str, index: int, classes: int) -> tuple[str, bytes]:
    """Class name and JPEG of image `index` of a split. Classes take turns, so that they differ by one image at most."""
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    pattern = list(PATTERNS)[index % classes]
    return pattern, encode(render(pattern, rng), rng)


# ---------------------------------------------------------------------------------------------------------- data set


@dataclass(frozen=True)
class SynthOptions:
    """What decides the content of the data set, every byte of it."""

    train: int
    val: int
    classes: int
    seed: int
    version: int = GENERATOR_VERSION

    def check(self) -> None:
        """Raise `UsageError` for options that make no data set."""
        if not 2 <= self.classes <= len(PATTERNS):
            raise UsageError(f"--classes {self.classes}: there are 2 to {len(PATTERNS)} classes to choose from")
        for split in SPLITS:
            count = getattr(self, split)
            if count < self.classes:
                raise UsageError(f"--{split} {count}: give at least one image a class, {self.classes} or more")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: must not be negative")


def synthesise(folder: Path, options: SynthOptions, workers: int, overwrite: bool = False) -> bool:
    """Write the data set `folder`/{train,val}/CLASS/*.jpg and `folder`/synth.json, all of it or nothing.

    Returns:
        False if `folder` already holds exactly this data set, which is then left alone.

    Raises:
        UsageError: options out of range, or `folder` holds something else and `overwrite` is not given.
        RunError: a worker died or the disk refused; nothing is left behind.
    """
    options.check()
    if not overwrite and _is_complete(folder, options):
        return False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise RunError(f"{folder}: cannot write beside it: {error.strerror}") from error
    try:
        fresh = scratch / "new"
        _write_images(fresh, options, workers)
        (fresh / OPTIONS_FILE).write_text(json.dumps(asdict(options), indent=1) + "\n")
        os.sync()  # thousands of files: one call is far cheaper than an fsync each
        if folder.exists():
            folder.rename(scratch / "old")
        fresh.rename(folder)
    except OSError as error:
        raise RunError(f"{folder}: cannot write the data set: {error.strerror}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def _is_complete(folder: Path, options: SynthOptions) -> bool:
    """Whether `folder` is this data set. One that is absent or empty is not; one that is anything else is refused."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    advice = "choose another folder, or replace all of this one with --overwrite"
    try:
        found = json.loads((folder / OPTIONS_FILE).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder}: exists and is no data set of synth (no readable {OPTIONS_FILE}); {advice}"
        ) from error
    wanted = asdict(options)
    if not isinstance(found, dict) or found != wanted:
        differing = [
            f"{name} {found.get(name)}, not {value}" for name, value in wanted.items() if found.get(name) != value
        ]
        raise UsageError(f"{folder}: holds a data set with other options ({'; '.join(differing)}); {advice}")
    for split in SPLITS:
        count = sum(1 for _ in (folder / split).glob("*/*.jpg"))
        if count != wanted[split]:
            raise UsageError(f"{folder}/{split}: {count} of {wanted[split]} images are left; {advice}")
    return True


def _write_images(folder: Path, options: SynthOptions, workers: int) -> None:
    for split in SPLITS:
        for name in list(PATTERNS)[: options.classes]:
            (folder / split / name).mkdir(parents=True)
    chunks = [
        _Chunk(folder, options, split, start, min(start + CHUNK_IMAGES, getattr(options, split)))
        for split in SPLITS
        for start in range(0, getattr(options, split), CHUNK_IMAGES)
    ]
    done = 0
    with (
        closing(map_in_order(_write_chunk, chunks, workers, lambda count: count, str)) as results,
        ImageProgress("synth", options.train + options.val) as progress,
    ):
        for _, count in results:
            done += count
            progress.update(done, bad=0)


@dataclass(frozen=True)
class _Chunk:
    """Consecutive images of one split: what a worker process draws and writes in one go."""

    folder: Path
    options: SynthOptions
    split: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"images {self.start} to {self.stop - 1} of {self.split}"


def _write_chunk(chunk: _Chunk) -> int:
    """Returns the number of images written."""
    for index in range(chunk.start, chunk.stop):
        name, data = make_image(chunk.options.seed, chunk.split, index, chunk.options.classes)
        path = chunk.folder / chunk.split / name / f"{name}_{index:06d}.jpg"
        try:
            path.write_bytes(data)
        except OSError as error:
            raise RunError(f"{path}: cannot write it: {error.strerror}") from error
    return chunk.stop - chunk.start


# ----------------------------------------------------------------------------------------------------------- command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Generate a data set that a small network learns in minutes: an ImageFolder (train/CLASS/*.jpg and "
        "val/CLASS/*.jpg) of JPEGs of 352 to 512 pixels a side, whose class is the kind of pattern. The same options "
        "always give the same bytes; a folder that already holds them is left as it is."
    )
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder to create")
    parser.add_argument(
        "--train", type=int, default=2000, metavar="N", help="training images in all (default %(default)s)"
    )
    parser.add_argument(
        "--val", type=int, default=500, metavar="N", help="validation images in all (default %(default)s)"
    )
    parser.add_argument(
        "--classes", type=int, default=len(PATTERNS), metavar="N", help=f"2 to {len(PATTERNS)} (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed, other images (default %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=None, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT_DIR, whatever it holds")


def run(args: argparse.Namespace) -> int:
    options = SynthOptions(args.train, args.val, args.classes, args.seed)
    workers = len(os.sched_getaffinity(0)) if args.workers is None else args.workers
    if workers < 1:
        raise UsageError(f"--workers {workers}: must be 1 or more")
    written = synthesise(args.out_dir, options, workers, args.overwrite)
    state = "wrote" if written else "nothing to do: there already are"
    print(
        f"{args.out_dir}: {state} {options.train} training and {options.val} validation images "
        f"of {options.classes} classes, seed {options.seed}",
        flush=True,
    )
    return 0
