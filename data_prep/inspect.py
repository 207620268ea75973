"""`python -m data_prep inspect`: what is in a beton, as tables for the terminal and a contact sheet as PNG.

Works on any beton that training can read, with a manifest or without, JPEG or raw.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_prep.restarts import describe_restarts
from data_prep.writer import atomic_files
from trainer.data.beton import MODE_JPEG, MODE_RAW, Beton
from trainer.data.manifest import Manifest, load_manifest, manifest_path
from trainer.errors import UsageError
from trainer.jpeg import DecodeError, decode

MODE_NAMES: Final = {MODE_JPEG: "JPEG", MODE_RAW: "raw"}
BAR_WIDTH: Final = 40
MAX_BINS: Final = 12
NICE_BIN_WIDTHS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
ASPECT_EDGES: Final = (0.0, 0.5, 0.7, 0.95, 1.05, 1.45, 2.0, np.inf)
ASPECT_NAMES: Final = ("below 0.5", "0.5 - 0.7", "0.7 - 0.95", "square", "1.05 - 1.45", "1.45 - 2", "above 2")

Numbers = npt.NDArray[np.int64]


# ------------------------------------------------------------------------------------------------------------- tables


def tables(beton: Beton, manifest: Manifest | None) -> list[Table]:
    """All that is known of a beton without decoding an image."""
    shorter = np.minimum(beton.widths, beton.heights).astype(np.int64)
    found = [_overview(beton, manifest), _quantities(beton, shorter)]
    found.append(_histogram("shorter side, pixels", *_bins(shorter)))
    aspect = np.histogram(beton.widths / beton.heights, ASPECT_EDGES)[0]
    found.append(_histogram("aspect ratio, width / height", list(ASPECT_NAMES), aspect))
    found.append(_classes(beton, manifest))
    if manifest is not None:
        found.append(_statistics(manifest))
    return found


def _table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.min_width = len(title)  # or rich folds it to the width of a narrow table
    table.show_header = bool(columns)
    for i, column in enumerate(columns or ("", "")):
        table.add_column(column, justify="right" if columns and i else "left", overflow="fold")
    return table


def _overview(beton: Beton, manifest: Manifest | None) -> Table:
    modes, counts = np.unique(beton.modes, return_counts=True)
    table = _table(str(beton.path))
    table.add_row("file", f"{_bytes(beton.path.stat().st_size)}, pages of {_bytes(beton.page_size)}")
    table.add_row("images", ", ".join(f"{n:,} {MODE_NAMES[mode]}" for mode, n in zip(modes, counts, strict=True)))
    if restarts := describe_restarts(beton):
        table.add_row("JPEGs", restarts)
    if manifest is None:
        table.add_row("manifest", f"none ({manifest_path(beton.path).name} is not there): no class names, no checksums")
        return table
    names = manifest.classes
    shown = names if len(names) <= 10 else [*names[:5], "...", names[-1]]
    table.add_row("classes", f"{len(names):,}: {', '.join(shown)}")
    table.add_row("options", _pairs(manifest.options))
    table.add_row("source", _pairs(manifest.source))
    table.add_row("versions", _pairs(manifest.versions))
    table.add_row("digest", manifest.digest)
    skipped = f"{len(manifest.skipped):,}"
    if manifest.skipped:
        first = manifest.skipped[0]
        skipped += f" bad images left out, e.g. {_printable(first['name'])}: {_printable(first['reason'])}"
    table.add_row("skipped", skipped)
    return table


def _pairs(mapping: Mapping[str, object]) -> str:
    return ", ".join(
        f"{_printable(name)}: {_value(value)}" for name, value in mapping.items() if value not in (None, [], {}, "")
    )


def _value(value: object) -> str:
    if isinstance(value, dict):
        value = [f"{name}: {part}" for name, part in value.items()]
    return _printable("; ".join(map(str, value)) if isinstance(value, list) else str(value))


def _printable(text: str) -> str:
    """Without what would command a terminal: names of files, and manifests from elsewhere, may hold anything."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _quantities(beton: Beton, shorter: Numbers) -> Table:
    table = _table("an image", "", "min", "median", "max", "total")
    rows: dict[str, npt.NDArray[Any]] = {
        "bytes": beton.sizes,
        "width": beton.widths,
        "height": beton.heights,
        "shorter side": shorter,
    }
    for name, values in rows.items():
        total = _bytes(int(values.sum())) if name == "bytes" else ""
        table.add_row(name, f"{values.min():,}", f"{np.median(values):,.0f}", f"{values.max():,}", total)
    return table


def _bins(values: Numbers) -> tuple[list[str], Numbers]:
    """Bins of one round width that cover all values: their names and how many values are in each."""
    low, high = int(values.min()), int(values.max())
    width = next(width for width in NICE_BIN_WIDTHS if high // width - low // width < MAX_BINS)
    counts = np.bincount(values // width - low // width)
    starts = (low // width + np.arange(len(counts))) * width
    return [str(start) if width == 1 else f"{start} - {start + width - 1}" for start in starts], counts


def _histogram(title: str, names: list[str], counts: Numbers) -> Table:
    table = _table(title, "", "images", "share")
    table.add_column("", justify="left", no_wrap=True)
    total, most = int(counts.sum()), int(counts.max())
    for name, count in zip(names, counts.tolist(), strict=True):
        table.add_row(name, f"{count:,}", f"{count / total:.1%}", Text(_bar(count / most), style="cyan"))
    return table


def _bar(share: float) -> str:
    """`share` of BAR_WIDTH to an eighth of a character; whatever is not zero can be seen."""
    eighths = max(round(share * BAR_WIDTH * 8), 1 if share else 0)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _classes(beton: Beton, manifest: Manifest | None) -> Table:
    labels, counts = np.unique(beton.labels, return_counts=True)
    if manifest is not None and labels[0] >= 0 and labels[-1] < len(manifest.classes):
        labels = np.arange(len(manifest.classes))
        counts = np.bincount(beton.labels, minlength=len(labels))
    names = class_names(labels, manifest)
    order = np.argsort(counts, kind="stable")
    table = _table(f"images a class ({len(labels):,} classes)", "", "images", "class")
    for what, place in (("min", order[0]), ("median", order[len(order) // 2]), ("max", order[-1])):
        table.add_row(what, f"{counts[place]:,}", names[place])
    return table


def class_names(labels: Numbers, manifest: Manifest | None) -> list[str]:
    """A name for each label: the manifest's, else "class 7"."""
    known = manifest.classes if manifest is not None else []
    return [known[label] if 0 <= label < len(known) else f"class {label}" for label in labels.tolist()]


def _statistics(manifest: Manifest) -> Table:
    statistics = manifest.statistics
    table = _table(f"colour in [0, 255], of {statistics.images:,} centre crops", "", "R", "G", "B", "√eigenvalue")
    table.add_row("mean", *(f"{value:.2f}" for value in statistics.mean))
    table.add_row("standard deviation", *(f"{value:.2f}" for value in statistics.std))
    for i, eigenvalue in enumerate(statistics.eigenvalues):
        vector = (f"{row[i]:+.4f}" for row in statistics.eigenvectors)
        table.add_row(f"eigenvector {i + 1}", *vector, f"{max(eigenvalue, 0.0) ** 0.5:.2f}")
    return table


def _bytes(count: int) -> str:
    """1536 -> '1.5 KiB'."""
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:,.0f} {unit}" if unit == "bytes" or size == int(size) else f"{size:,.1f} {unit}"


# ------------------------------------------------------------------------------------------------------ contact sheet

COLUMNS: Final = 8
CELL: Final = 168
CAPTION: Final = 24
GAP: Final = 12
HEADER: Final = 56
BACKGROUND: Final = "#16181d"
FRAME: Final = "#22252c"
BRIGHT: Final = "#f0f2f5"
DIM: Final = "#9aa3b2"
ALARM: Final = "#ff7b72"


def choose(labels: Numbers, count: int, seed: int) -> Numbers:
    """Up to `count` samples, int64, sorted by label: random ones, from as many classes as evenly as there are."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    shuffled = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, sizes = np.unique(labels[shuffled], return_index=True, return_counts=True)
    turn = np.arange(len(labels)) - np.repeat(starts, sizes)
    rank_of_class = np.repeat(rng.permutation(len(starts)), sizes)
    chosen = shuffled[np.lexsort((rank_of_class, turn))[:count]]
    return chosen[np.lexsort((chosen, labels[chosen]))]


def contact_sheet(beton: Beton, names: list[str], samples: Numbers) -> tuple[Image.Image, int]:
    """A grid of thumbnails, and how many of the samples do not decode (their places say so).

    Args:
        names: a caption for each sample.
        samples: which images, in the order of the grid.
    """
    columns = min(COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    size = GAP + columns * (CELL + GAP), HEADER + rows * (CELL + CAPTION + GAP) + GAP
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    title, font = ImageFont.load_default(20), ImageFont.load_default(14)
    draw.text((GAP, HEADER // 2), _fit(beton.path.name, title, size[0] - 2 * GAP), BRIGHT, title, "lm")
    about = f"{len(samples):,} of {len(beton):,} images"
    if draw.textlength(beton.path.name, title) + draw.textlength(about, font) < size[0] - 4 * GAP:
        draw.text((size[0] - GAP, HEADER // 2), about, DIM, font, "rm")
    failures = 0
    for place, (sample, name) in enumerate(zip(samples.tolist(), names, strict=True)):
        left = GAP + place % columns * (CELL + GAP)
        top = HEADER + place // columns * (CELL + CAPTION + GAP)
        draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), FRAME)
        try:
            thumbnail = _thumbnail(beton, sample)
            sheet.paste(thumbnail, (left + (CELL - thumbnail.width) // 2, top + (CELL - thumbnail.height) // 2))
        except DecodeError:
            failures += 1
            draw.text((left + CELL // 2, top + CELL // 2), "does not decode", ALARM, font, "mm")
        draw.text((left + CELL // 2, top + CELL + CAPTION // 2), _fit(name, font, CELL), DIM, font, "mm")
    return sheet, failures


def _thumbnail(beton: Beton, sample: int) -> Image.Image:
    record = beton.record(sample)
    width, height = int(beton.widths[sample]), int(beton.heights[sample])
    if beton.modes[sample] == MODE_JPEG:
        image = Image.fromarray(decode(record))
    else:
        image = Image.frombytes("RGB", (width, height), bytes(record))
    scale = CELL / max(image.size)
    # Tiny images (CIFAR) are magnified as they are: their pixels are what one wants to see.
    kernel = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    return image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)), kernel)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Text no wider than `width` pixels, shortened in its middle."""
    if font.getlength(text) <= width:
        return text
    keep = len(text) - 1
    while keep > 2 and font.getlength(shortened := f"{text[: keep // 2]}…{text[-(keep // 2) :]}") > width:
        keep -= 1
    return shortened


# ------------------------------------------------------------------------------------------------------------ command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show what is in a beton: size, resolutions, classes and statistics as tables, and a contact sheet of images "
        "as PNG. Works on files of stock FFCV too."
    )
    parser.add_argument("file", type=Path, metavar="FILE.beton", help="the file to look into")
    parser.add_argument(
        "--sheet", type=Path, metavar="OUT.png", help="where to put the contact sheet (default: FILE.contact-sheet.png)"
    )
    parser.add_argument(
        "--samples", type=int, default=40, metavar="N", help="images on the sheet; 0: no sheet (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the choice of images (default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    path: Path = args.file
    if args.samples < 0 or args.seed < 0:
        raise UsageError(f"--samples {args.samples} --seed {args.seed}: must not be negative")
    sheet_path: Path = args.sheet or path.with_name(f"{path.stem}.contact-sheet.png")
    if sheet_path.suffix.lower() != ".png":
        raise UsageError(f"--sheet {sheet_path}: the sheet is a PNG: name it NAME.png")
    if not sheet_path.parent.is_dir():
        raise UsageError(f"--sheet {sheet_path}: the folder {sheet_path.parent} does not exist")
    beton, manifest = Beton(path), load_manifest(path)
    # Lines of text in a file or a pipe should not be folded at the 80 columns of a terminal that is not there.
    width = None if "COLUMNS" in os.environ or Console().is_terminal else 160
    console = Console(width=width, markup=False, emoji=False)  # names of classes may look like either
    for table in tables(beton, manifest):
        console.print(table)
    if args.samples:
        samples = choose(beton.labels, args.samples, args.seed)
        sheet, failures = contact_sheet(beton, class_names(beton.labels[samples], manifest), samples)
        with atomic_files(sheet_path) as (partial,):
            sheet.save(partial, "PNG")
        console.print(f"contact sheet: {sheet_path}", markup=False, highlight=False, soft_wrap=True)
        if failures:
            print(f"{failures} of {len(samples)} images on it do not decode; see `python -m data_prep verify {path}`")
    return 0
