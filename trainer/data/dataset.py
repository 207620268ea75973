"""A data set as training sees it: a beton, its class names, its identity, and what a recipe makes of it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from xxhash import xxh3_128_hexdigest

from trainer.data.beton import Beton
from trainer.data.colour import ColourStatistics, colour_statistics, mean_image_for
from trainer.data.crops import CropPolicy, PaddedCrop, RandomResizedCrop, ScaleCrop
from trainer.data.manifest import Manifest, digest_of, load_manifest, manifest_path, mean_image_path, page_region
from trainer.data.manifest_rules import MAX_CLASSES
from trainer.data.order import Chunks, TrainingOrder
from trainer.data.progressive import ProgressiveResizing
from trainer.data.readahead import ReadAhead
from trainer.data.staged import staged
from trainer.errors import UsageError
from trainer.recipe import Recipe


@dataclass(frozen=True)
class Dataset:
    """An opened beton and what is known of it."""

    beton: Beton
    manifest: Manifest | None
    """None for a beton written by stock FFCV, or for one that lost it."""
    classes: list[str]
    """Class names in index order; "0", "1", ... where there is no manifest."""
    digest: str
    """Identifies the data: the manifest's digest, or a hash of the table of contents."""

    @property
    def notice(self) -> str | None:
        """What people should know before they use it, in a line; None if there is nothing to say."""
        if self.manifest is not None:
            return None
        path = self.beton.path
        lost = mean_image_path(path).exists()
        return (
            f"{path}: no manifest {manifest_path(path).name} beside it, so its classes have no names and damage is not "
            f"found; {'its mean image is there, so copy the manifest, too' if lost else 'right for a beton of FFCV'}"
        )


def open_dataset(path: str | Path) -> Dataset:
    """Open a beton, or this node's copy of it, with its manifest, if it has one: then what training reads at once,
    everything but the images, is compared with its checksums.

    Raises:
        UsageError: either is missing, damaged, or they do not belong together.
    """
    path = staged(path)
    beton = Beton(path)
    manifest = load_manifest(path)
    if manifest is not None:
        _check_belongs(beton, manifest)
        return Dataset(beton, manifest, manifest.classes, manifest.digest)
    _check_labels(beton, MAX_CLASSES)
    highest = int(beton.labels.max())
    return Dataset(beton, None, _nameless(highest + 1), _digest_of_contents(beton))


def explain_other_data(data: Dataset, digest: str) -> str:
    """Why `data` are not those of a run that was begun with the data of `digest`, and what to do: a line."""
    path = data.beton.path
    manifest = manifest_path(path).name
    what = f"{path}: not the data that this run was begun with"
    if data.manifest is None:
        return (
            f"{what}, or without their manifest: put {manifest} back beside it if there was one, else the data that "
            "were there"
        )
    if _digest_of_contents(data.beton) == digest:
        return f"{what}: then there was no {manifest} beside it; move it away"
    return f"{what}: the digest was {digest[:12]}... and is {data.digest[:12]}...; put the data back that were there"


def _nameless(count: int) -> list[str]:
    """What stands for the names of classes where there is no manifest."""
    return [str(i) for i in range(count)]


def _digest_of_contents(beton: Beton) -> str:
    digest = hashlib.sha256()
    for array in (beton.labels, beton.offsets, beton.sizes):
        digest.update(array.data)
    return digest.hexdigest()


def _check_labels(beton: Beton, classes: int) -> None:
    for sample in (int(beton.labels.argmin()), int(beton.labels.argmax())):
        if not 0 <= beton.labels[sample] < classes:
            raise UsageError(
                f"{beton.describe(sample)}: labels are from 0 to {classes - 1}; check the file with "
                f"`python -m data_prep verify {beton.path}`"
            )


def _check_belongs(beton: Beton, manifest: Manifest) -> None:
    """Refuse a beton that is not the one which the manifest beside it is of, or is damaged where it is read first."""
    path, beside = beton.path, manifest_path(beton.path)
    if digest_of(manifest.checksums) != manifest.digest:
        raise UsageError(
            f"{beside}: damaged manifest: its digest is not that of its checksums; copy it again from a sound one, or "
            "convert the data again"
        )
    layout = manifest.num_samples, len(manifest.checksums.pages), manifest.checksums.page_size
    first_page, table = page_region(beton.length, *layout)
    if manifest.num_samples != len(beton) or not 0 < first_page <= beton.offsets.min():
        raise UsageError(
            f"{path}: the manifest beside it is of other data ({manifest.num_samples} samples in {layout[1]} pages, "
            f"the beton has {len(beton)} and {beton.length} bytes); copy both files again, or convert again"
        )
    for what, start, stop, checksum in (
        ("table of contents", 0, first_page, manifest.checksums.head),
        ("allocation table", table, beton.length, manifest.checksums.tail),
    ):
        if xxh3_128_hexdigest(beton.content(start, stop)) != checksum:
            raise UsageError(
                f"{path}: its {what} (bytes {start} to {stop - 1}) is not the one that {beside.name} is of: one of the "
                f"two is damaged or of other data; run `python -m data_prep verify {path}`, then copy both files "
                "again, or convert again"
            )
    _check_labels(beton, len(manifest.classes))
    if np.bincount(beton.labels, minlength=len(manifest.classes)).tolist() != manifest.counts:
        raise UsageError(
            f"{beside}: damaged manifest: its counts are not those of the labels; copy it again from a sound one, or "
            "convert the data again"
        )


def check_same_classes(data: Dataset, classes: list[str], trained_on: str) -> None:
    """Refuse to evaluate on other classes than a model was trained on (trap T20).

    Without a manifest there are no names to compare; then every label must have a class.

    Raises:
        UsageError: saying where the lists part.
    """
    path = data.beton.path
    if data.manifest is None:
        if len(data.classes) > len(classes):
            raise UsageError(
                f"{path}: has labels up to {len(data.classes) - 1}, {trained_on} has {len(classes)} classes"
            )
        return
    if data.classes == classes:
        return
    if classes == _nameless(len(classes)):
        raise UsageError(
            f"{path}: its classes have names, those of {trained_on} have none to compare them with; put the manifest "
            f"of the training data back beside them, or move {manifest_path(path).name} away"
        )
    if len(data.classes) != len(classes):
        raise UsageError(
            f"{path}: has {len(data.classes)} classes, {trained_on} has {len(classes)}; give data of the same classes, "
            "or if its source lacks some convert it with --classes and a list of all"
        )
    place = next(i for i, (ours, theirs) in enumerate(zip(data.classes, classes, strict=True)) if ours != theirs)
    raise UsageError(
        f"{path}: class {place} is {data.classes[place]}, in {trained_on} it is {classes[place]}; "
        "give data of the same classes, or convert it with --classes and a list in that order"
    )


def training_crops(recipe: Recipe) -> CropPolicy:
    """The recipe's training crop."""
    data = recipe.data
    if data.crop == "padded":
        return PaddedCrop(data.size, data.padding, recipe.seed, data.flip)
    if data.crop == "rrc":
        scale, ratio = (data.rrc_scale[0], data.rrc_scale[1]), (data.rrc_ratio[0], data.rrc_ratio[1])
        return RandomResizedCrop(data.size, recipe.seed, scale, ratio, data.flip)
    return ScaleCrop(data.size, data.min_side, data.max_side, recipe.seed, data.flip)


def resizing_of(recipe: Recipe) -> ProgressiveResizing | None:
    """The recipe's progressive resizing; None where all crops are of one size."""
    data = recipe.data
    if not data.first_size:
        return None
    begin, end = (recipe.samples(amount) for amount in data.ramp)
    return ProgressiveResizing(data.first_size, data.size, begin, end)


def check_training_crops(recipe: Recipe, data: Dataset) -> None:
    """Refuse padded crops that some image is too small for.

    Raises:
        UsageError: naming the first such sample.
    """
    shorter = torch.from_numpy(data.beton.widths).minimum(torch.from_numpy(data.beton.heights))
    smallest = int(shorter.min())
    if recipe.data.crop == "padded" and smallest + 2 * recipe.data.padding < recipe.data.size:
        raise UsageError(
            f"{data.beton.describe(int(shorter.argmin()))}: its shorter side of {smallest} px, padded by "
            f"{recipe.data.padding}, is below data.size={recipe.data.size}"
        )


def training_order(recipe: Recipe, data: Dataset) -> TrainingOrder:
    """The recipe's stream of samples, its batches in crops of the recipe's sizes.

    Raises:
        UsageError: it is to be read by the chunk and the file is sorted by class, so that batches would be, too.
    """
    beton = data.beton
    if recipe.data.order == "random":
        return TrainingOrder(len(beton), recipe.seed, resizing=resizing_of(recipe))
    if _sorted_by_class(beton):
        raise UsageError(
            f"{beton.path}: its records are sorted by class, with data.order=chunked batches would hold few classes; "
            "convert it with `python -m data_prep convert`, which shuffles, or take data.order=random"
        )
    chunks = Chunks.cut(beton.offsets, beton.sizes, recipe.data.chunk_mb << 20, recipe.data.window)
    return TrainingOrder(len(beton), recipe.seed, chunks, resizing_of(recipe))


def read_ahead(recipe: Recipe, data: Dataset, chunks: Chunks | None = None) -> ReadAhead | None:
    """What asks the kernel for the records to come (in whole `chunks`, if given); None if the recipe turned it off, or
    the system has no such call."""
    if recipe.data.read_ahead == 0 or not hasattr(os, "posix_fadvise"):
        return None
    # Each of several nodes needs a part of every chunk only; that their storage reads whole ones is its own affair.
    one_node = os.environ.get("WORLD_SIZE", "1") == os.environ.get("LOCAL_WORLD_SIZE", "1")
    return ReadAhead(data.beton, recipe.data.read_ahead, chunks if one_node else None)


def _sorted_by_class(beton: Beton) -> bool:
    """Whether neighbours in the file are of one class much more often than by chance."""
    labels = beton.labels[np.argsort(beton.offsets)]
    by_chance = float(np.square(np.bincount(labels) / len(labels)).sum())
    return len(labels) > 1 and float((labels[1:] == labels[:-1]).mean()) > (1.0 + by_chance) / 2


def colour_of(recipe: Recipe, data: Dataset) -> tuple[ColourStatistics, torch.Tensor | None]:
    """Statistics, and the mean image if the recipe normalises by it, for training on `data`."""
    path = str(data.beton.path)
    statistics = colour_statistics(recipe.data.statistics, data.manifest, path)
    return statistics, mean_image_for(path, recipe.data.size) if recipe.data.normalize == "mean_image" else None
