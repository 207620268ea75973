"""Evaluation: errors reach the caller as they are, whatever the threads behind the batches are doing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer.data.beton import Beton
from trainer.data.colour import Preprocess, colour_statistics
from trainer.data.crops import CenterCrop
from trainer.data.loader import Loader
from trainer.data.order import Request, evaluation_batches
from trainer.data.readahead import ReadAhead, reading_ahead
from trainer.evaluate import evaluate


class Failing(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("from the model")


def test_an_error_of_the_model_is_raised_while_requests_are_being_waited_for(photos: Path) -> None:
    def slowly(requests: Iterator[Request]) -> Iterator[Request]:
        for number, request in enumerate(requests):
            time.sleep(0.5 if number else 0.0)
            yield request

    beton = Beton(photos)
    preprocess = Preprocess(colour_statistics("imagenet", None, str(photos)))
    loader = Loader(beton, CenterCrop(32, 36), torch.device("cpu"))
    order = slowly(evaluation_batches(len(beton), 8, 0, 1))
    with (
        pytest.raises(torch.OutOfMemoryError, match="from the model"),
        reading_ahead(ReadAhead(beton, 2), order) as requests,
    ):
        evaluate(Failing(), loader, requests, preprocess)
