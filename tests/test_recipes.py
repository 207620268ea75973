"""The files in `recipes/`: they load, their networks are the paper's, and what is cheap to train learns."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from tests.samples import REPOSITORY, jpeg, smooth_image, write_beton
from trainer import checkpoint
from trainer.data.dataset import open_dataset, training_order
from trainer.errors import UsageError
from trainer.models import create_model
from trainer.recipe import Recipe, load_recipe
from trainer.record import read_metrics
from trainer.train import train

FOLDER = REPOSITORY / "recipes"

# Table 6 gives the parameters of CIFAR's residual networks in millions (tests/models); a plain one has as many.
# ImageNet's are torchvision's with option B; A has no projections, C one in every block.
PARAMETERS = {
    "imagenet/base": 25_557_032,
    "imagenet/fast/base": 25_557_032,
    "imagenet/fast/resnet18": 11_689_512,
    "imagenet/fast/resnet50": 25_557_032,
    "imagenet/paper_600k": 25_557_032,
    "imagenet/plain18": 11_515_688,
    "imagenet/plain34": 21_623_848,
    "imagenet/resnet18": 11_689_512,
    "imagenet/resnet18_a": 11_515_688,
    "imagenet/resnet18_c": 12_043_816,
    "imagenet/resnet34": 21_797_672,
    "imagenet/resnet34_a": 21_623_848,
    "imagenet/resnet34_c": 22_716_840,
    "imagenet/resnet50": 25_557_032,
    "imagenet/resnet101": 44_549_160,
    "imagenet/resnet152": 60_192_808,
    "cifar10/plain20": 269_722,
    "cifar10/plain32": 464_154,
    "cifar10/plain44": 658_586,
    "cifar10/plain56": 853_018,
    "cifar10/plain110": 1_727_962,
    "cifar10/resnet20": 269_722,
    "cifar10/resnet20_short": 269_722,
    "cifar10/resnet32": 464_154,
    "cifar10/resnet44": 658_586,
    "cifar10/resnet56": 853_018,
    "cifar10/resnet110": 1_727_962,
    "cifar10/resnet1202": 19_421_274,
    "cifar10/ablations/plain56_bottleneck": 548_442,
    "cifar10/ablations/plain110_bottleneck": 1_104_858,
    "cifar10/ablations/resnet20_b": 272_474,
    "cifar10/ablations/resnet20_batch32": 269_722,
    "cifar10/ablations/resnet20_batch64": 269_722,
    "cifar10/ablations/resnet20_batch256": 269_722,
    "cifar10/ablations/resnet20_kernel1": 32_154,
    "cifar10/ablations/resnet20_kernel5": 744_858,
    "cifar10/ablations/resnet20_lr0.01": 269_722,
    "cifar10/ablations/resnet20_momentum0": 269_722,
    "cifar10/ablations/resnet20_momentum0.5": 269_722,
    "cifar10/ablations/resnet20_skip1": 269_722,
    "cifar10/ablations/resnet20_skip3": 269_722,
    "cifar10/ablations/resnet56_b": 855_770,
    "cifar10/ablations/resnet56_bottleneck": 548_442,
    "cifar10/ablations/resnet56_dropout_after_3x3": 548_442,
    "cifar10/ablations/resnet56_dropout_before_3x3": 548_442,
    "cifar10/ablations/resnet56_dropout_classifier": 548_442,
    "cifar10/ablations/resnet56_skip1": 853_018,
    "cifar10/ablations/resnet56_skip3": 853_018,
    "cifar10/ablations/resnet110_bottleneck": 1_104_858,
    "cifar10/ablations/resnet110_lr0.1": 1_727_962,
}
NOT_A_RUN = {"cifar10/base"}  # it names no network
WITHOUT_NUMBERS = {"quickstart"}  # ten generated classes: a network of our own
ABLATIONS = sorted(name for name in PARAMETERS if "/ablations/" in name)
# But those that differ from others in what SMALL replaces.
CHEAP = [name for name in PARAMETERS if re.search(r"cifar10/.*(resnet|plain)20(?!\d|_batch|_lr)", name)]

SMALL = [
    "data.size=16",
    "data.padding=2",
    "data.normalize=channel",
    "data.statistics=imagenet",
    "data.threads=1",
    "optimizer.global_batch=16",
    "optimizer.micro_batch=8",
    "optimizer.lr=0.02",
    "schedule.budget=16it",
    "schedule.warmup=0it",
    "evaluation.resize=16",
    "evaluation.every=16it",
    "checkpoint.every=16it",
    "log.every=1it",
]


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.yaml"


@cache
def recipe_of(name: str) -> Recipe:
    return load_recipe(path_of(name))


@cache
def parameter_count(classes: int, options: tuple[tuple[str, Any], ...]) -> int:
    with torch.device("meta"):
        network = create_model(num_classes=classes, **dict(options))
    return sum(parameter.numel() for parameter in network.parameters())


def test_every_recipe_is_in_the_table() -> None:
    found = {
        str(path.relative_to(FOLDER).with_suffix(""))
        for path in FOLDER.rglob("*.yaml")
        if path.parent.name not in ("sweeps", "detection")
    }
    assert found == PARAMETERS.keys() | NOT_A_RUN | WITHOUT_NUMBERS


def test_the_quickstart_loads() -> None:
    assert recipe_of("quickstart").model.name == "resnet18"


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_recipe_loads_and_its_network_has_the_known_parameters(name: str) -> None:
    recipe = recipe_of(name)
    classes = 10 if name.startswith("cifar10/") else 1000
    assert parameter_count(classes, tuple(asdict(recipe.model).items())) == PARAMETERS[name]


def test_the_imagenet_recipes_are_the_papers() -> None:
    recipe = recipe_of("imagenet/resnet50")
    optimizer, schedule, data = recipe.optimizer, recipe.schedule, recipe.data
    assert (optimizer.global_batch, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (256, 0.1, 0.9, 1e-4)
    assert (schedule.kind, schedule.factor, schedule.budget) == ("plateau", 0.1, "60ep")
    assert (data.size, data.min_side, data.max_side, data.colour) == (224, 256, 480, 0.1)
    assert recipe_of("imagenet/paper_600k").schedule.budget == "600000it"


FAST = ["imagenet/fast/resnet18", "imagenet/fast/resnet50"]


@pytest.mark.parametrize("name", FAST)
def test_the_fast_recipes_are_ffcv_imagenets(name: str) -> None:
    recipe = recipe_of(name)
    data, optimizer, schedule = recipe.data, recipe.optimizer, recipe.schedule
    assert (data.crop, data.first_size, data.size, data.ramp) == ("rrc", 160, 192, ["11ep", "13ep"])
    assert (schedule.kind, schedule.warmup, schedule.budget) == ("linear", "2ep", "16ep")
    assert (optimizer.momentum, optimizer.label_smoothing, recipe.model.stride_in) == (0.9, 0.1, "3x3")
    # Their validation takes the centre 224/256 of the shorter side in 256 pixels.
    assert recipe.validation_size == 256
    assert recipe.evaluation.resize == round(256 * 256 / 224)


@pytest.mark.parametrize("name", FAST)
def test_a_fast_rate_is_the_papers_in_proportion_to_the_batch(name: str) -> None:
    optimizer = recipe_of(name).optimizer
    assert 0.1 <= optimizer.lr * 256 / optimizer.global_batch <= 0.125
    assert recipe_of(name).schedule.warmup_lr == pytest.approx(1e-4 * optimizer.lr)


@pytest.mark.parametrize("path", sorted((FOLDER / "imagenet" / "fast").glob("*.yaml")))
def test_every_value_of_a_fast_recipe_has_its_comment(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if re.match(r"\s*(?!extends|name)\w+: *\S", line)]
    assert lines
    assert [line for line in lines if "  # " not in line] == []


@pytest.mark.parametrize("name", [name for name in PARAMETERS if re.match("cifar10/.*(?<!_short)$", name)])
def test_the_cifar_recipes_have_the_papers_schedule_in_images(name: str) -> None:
    recipe = recipe_of(name)
    amounts = [recipe.schedule.budget, *recipe.schedule.milestones]
    assert [recipe.samples(amount) for amount in amounts] == [128 * 64_000, 128 * 32_000, 128 * 48_000]
    assert recipe.optimizer.micro_batch == min(64, recipe.optimizer.global_batch)
    assert (recipe.data.crop, recipe.data.padding, recipe.data.normalize) == ("padded", 4, "mean_image")


def test_only_residual_networks_of_110_layers_and_more_warm_up() -> None:
    warm = {name for name in PARAMETERS if recipe_of(name).schedule.warmup_until_error > 0}
    assert warm == {"cifar10/resnet110", "cifar10/resnet1202", "cifar10/ablations/resnet110_bottleneck"}
    schedule = recipe_of("cifar10/resnet110").schedule
    assert (schedule.warmup_lr, schedule.warmup_until_error) == (0.01, 0.8)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_gives_its_reason_first(name: str) -> None:
    first, second, *_ = path_of(name).read_text().splitlines()
    assert first.startswith("# ")
    assert second.startswith("extends: ")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16x16 pictures of two classes, dark and bright."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 48), ("val", 8)):
        images = [smooth_image(16, 16, i) // 3 + 150 * (i % 2) for i in range(count)]
        write_beton(
            folder / f"{name}.beton", [image.astype(np.uint8) for image in images], [i % 2 for i in range(count)]
        )
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", CHEAP)
def test_a_cheap_recipe_starts_and_learns(name: str, data: Path, tmp_path: Path) -> None:
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    paths = [f"data.train={data}/train.beton", f"data.val={data}/val.beton", f"runs={tmp_path}"]
    recipe = load_recipe(path_of(name), [*SMALL, *paths])
    train(recipe)
    losses = [line["loss"] for line in read_metrics(recipe.run_dir) if line["kind"] == "train"]
    assert len(losses) == 16
    assert fmean(losses[-5:]) < fmean(losses[:3])


TINY = [
    "data.first_size=32",
    "data.size=96",
    "data.ramp=[2it,6it]",
    "data.statistics=imagenet",
    "data.threads=1",
    "precision=fp32",
    "optimizer.global_batch=8",
    "optimizer.micro_batch=4",
    "optimizer.lr=0.01",
    "batch_norm.images=8",
    "schedule.budget=8it",
    "schedule.warmup=1it",
    "evaluation.every=8it",
    "evaluation.size=96",
    "evaluation.resize=96",
    "evaluation.batch=8",
    "checkpoint.every=1it",
    "checkpoint.keep=9",
    "log.every=1it",
    "trainer.deterministic=true",
]


@pytest.mark.usefixtures("one_thread")
def test_a_fast_recipe_trains_through_its_sizes_and_goes_on_in_the_middle(tmp_path: Path) -> None:
    for name, count in (("train", 24), ("val", 8)):
        images = [jpeg(smooth_image(100, 110, i) // 3 + np.uint8(150 * (i % 2))) for i in range(count)]
        write_beton(tmp_path / f"{name}.beton", images, [i % 2 for i in range(count)])

    def begin(name: str, *more: str) -> Recipe:
        AcceleratorState._reset_state(True)
        PartialState._reset_state()
        paths = [f"data.train={tmp_path}/train.beton", f"data.val={tmp_path}/val.beton", f"runs={tmp_path}"]
        return load_recipe(path_of("imagenet/fast/resnet18"), [*TINY, *paths, f"name={name}", *more])

    whole = begin("whole")
    train(whole)
    told = [(line["step"], line["size"]) for line in read_metrics(whole.run_dir) if line["kind"] == "size"]
    assert told == [(0, 32), (3, 64), (6, 96)]
    order = training_order(whole, open_dataset(whole.data.train))
    assert [request.size for request in order.batches(0, 64, 8, 0, 1)] == [32, 32, 32, 64, 64, 64, 96, 96]

    cut = tmp_path / "cut"
    shutil.copytree(whole.run_dir, cut, symlinks=True)
    for folder in (cut / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > 4:  # the crops grow from the 3rd to the 7th step
            shutil.rmtree(folder)
    (cut / "checkpoints" / "last").unlink()
    (cut / "checkpoints" / "last").symlink_to("step-00000004")
    with pytest.raises(UsageError, match=r"data\.first_size: 32 -> 64"):
        train(begin("cut", "data.first_size=64"))
    train(begin("cut"))
    assert [line["samples"] for line in read_metrics(cut) if line["kind"] == "start"] == [0, 4 * 8]
    before, after = (checkpoint.load(folder) for folder in (whole.run_dir, cut))
    for part in ("model", "ema"):
        assert_equal(before[part], after[part])


def assert_equal(one: Any, other: Any) -> None:
    """Tensors inside dictionaries, bit for bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other
