"""That contestants do the same work, that it is the loop's, and how it is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from rich.console import Console

from tests.bench.step.contests import small_contest
from trainer.bench.step import measure
from trainer.bench.step.measure import find_best_batch
from trainer.bench.step.options import DEPTHS
from trainer.bench.step.ours import Ours, OursWithData
from trainer.bench.step.peers import Timm, Torchvision, peer
from trainer.plan.network import count_cost, network_cost
from trainer.recipe import ModelRecipe
from trainer.step import TrainingStep


@pytest.mark.parametrize("depth", DEPTHS)
def test_networks_of_all_contestants_cost_the_same(depth: int) -> None:
    name = f"resnet{depth}"
    ours = network_cost(ModelRecipe(name, shortcut="B", stride_in="3x3"), 64, 10)
    assert count_cost(lambda: torchvision.models.get_model(name, num_classes=10), 64) == ours
    assert count_cost(lambda: timm.create_model(name, num_classes=10), 64) == ours


def test_bottlenecks_stride_as_the_peers_only_where_there_are_some() -> None:
    fifty = "model.name=resnet50"
    assert small_contest(fifty).recipe.model.stride_in == "1x1"
    assert small_contest(fifty, peers=("timm",)).recipe.model.stride_in == "3x3"
    assert small_contest(fifty, peers=("timm",)).striding_in == "1x1"
    assert small_contest(peers=("timm",)).striding_in is None, "there are none in ResNet-18"


def test_ours_is_the_step_of_the_loop() -> None:
    ours = Ours(small_contest())
    assert isinstance(ours.step, TrainingStep)
    assert ours.batch.images.shape == (4, 32, 32, 3)
    before = [parameter.clone() for parameter in ours.step.optimizer.param_groups[0]["params"]]
    assert ours.seconds(1) > 0
    after = ours.step.optimizer.param_groups[0]["params"]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", [Torchvision, Timm])
def test_a_peers_step_changes_its_weights(kind: type[Torchvision | Timm]) -> None:
    contest = small_contest("optimizer.label_smoothing=0.1")
    contestant = kind(contest)
    assert contestant._images.shape == (4, 3, 32, 32)
    assert contestant._images.is_contiguous(memory_format=torch.channels_last)
    parameters = [p for group in contestant._optimizer.param_groups for p in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]
    contestant.seconds(1)
    assert sum(not torch.equal(old, new) for old, new in zip(before, parameters, strict=True)) > 20
    assert not contestant.compiled, "as ours is not, on a CPU"


def test_torchvisions_step_reads_its_meters() -> None:
    contestant = Torchvision(small_contest())
    contestant.seconds(1)
    assert set(contestant.meters) == {"loss", "acc1", "acc5"}
    assert 0 <= contestant.meters["acc1"] <= contestant.meters["acc5"] <= 100


def test_peers_have_no_networks_for_cifar() -> None:
    with pytest.raises(ValueError, match="timm has no cifar_resnet20"):
        peer("timm", small_contest("model.name=cifar_resnet20", "model.shortcut=A"))


def test_real_data_are_the_same_images_each_time_after_the_head_start_is_used_up(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest = small_contest(data=photos)
    contestant, seen = OursWithData(contest, Ours(contest)), []
    monkeypatch.setattr(contestant._ours, "step", lambda batch, position, lr: seen.append(batch.ids.tolist()))
    contestant.seconds(2)
    first = seen.copy()
    contestant.seconds(2)
    assert len(first) == (contest.recipe.data.prefetch + 1) + 2
    assert seen[len(first) :] == first
    assert all(len(ids) == 4 for ids in seen)


def best(rates: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[int, float]]:
    """Of a device that trains at `rates`, by batch, and has no memory for others."""

    def rate_of(contest: Any) -> float:
        if contest.batch not in rates:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rates[contest.batch]

    monkeypatch.setattr(measure, "_rate_of", rate_of)
    return find_best_batch(lambda batch: small_contest(batch=batch), 4, Console(quiet=True))


def test_the_best_batch_is_the_last_that_brought_two_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert best({4: 100.0, 8: 150.0, 16: 152.0, 32: 300.0}, monkeypatch) == (16, {4: 100.0, 8: 150.0, 16: 152.0})
    assert best({4: 100.0, 8: 90.0}, monkeypatch)[0] == 4


def test_the_best_batch_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert best({4: 100.0, 8: 200.0}, monkeypatch)[0] == 8
    assert best({}, monkeypatch) == (4, {})


def test_on_a_cpu_the_search_ends_after_four_doublings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert best({4 * 2**n: 100.0 * 2**n for n in range(9)}, monkeypatch)[0] == 64
