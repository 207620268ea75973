"""`python -m data_prep convert`: a source of images to a beton, its manifest and its mean image."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from data_prep.images import Encoding, Record, Store
from data_prep.labels import read_class_file
from data_prep.manifest import versions
from data_prep.pool import map_in_order
from data_prep.progress import ImageProgress
from data_prep.sources import PixelSource, Source, open_labelling, open_source, with_classes
from data_prep.statistics import Totals
from data_prep.worker import Chunk, convert_chunk, record_bytes
from data_prep.writer import BetonWriter, atomic_files
from trainer.data.manifest import Checksums, Manifest, Statistics, digest_of, manifest_path, mean_image_path
from trainer.data.manifest_rules import check_class_names
from trainer.data.random import permutation
from trainer.errors import UsageError

TRAIN_SHORT_SIDE: Final = 480
"""The largest shorter side that the scale augmentation resizes to (section 3.4): more would never be looked at."""
DEFAULT_QUALITY: Final = 90
CHUNK_IMAGES: Final = 16
LEAST_STATISTICS: Final = 2_000
MOST_STATISTICS: Final = 10_000
STATISTICS_SHARE: Final = 8
"""One image in so many counts in the statistics, within these bounds: all of 50,000 would take as long as the rest.
Means of `n` photographs lie within some 40 / sqrt(n) levels of 255, below one level at least."""

STREAM_ORDER: Final = 1001
STREAM_STATISTICS: Final = 1002
"""Streams of random draws, apart from those of training (see `trainer.data.random`)."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """What to convert, and how. None means: by the source."""

    source: Path
    out: Path
    split: str | None = None
    devkit: Path | None = None
    val_map: Path | None = None
    classes: Path | None = None
    store: Store | None = None
    quality: int = DEFAULT_QUALITY
    max_short_side: int | None = None
    seed: int = 0
    limit: int | None = None
    workers: int = 1
    skip_bad: bool = False
    overwrite: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Convert images to OUT.beton, which training and stock FFCV read, with its manifest OUT.beton.json and the "
        "mean image OUT.beton.mean.npy. The same input and options give the same bytes, whatever --workers."
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="a folder of class folders, ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, or the folder of CIFAR-10's "
        "batches (python or binary)",
    )
    parser.add_argument("out", type=Path, metavar="OUT.beton", help="the file to write")
    what = parser.add_argument_group("what to convert")
    what.add_argument(
        "--split",
        choices=("train", "val"),
        help="train: shuffled, shorter side capped; val: in the order of the source, no cap (default: val with "
        "--devkit or --val-map, or when the name of SOURCE says val or test; else train)",
    )
    labels = what.add_mutually_exclusive_group()
    labels.add_argument(
        "--devkit", type=Path, metavar="FILE", help="ILSVRC2012_devkit_t12.tar.gz, for the labels of the validation tar"
    )
    labels.add_argument(
        "--val-map", type=Path, metavar="FILE", help="labels as lines `ILSVRC2012_val_00000001.JPEG n01751748`"
    )
    what.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names in index order, one a line (default: sorted names)"
    )
    what.add_argument("--limit", type=int, metavar="N", help="convert N images only, chosen by --seed")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of the order in the file (default %(default)s)")
    what.add_argument("--skip-bad", action="store_true", help="leave bad images out and list them in the manifest")
    how = parser.add_argument_group("how to store")
    store = how.add_mutually_exclusive_group()
    store.add_argument(
        "--lossless", action="store_true", help="keep every pixel of the JPEGs within the cap, encode only the rest"
    )
    store.add_argument(
        "--raw", action="store_true", help="store pixels, for small images (the default for CIFAR-10's batches)"
    )
    how.add_argument(
        "--quality", type=int, metavar="Q", help=f"of the JPEGs that are encoded, 4:2:0 (default {DEFAULT_QUALITY})"
    )
    how.add_argument(
        "--max-short-side",
        type=int,
        metavar="PIXELS",
        help=f"shrink larger images to this shorter side; 0: no cap (default: {TRAIN_SHORT_SIDE} for train, 0 for val)",
    )
    how.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    how.add_argument("--overwrite", action="store_true", help="replace OUT.beton")


def run(args: argparse.Namespace) -> int:
    """Convert as the command line says; 0, or an error for people."""
    convert(_options(args))
    return 0


def convert(options: Options) -> Manifest:
    """Convert a source to `options.out`, its manifest and its mean image, and print a summary.

    Raises:
        UsageError: something in the options or the source is wrong; every bad image has been listed on stderr.
        RunError: it could not be finished. Nothing is left behind in both cases.
    """
    finals = (mean_image_path(options.out), manifest_path(options.out), options.out)
    _check_target(options, finals)
    split = options.split or _infer_split(options)
    source = _open(options, split)
    store = options.store or (Store.RAW if isinstance(source, PixelSource) else Store.JPEG)
    cap = (TRAIN_SHORT_SIDE if split == "train" else 0) if options.max_short_side is None else options.max_short_side
    encoding = Encoding(store, options.quality, cap)
    order = select(len(source), split, options.seed, options.limit)
    _say(f"{len(order):,} images of {len(source.classes):,} classes, {_describe(encoding)}")
    progress = ImageProgress("convert", len(order))
    with atomic_files(*finals) as (mean_file, manifest_file, beton_file):
        with open(beton_file, "xb", buffering=1 << 20) as file, progress:
            written = _write(file, source, order, encoding, options, progress)
        _check_bad(written.bad, len(order), options.skip_bad)
        statistics, mean_image = written.totals.finish(written.same_size, finals[0].name)
        with open(mean_file, "xb") as file:
            np.save(file, mean_image)
        manifest = _manifest(options, split, encoding, source, written, statistics)
        manifest_file.write_text(manifest.to_json())
    _summarise(options.out, manifest, progress.seconds)
    return manifest


def select(count: int, split: str, seed: int, limit: int | None) -> Indices:
    """Which images of the source to convert, int64, in the order of the file: shuffled for train, else the source's."""
    chosen = permutation(count, seed, STREAM_ORDER)[:limit]
    return chosen if split == "train" else np.sort(chosen)


def statistics_images(count: int) -> int:
    """How many of `count` images count in the statistics, up to the next whole chunk."""
    return min(count, max(LEAST_STATISTICS, min(count // STATISTICS_SHARE, MOST_STATISTICS)))


# ------------------------------------------------------------------------------------------------------------ options


def _options(args: argparse.Namespace) -> Options:
    _at_least("--limit", args.limit, 1)
    _at_least("--workers", args.workers, 1)
    _at_least("--max-short-side", args.max_short_side, 0)
    if args.quality is not None and not 1 <= args.quality <= 100:
        raise UsageError(f"--quality {args.quality}: must be from 1 to 100")
    if args.raw and args.quality is not None:
        raise UsageError("--raw stores pixels: --quality does not apply")
    asked = {Store.RAW: args.raw, Store.LOSSLESS: args.lossless, Store.JPEG: args.quality is not None}
    store = next((store for store, is_asked in asked.items() if is_asked), None)
    return Options(
        source=args.source,
        out=args.out,
        split=args.split,
        devkit=args.devkit,
        val_map=args.val_map,
        classes=args.classes,
        store=store,
        quality=DEFAULT_QUALITY if args.quality is None else args.quality,
        max_short_side=args.max_short_side,
        seed=args.seed,
        limit=args.limit,
        workers=args.workers or len(os.sched_getaffinity(0)),
        skip_bad=args.skip_bad,
        overwrite=args.overwrite,
    )


def _at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{option} {value}: must be {least} or more")


def _check_target(options: Options, finals: tuple[Path, ...]) -> None:
    out = options.out
    if out.suffix != ".beton":
        raise UsageError(f"{out}: the file to write must be called NAME.beton")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: the folder {out.parent} does not exist")
    for path in finals:
        if path.is_dir():
            raise UsageError(f"{path}: is a folder, not a file to write")
        if path.exists() and not options.overwrite:
            raise UsageError(f"{path}: exists; give --overwrite to replace it")
    for stale in sorted(out.parent.glob(f".{out.name}*.partial-*")):
        _say(f"note: {stale} ({stale.stat().st_size:,} bytes) is of another conversion; if none is running, delete it")


def _infer_split(options: Options) -> str:
    if options.devkit or options.val_map:
        split, reason = "val", "it has labels of its own"
    else:
        name = options.source.resolve().name
        says_val = re.search(r"(?<![a-z])(val|valid|validation|test)(?![a-z])", name.lower())
        split, reason = ("val", f"by the name {name!r}") if says_val else ("train", "the default")
    _say(f"split: {split} ({reason}; --split decides otherwise)")
    return split


def _open(options: Options, split: str) -> Source:
    classes = read_class_file(options.classes) if options.classes else None
    labelling = open_labelling(options.devkit, options.val_map)
    _say(f"listing {options.source}")
    source = open_source(options.source, split, labelling)
    for note in source.notes:
        _say(f"note: {note}")
    if classes and options.classes:
        source = with_classes(source, classes, options.classes)
    try:
        check_class_names(source.classes)
    except ValueError as error:
        raise UsageError(f"{options.classes or options.source}: {error}; rename it") from None
    return source


# ------------------------------------------------------------------------------------------------------------ writing


@dataclass
class _Written:
    """What is known once the beton is written."""

    checksums: Checksums
    totals: Totals
    labels: Indices
    same_size: bool
    bad: list[dict[str, str]]
    bytes_read: int
    why_lossy: Counter[str]


def _write(
    file: BinaryIO, source: Source, order: Indices, encoding: Encoding, options: Options, progress: ImageProgress
) -> _Written:
    totals, bad, bytes_read, why_lossy = Totals(), list[dict[str, str]](), 0, Counter[str]()

    def describe(chunk: Chunk) -> str:
        last = chunk.start + len(chunk.items) - 1
        return f"images {chunk.start} to {last} ({source.names[order[chunk.start]]} to {source.names[order[last]]})"

    chunks = _chunks(source, order, encoding, options.seed)
    workers = min(options.workers, -(-len(order) // CHUNK_IMAGES))
    with (
        closing(BetonWriter(file, len(order))) as writer,
        closing(map_in_order(convert_chunk, chunks, workers, record_bytes, describe)) as results,
    ):
        for chunk, converted in results:
            totals.merge(converted.totals)
            bytes_read += converted.bytes_read
            why_lossy += converted.why_lossy
            for place, record in enumerate(converted.records, chunk.start):
                index = order[place]
                if not isinstance(record, Record):
                    bad.append({"name": source.names[index], "reason": record})
                elif not bad or options.skip_bad:
                    writer.append(record, source.labels[index])
            progress.update(chunk.start + len(chunk.items), len(bad))
        checksums = writer.finish()
    images = writer.samples["f0"]
    same_size = bool(
        (images["width"] == images["width"][:1]).all() and (images["height"] == images["height"][:1]).all()
    )
    return _Written(checksums, totals, writer.samples["f1"], same_size, bad, bytes_read, why_lossy)


def _chunks(source: Source, order: Indices, encoding: Encoding, seed: int) -> Iterator[Chunk]:
    # The pixels of photographs are large: one at a time keeps the memory small.
    large = encoding.store is Store.RAW and not 0 < encoding.max_short_side <= TRAIN_SHORT_SIDE
    size = 1 if large and not isinstance(source, PixelSource) else CHUNK_IMAGES
    starts = range(0, len(order), size)
    # Whole chunks, since sums are sent by the chunk. In a training set, which is shuffled, any images are as good.
    sampled = np.zeros(len(starts), np.bool_)
    sampled[permutation(len(starts), seed, STREAM_STATISTICS)[: -(-statistics_images(len(order)) // size)]] = True
    for start, in_sample in zip(starts, sampled.tolist(), strict=True):
        items = [source.item(index) for index in order[start : start + size]]
        yield Chunk(start, items, in_sample, encoding)


def _check_bad(bad: list[dict[str, str]], count: int, skip_bad: bool) -> None:
    for image in bad:
        _say(f"bad image: {image['name']}: {image['reason']}")
    if len(bad) == count:
        raise UsageError(f"all of the {count} images are bad")
    if bad and not skip_bad:
        raise UsageError(
            f"{len(bad)} of {count} images are bad, as listed above; nothing was written. Mend or remove them, or "
            "leave them out with --skip-bad"
        )


def _manifest(
    options: Options, split: str, encoding: Encoding, source: Source, written: _Written, statistics: Statistics
) -> Manifest:
    return Manifest(
        num_samples=len(written.labels),
        classes=source.classes,
        counts=np.bincount(written.labels, minlength=len(source.classes)).tolist(),
        options={
            "split": split,
            "store": encoding.store.value,
            "quality": encoding.quality,
            "max_short_side": encoding.max_short_side,
            "seed": options.seed,
            "limit": options.limit,
            "skip_bad": options.skip_bad,
        },
        source={
            "kind": source.kind,
            "name": options.source.resolve().name,
            "images": len(source),
            "bytes_read": written.bytes_read,
            "notes": source.notes,
            "not_lossless": dict(sorted(written.why_lossy.items())),
        },
        versions=versions(),
        checksums=written.checksums,
        digest=digest_of(written.checksums),
        statistics=statistics,
        skipped=written.bad,
    )


# ----------------------------------------------------------------------------------------------------------- messages


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _describe(encoding: Encoding) -> str:
    cap = f"shorter side up to {encoding.max_short_side}" if encoding.max_short_side else "no cap on the size"
    how = {
        Store.JPEG: f"stored as JPEG of quality {encoding.quality}",
        Store.LOSSLESS: f"JPEGs kept losslessly, the rest encoded at quality {encoding.quality}",
        Store.RAW: "stored as pixels",
    }
    return f"{how[encoding.store]}, {cap}"


def _summarise(out: Path, manifest: Manifest, seconds: float) -> None:
    length = out.stat().st_size
    print(
        f"{out}: {manifest.num_samples:,} images, {len(manifest.classes):,} classes, {length / 1e6:,.1f} MB "
        f"in {seconds:.1f} s ({manifest.num_samples / seconds:,.0f} images/s)"
    )
    not_lossless: dict[str, int] = manifest.source["not_lossless"]
    if not_lossless:
        reasons = "; ".join(f"{reason}: {count:,}" for reason, count in not_lossless.items())
        quality = manifest.options["quality"]
        print(f"{sum(not_lossless.values()):,} images not kept losslessly but encoded at quality {quality} ({reasons})")
    if manifest.skipped:
        print(f"{len(manifest.skipped):,} bad images left out, listed in {manifest_path(out)}")
    print(f"digest {manifest.digest}", flush=True)
