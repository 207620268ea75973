"""The number of ranks, and where a run was stopped, change nothing that matters."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.faults.trainers import Trainers, same_weights, until
from trainer.data.crops import CropPolicy, PaddedCrop, RandomResizedCrop, ScaleCrop
from trainer.data.dataset import open_dataset
from trainer.data.loader import Loader
from trainer.data.order import TrainingOrder

STRAIGHT = ("schedule.budget=20it", "schedule.kind=constant", "optimizer.lr=0.005")


def test_losses_are_those_of_one_rank_on_any_number(trainers: Trainers) -> None:
    for world_size in (1, 2, 4):
        trainers.finish(f"on{world_size}", *STRAIGHT, world_size=world_size)
    alone = trainers.losses("on1")
    assert len(alone) == 20
    for world_size in (2, 4):
        losses = trainers.losses(f"on{world_size}")
        worst = max(abs(losses[step] / alone[step] - 1) for step in alone)
        assert worst < 1e-4
        validations = [line for line in trainers.lines(f"on{world_size}") if line["kind"] == "validation"]
        assert {line["images"] for line in validations} == {21}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_two_runs_on_as_many_ranks_are_equal_bit_for_bit_one_of_them_stopped(
    trainers: Trainers, world_size: int
) -> None:
    trainers.finish("straight", world_size=world_size)
    trainer = trainers.start("stopped", world_size=world_size)
    until(lambda: trainers.steps("stopped") >= 11)
    trainer.signal(signal.SIGTERM)
    assert set(trainer.wait()) <= {85}
    trainers.finish("stopped", world_size=world_size)
    assert trainers.losses("stopped") == trainers.losses("straight")
    assert same_weights(trainers.weights("stopped"), trainers.weights("straight"))


def test_a_run_goes_on_with_other_numbers_of_ranks(trainers: Trainers) -> None:
    trainers.finish("straight", *STRAIGHT)
    for world_size, steps in ((4, 6), (1, 13), (2, 20)):
        trainer = trainers.start("moved", *STRAIGHT, world_size=world_size)
        until(lambda: trainers.steps("moved") >= steps or trainer.ranks[0].exitcode is not None)  # noqa: B023
        if steps < 20:
            trainer.signal(signal.SIGUSR1)
        assert set(trainer.wait()) <= ({85} if steps < 20 else {0}), trainer.output
    straight, moved = trainers.losses("straight"), trainers.losses("moved")
    assert moved.keys() == straight.keys()
    assert max(abs(moved[step] / straight[step] - 1) for step in straight) < 1e-4
    worlds = [line["world_size"] for line in trainers.lines("moved") if line["kind"] == "start"]
    assert worlds == [4, 1, 2]


@pytest.mark.parametrize("crop", [PaddedCrop(16, 2, seed=3), ScaleCrop(16, 16, 24, seed=3), RandomResizedCrop(16, 3)])
def test_the_stream_of_images_of_a_whole_run_is_the_same(data: Path, crop: CropPolicy) -> None:
    """Pixels, labels, flips and colour draws of 20 epochs, in whatever pieces they are asked for, by any threads."""
    beton = open_dataset(data / "train.beton").beton
    total, global_batch = 20 * len(beton) // 16 * 16, 16

    def stream(world_size: int, threads: int, pieces: tuple[int, ...]) -> list[np.ndarray]:
        order = TrainingOrder(len(beton), seed=3)
        cuts = [0, *(global_batch * piece for piece in pieces), total]
        parts: list[list[list[np.ndarray]]] = []
        for rank in range(world_size):
            loader = Loader(beton, crop, torch.device("cpu"), threads=threads, colour_seed=3)
            batches = []
            for start, stop in itertools.pairwise(cuts):
                for batch in loader.load(order.batches(start, stop, global_batch, rank, world_size)):
                    fields = (batch.images, batch.labels, batch.colour)
                    batches.append([np.array(value.numpy()) for value in fields])
            parts.append(batches)
        steps = zip(*parts, strict=True)
        joined = [[np.concatenate(field) for field in zip(*step, strict=True)] for step in steps]
        return [np.concatenate(field) for field in zip(*joined, strict=True)]

    expected = stream(1, 1, ())
    assert len(expected[0]) == total
    for world_size, threads, pieces in ((2, 1, (7,)), (4, 2, (1, 2, 30)), (1, 2, (60,))):
        found = stream(world_size, threads, pieces)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
