"""The data: whether the betons open and go with the recipe, how fast their disk is, how fast they decode."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch

from trainer.cgroup import default_threads, free_memory
from trainer.data.beton import Beton
from trainer.data.dataset import (
    Dataset,
    check_same_classes,
    check_training_crops,
    open_dataset,
    training_crops,
    training_order,
)
from trainer.data.loader import Loader
from trainer.data.manifest import manifest_path
from trainer.data.order import Request
from trainer.doctor.check import Check, fail, ok, reason, size, unseen, warn
from trainer.doctor.disk import Rate, judge_disk, read_rate
from trainer.doctor.machine import local_processes
from trainer.errors import RunError, UsageError
from trainer.recipe import Recipe

DECODED_IMAGES: Final = 256
DECODING_SECONDS: Final = 1.0
"""So many images are decoded, again and again, for so long."""


@dataclass
class Data:
    """The betons of a run, as far as they can be opened."""

    checks: list[Check] = field(default_factory=list)
    opened: dict[str, Dataset] = field(default_factory=dict)
    """By role: `train data`, `val data`, or `data` and a number."""

    @property
    def betons(self) -> list[Beton]:
        """Every file once."""
        return list({data.beton.path.resolve(): data.beton for data in self.opened.values()}.values())

    @property
    def facts(self) -> dict[str, str]:
        """What has to be the same on all nodes of a run."""
        return {str(data.beton.path): data.digest[:12] for data in self.opened.values()}


def open_data(recipe: Recipe | None, betons: Sequence[Path]) -> Data:
    """Open the recipe's data and the `betons`."""
    files = {"train data": Path(recipe.data.train), "val data": Path(recipe.data.val)} if recipe else {}
    files |= {f"data {number}" if len(betons) > 1 else "data": path for number, path in enumerate(betons, start=1)}
    data = Data()
    for role, path in files.items():
        try:
            opened = open_dataset(path)
        except Exception as error:  # a bug of ours, too, is no reason to leave out the rest
            data.checks.append(fail(role, reason(error), _make_it(role, path)))
        else:
            data.opened[role] = opened
            data.checks.append(_describe(role, opened))
    return data


def data_checks(recipe: Recipe | None, data: Data, data_bytes: int) -> list[Check]:
    """Reads and decodes some of the data that are open, and compares them with the recipe and the memory.

    Args:
        data_bytes: of all the run's data.
    """
    if not data.opened:
        return []
    # Before the decoding: what this process has mapped and touched cannot be dropped from memory.
    disks = {beton.path: _rate_or_error(beton.path) for beton in _one_a_disk(data.betons)}
    first = next(iter(data.opened.values()))
    decoding, speed = _decoding(recipe or Recipe(), first)
    chunked, fits = recipe is not None and recipe.data.order == "chunked", data_bytes <= free_memory()
    record = float(first.beton.sizes.mean())
    return [
        *(_agreement(recipe, data) if recipe else []),
        decoding,
        *(
            unseen("disk", rate)
            if isinstance(rate, Exception)
            else judge_disk(path.parent, rate, record, speed, fits=fits, chunked=chunked)
            for path, rate in disks.items()
        ),
    ]


def decoding_speed(recipe: Recipe, data: Dataset, threads: int) -> float:
    """Images/s that the loader's threads decode to the recipe's crops, the records being in memory.

    Raises:
        RunError: one of them does not decode; the message names it.
    """
    some = np.random.default_rng().choice(len(data.beton), min(DECODED_IMAGES, len(data.beton)), replace=False)
    request = Request(np.zeros_like(some), some)
    loader = Loader(data.beton, training_crops(recipe), torch.device("cpu"), threads=threads)
    images, began = 0, 0.0
    batches = loader.load(itertools.repeat(request))
    try:
        for number, batch in enumerate(batches):
            if number == loader.prefetch + 1:  # those before it were read from the disk, and made ahead
                began = time.perf_counter()
            elif number > loader.prefetch + 1:
                images += len(batch.ids)
                if time.perf_counter() - began > DECODING_SECONDS:
                    break
    finally:
        batches.close()
    return images / (time.perf_counter() - began)


def _rate_or_error(path: Path) -> Rate | Exception:
    try:
        return read_rate(path)
    except Exception as error:
        return error


def _one_a_disk(betons: list[Beton]) -> list[Beton]:
    """The largest beton of every file system."""
    largest = sorted(betons, key=lambda beton: beton.path.stat().st_size)
    return list({beton.path.stat().st_dev: beton for beton in largest}.values())


def _decoding(recipe: Recipe, data: Dataset) -> tuple[Check, float | None]:
    threads = (recipe.data.threads or default_threads()) * local_processes()
    try:
        speed = decoding_speed(recipe, data, threads)
    except RunError as error:
        advice = f"find all of them with `python -m data_prep verify {data.beton.path}`"
        return fail("decoding", reason(error), advice), None
    except Exception as error:
        return unseen("decoding", error), None
    found = (
        f"{speed:,.0f} images/s to {recipe.data.crop} crops of {recipe.data.size} px, {threads} thread(s) on this node"
    )
    return ok("decoding", found), speed


def _make_it(role: str, path: Path) -> str:
    setting = {"train data": ", or set data.train", "val data": ", or set data.val"}.get(role, "")
    return "" if path.exists() else f"make it with `python -m data_prep convert`{setting}"


def _describe(role: str, data: Dataset) -> Check:
    path = data.beton.path
    found = f"{path}: {len(data.beton):,} images of {len(data.classes):,} classes, {size(path.stat().st_size)}"
    if data.manifest is None:
        return warn(
            role, f"{found}; without {manifest_path(path).name}", "no class names, no checksums: convert it here"
        )
    return ok(role, f"{found}, digest {data.digest[:12]}")


def _agreement(recipe: Recipe, data: Data) -> list[Check]:
    """What training would refuse at its start."""
    if not {"train data", "val data"} <= data.opened.keys():
        return []
    train, val = data.opened["train data"], data.opened["val data"]
    try:
        check_same_classes(val, train.classes, recipe.data.train)
        check_training_crops(recipe, train)
        training_order(recipe, train)
    except UsageError as error:
        return [fail("recipe and data", reason(error))]
    return [ok("recipe and data", "classes, crops and order go together")]
