"""Evaluation: every image counts once on any number of ranks, and errors reach the caller as they are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.evaluation.conftest import CLASSES, IMAGES, SIZE, Trained
from tests.ranks import on_ranks
from tests.samples import jpeg, smooth_image, without_its_scan, write_beton
from trainer.data.beton import Beton
from trainer.data.colour import colour_statistics
from trainer.data.cut_loader import CutLoader
from trainer.data.order import Request
from trainer.data.readahead import ReadAhead
from trainer.errors import RunError
from trainer.evaluation.evaluate import Result, Share, evaluate
from trainer.evaluation.network import Network
from trainer.evaluation.protocols import Protocol, all_cuts, center, multi_scale_dense, ten_crop
from trainer.trained import load_trained

CPU = torch.device("cpu")
PROTOCOLS = [center(18), ten_crop(18), multi_scale_dense((16, 27), "dense")]


def evaluate_run(rank: int, world_size: int, run: Path, data: Path, batch: int) -> dict[str, Result]:
    trained = load_trained(run)
    network = Network(trained.model, SIZE, trained.statistics, trained.mean_image, CPU)
    loader = CutLoader(Beton(data), all_cuts(PROTOCOLS), SIZE, CPU, threads=1)
    return evaluate([network], PROTOCOLS, loader, classes=CLASSES, batch=batch, share=Share(rank, world_size))


@pytest.mark.parametrize("world_size", [2, 3])
def test_counts_are_exact_on_any_number_of_ranks(trained: Trained, world_size: int) -> None:
    alone = evaluate_run(0, 1, trained.run, trained.raw, batch=9)  # neither ranks nor batches divide 41 images
    for found in on_ranks(world_size, evaluate_run, world_size, trained.run, trained.raw, 9):
        for name, want in alone.items():
            got = found[name]
            assert (got.images, got.top1_correct, got.top5_correct) == (IMAGES, want.top1_correct, want.top5_correct)
            assert got.loss == pytest.approx(want.loss, rel=1e-6)


def test_ranks_without_images_count_none(trained: Trained, tmp_path: Path) -> None:
    two = write_beton(tmp_path / "two.beton", trained.images[:2], trained.labels[:2])
    for found in on_ranks(3, evaluate_run, 3, trained.run, two, 4):
        assert {name: result.images for name, result in found.items()} == dict.fromkeys(found, 2)


def test_a_share_that_is_left_out_is_noticed(trained: Trained) -> None:
    with pytest.raises(RunError, match=f"20 images were evaluated, it has {IMAGES}"):
        evaluate_run(0, 2, trained.run, trained.raw, batch=9)


class Failing(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("from the model")


class Slow(ReadAhead):
    def wrap(self, requests: Iterator[Request]) -> Iterator[Request]:  # type: ignore[override]
        for number, request in enumerate(requests):
            time.sleep(0.5 if number else 0.0)
            yield request


def failing(beton: Beton, protocol: Protocol) -> tuple[Network, CutLoader]:
    network = Network(
        Failing(),
        SIZE,  # type: ignore[arg-type]
        colour_statistics("imagenet", None, ""),
        None,
        CPU,
    )
    return network, CutLoader(beton, all_cuts([protocol]), SIZE, CPU)


def test_an_error_of_the_model_is_raised_while_requests_are_being_waited_for(trained: Trained) -> None:
    beton, protocol = Beton(trained.raw), center(18)
    network, loader = failing(beton, protocol)
    with pytest.raises(torch.OutOfMemoryError, match="from the model"):
        evaluate([network], [protocol], loader, classes=2, batch=8, read_ahead=Slow(beton, 2))


def test_an_image_that_does_not_decode_ends_it_by_name(tmp_path: Path) -> None:
    sound = jpeg(smooth_image(30, 24, 1))
    beton = Beton(write_beton(tmp_path / "x.beton", [sound, sound, without_its_scan(sound)], [0, 1, 0]))
    protocol = ten_crop(18)
    network, loader = failing(beton, protocol)
    with pytest.raises(RunError, match=r"x\.beton: sample 2 .*its data end too early"):
        evaluate([network], [protocol], loader, classes=2, batch=8)
