"""This project's training step, the object that the loop uses, on batches that lie on the device and on a beton's."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import asdict
from typing import Final

import numpy as np
import torch

from trainer.bench.step.clock import seconds_of
from trainer.bench.step.contest import Contest
from trainer.data.colour import IMAGENET, Preprocess
from trainer.data.dataset import colour_of, read_ahead, training_order
from trainer.data.loader import Batch
from trainer.data.readahead import reading_ahead
from trainer.models import create_model
from trainer.plan.cost import NetworkCost
from trainer.plan.network import network_cost
from trainer.run_data import native_loader
from trainer.step import TrainingStep, should_compile

LR: Final = 1e-6
"""The weights stay finite, however often."""


class Ours:
    """`TrainingStep` on one batch of bytes that lies on the device.

    Attributes:
        cost: of its network.
        compiled: whether the network is.
        notes: what the step told of.
    """

    def __init__(self, contest: Contest) -> None:
        recipe, device = contest.recipe, contest.device
        self.cost: NetworkCost = network_cost(recipe.model, contest.size, contest.classes)
        self.notes: list[str] = []
        module = create_model(num_classes=contest.classes, **asdict(recipe.model))
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        statistics, mean_image = colour_of(recipe, contest.data) if contest.data is not None else (IMAGENET, None)
        preprocess = Preprocess(statistics, recipe.data.colour, mean_image).to(device)
        self.step = TrainingStep(recipe, module, preprocess, contest.accelerator, self.notes.append)
        module.train()
        self.device, self._wants_compiling = device, should_compile(recipe, device)
        self.batch = synthetic_batch(contest)

    @property
    def compiled(self) -> bool:
        return self._wants_compiling and not self.notes

    def seconds(self, steps: int) -> float:
        """Of so many steps, the device waited for before and after."""
        return seconds_of(lambda: self.run(steps), self.device)

    def run(self, steps: int) -> None:
        for position in range(steps):
            self.step(self.batch, position * len(self.batch.labels), LR)


class OursWithData:
    """The same step on batches that our loader makes of the beton, in the recipe's crops and order.

    Every repetition reads the same images, which are in the page cache from the first on. The loader begins anew in
    each, so that it does nothing while others are measured; what it makes ahead of the first timed step is used up
    untimed, and it goes on to work for steps that are not done: a repetition is a piece out of the middle of training.
    """

    def __init__(self, contest: Contest, ours: Ours) -> None:
        assert contest.data is not None
        self._recipe, self._data, self._ours = contest.recipe, contest.data, ours
        statistics, _ = colour_of(contest.recipe, contest.data)
        self._loader = native_loader(contest.recipe, contest.data, statistics, contest.device)
        self._order = training_order(contest.recipe, contest.data)
        self.cost, self.notes = ours.cost, ours.notes

    @property
    def compiled(self) -> bool:
        return self._ours.compiled

    def seconds(self, steps: int) -> float:
        """Of so many steps, the device waited for before and after."""
        batch, ahead = self._recipe.optimizer.global_batch, self._loader.prefetch + 1
        order = self._order.batches(0, (steps + 2 * ahead) * batch, batch, 0, 1)
        with (
            reading_ahead(read_ahead(self._recipe, self._data, self._order.chunks), order) as requests,
            contextlib.closing(self._loader.load(requests)) as batches,
        ):
            self._run(itertools.islice(batches, ahead))
            return seconds_of(lambda: self._run(itertools.islice(batches, steps)), self._ours.device)

    def _run(self, batches: itertools.islice[Batch]) -> None:
        for batch in batches:
            self._ours.step(batch, 0, LR)


def synthetic_batch(contest: Contest) -> Batch:
    """Random bytes and labels, on the device."""
    batch, size, device = contest.batch, contest.size, contest.device
    return Batch(
        images=torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8).to(device),
        labels=torch.randint(0, contest.classes, (batch,)).to(device),
        colour=torch.randn(batch, 3).to(device),
        ids=np.arange(batch),
        skipped=np.empty(0, np.int64),
        wait=0.0,
    )
