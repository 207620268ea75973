"""The loader of this project, as training opens it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from trainer.bench.loader.work import Pixels, Work
from trainer.data.beton import Beton
from trainer.data.loader import Loader
from trainer.data.order import Request
from trainer.data.readahead import ReadAhead, reading_ahead
from trainer.recipe import DataRecipe


class TrainerLoader:
    """`Loader` with `workers` decoding threads, reading ahead, its numbers for the colour augmentation included."""

    def __init__(self, work: Work, workers: int) -> None:
        self._work = work
        self._beton = Beton(work.beton)
        self._loader = Loader(self._beton, work.policy(), torch.device("cpu"), threads=workers, colour_seed=work.seed)
        self._read_ahead = ReadAhead(self._beton, DataRecipe().read_ahead)
        self._requests: list[Request] = []

    def prepare(self, epoch: int) -> None:
        self._requests = self._work.requests(len(self._beton), epoch)

    def batches(self) -> Iterator[torch.Tensor]:
        with (
            reading_ahead(self._read_ahead, self._requests) as requests,
            contextlib.closing(self._loader.load(requests)) as batches,
        ):
            for batch in batches:
                yield batch.images

    def pixels(self, batch: torch.Tensor) -> Pixels:
        return batch.numpy()

    def first_request(self) -> Request:
        return self._requests[0]


def open_variant(name: str, work: Work, workers: int) -> TrainerLoader:
    return TrainerLoader(work, workers)
