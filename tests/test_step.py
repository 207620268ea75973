"""The step: compiled or not, on one rank or several, it computes the same; and it never waits for the device."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ranks import on_ranks
from tests.small import begin_anew
from trainer.data.colour import IMAGENET, Preprocess
from trainer.data.loader import Batch
from trainer.models import create_model
from trainer.processes import has_static_graph, start_accelerator
from trainer.recipe import Recipe
from trainer.step import TrainingStep, should_compile

CLASSES, SIZE = 5, 16


def small_recipe(batch: int, micro_batch: int, **step: Any) -> Recipe:
    recipe = Recipe()
    recipe.model.name = "cifar_resnet20"
    recipe.optimizer.global_batch, recipe.optimizer.micro_batch = batch, micro_batch
    recipe.optimizer.lr = 0.01
    recipe.step.compile = False
    for key, value in step.items():
        setattr(recipe.step, key, value)
    return recipe


def a_network() -> torch.nn.Module:
    torch.manual_seed(1)
    network = create_model("cifar_resnet20", num_classes=CLASSES)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.train()


class Block(torch.nn.Module):
    """A network that is compiled in seconds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1, self.bn2 = torch.nn.BatchNorm2d(8), torch.nn.BatchNorm2d(8)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.fc = torch.nn.Linear(8, CLASSES)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(F.relu(self.bn2(self.conv2(x)) + x).mean((2, 3)))  # type: ignore[no-any-return]


def a_batch(count: int, first: int = 0, seed: int = 0) -> Batch:
    """Part of a batch of 32."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (32, SIZE, SIZE, 3), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, CLASSES, (32,), generator=draw)
    colour = torch.randn(32, 3, generator=draw)
    mine = slice(first, first + count)
    return Batch(images[mine], labels[mine], colour[mine], np.arange(count), np.empty(0, np.int64), 0.0)


def a_step(recipe: Recipe, network: torch.nn.Module, notes: list[str] | None = None) -> TrainingStep:
    begin_anew()
    accelerator = start_accelerator(recipe)
    preprocess = Preprocess(IMAGENET, recipe.data.colour).to(accelerator.device)
    return TrainingStep(recipe, network, preprocess, accelerator, (notes if notes is not None else []).append)


def weights(network: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# What it computes.


def test_it_is_sgd_on_the_mean_loss_of_the_batch() -> None:
    network = a_network()
    reference = copy.deepcopy(network)
    recipe = small_recipe(32, 32)
    recipe.optimizer.weight_decay, recipe.optimizer.label_smoothing = 1e-2, 0.1
    step = a_step(recipe, network)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2)
    for number in range(3):
        batch = a_batch(32, seed=number)
        loss, correct, stepped = step(batch, 32 * number, 0.05)
        pixels = (batch.images.permute(0, 3, 1, 2).float() - torch.tensor(IMAGENET.mean).view(1, 3, 1, 1)) / (
            torch.tensor(IMAGENET.std).view(1, 3, 1, 1)
        )
        shift = (batch.colour * 0.1 * torch.tensor(IMAGENET.eigenvalues)) @ torch.tensor(IMAGENET.eigenvectors).T
        scores = reference(pixels + (shift / torch.tensor(IMAGENET.std)).view(-1, 3, 1, 1))
        expected = F.cross_entropy(scores, batch.labels, label_smoothing=0.1)
        expected.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert float(loss) == pytest.approx(expected.item(), rel=1e-4)
        assert int(correct) == int((scores.argmax(1) == batch.labels).sum())
        assert stepped
    assert_close(weights(network), weights(reference), 1e-4)


def test_accumulating_gradients_is_the_large_batch() -> None:
    """In inference mode of batch norm, where images do not see each other."""
    found = []
    for micro_batch in (32, 8, 1):
        network = a_network().eval()
        step = a_step(small_recipe(32, micro_batch), network)
        losses = [float(step(a_batch(32, seed=number), 32 * number, 0.01)[0]) for number in range(2)]
        found.append((losses, weights(network)))
    for losses, trained in found[1:]:
        assert losses == pytest.approx(found[0][0], rel=1e-5)
        assert_close(trained, found[0][1])


@pytest.mark.parametrize("deterministic", [False, True])
def test_gradient_and_momentum_lie_in_memory_as_their_parameter_does(deterministic: bool) -> None:
    network = a_network()
    recipe = small_recipe(16, 8)
    recipe.trainer.deterministic = deterministic
    step = a_step(recipe, network)
    seen: list[bool] = []
    step.optimizer.register_step_pre_hook(
        lambda *_: seen.extend(p.stride() == p.grad.stride() for p in network.parameters() if p.grad is not None)
    )
    step(a_batch(16), 0, 0.1)
    state = step.optimizer.state_dict()
    for values in state["state"].values():  # as optimizers that are not fused left it
        values["momentum_buffer"] = values["momentum_buffer"].contiguous()
    step.load_optimizer(state)
    assert len(seen) == len(list(network.parameters()))
    assert all(seen)
    for parameter, values in step.optimizer.state.items():
        assert values["momentum_buffer"].stride() == parameter.stride()
    torch.use_deterministic_algorithms(False)


# What it does not do.


class Operators(TorchDispatchMode):
    """Names of what is called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


WAITING = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal"}
"""Operators whose result the host has to wait for. On a CPU copies to the host are none: see the test on GPUs."""


@pytest.mark.parametrize("micro_batch", [16, 8])
def test_nothing_in_it_waits_for_the_device(micro_batch: int) -> None:
    step = a_step(small_recipe(16, micro_batch), a_network())
    step(a_batch(16), 0, 0.1)
    with Operators() as operators:
        step(a_batch(16), 16, 0.1)
    assert "convolution" in operators.names
    assert not WAITING & set(operators.names)
    with Operators() as operators:
        float(torch.ones(1))
    assert WAITING & set(operators.names)


def test_momentum_is_there_before_the_first_step_which_a_scaler_may_skip() -> None:
    step = a_step(small_recipe(16, 16), a_network())
    assert all(not values["momentum_buffer"].any() for values in step.optimizer.state.values())
    assert len(step.optimizer.state) == len(step.optimizer.param_groups[0]["params"]) + sum(
        len(group["params"]) for group in step.optimizer.param_groups[1:]
    )


# On a GPU.


def on_gpu(recipe: Recipe) -> tuple[list[float], list[torch.Tensor]]:
    """Three steps."""
    network = a_network()
    step = a_step(recipe, network)
    losses = []
    for number in range(3):
        batch = a_batch(16, seed=number)
        batch.images, batch.labels, batch.colour = (t.cuda() for t in (batch.images, batch.labels, batch.colour))
        losses.append(step(batch, 16 * number, 0.01)[0])
    return [float(loss) for loss in losses], weights(network)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
class TestOnAGpu:
    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
    def test_no_step_waits_for_it(self, precision: Any) -> None:
        recipe = small_recipe(16, 8)
        recipe.precision = precision
        step = a_step(recipe, a_network())
        batch = a_batch(16)
        batch.images, batch.labels, batch.colour = (t.cuda() for t in (batch.images, batch.labels, batch.colour))
        step(batch, 0, 0.01)
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(batch, 16, 0.01)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @pytest.mark.parametrize("micro_batch", [16, 8])
    @pytest.mark.parametrize("graphs", [False, True])
    def test_compiled_it_computes_the_same(self, micro_batch: int, graphs: bool) -> None:
        eager = on_gpu(small_recipe(16, micro_batch))
        compiled = on_gpu(small_recipe(16, micro_batch, compile=True, cuda_graphs=graphs))
        assert compiled[0] == pytest.approx(eager[0], rel=1e-3)

    def test_an_overflow_in_the_first_step_changes_nothing(self) -> None:
        recipe = small_recipe(16, 16)
        recipe.precision = "fp16"
        network = a_network()
        step = a_step(recipe, network)
        step.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
        before = weights(network)
        batch = a_batch(16)
        batch.images, batch.labels, batch.colour = (t.cuda() for t in (batch.images, batch.labels, batch.colour))
        step(batch, 0, 0.01)
        assert all(map(torch.equal, before, weights(network)))
        assert all(not values["momentum_buffer"].any() for values in step.optimizer.state.values())


# Compiled.


def test_a_compiled_step_computes_what_the_other_does(fresh_compiler: None) -> None:
    found = []
    for compile_ in (False, True):
        network = Block()
        notes: list[str] = []
        step = a_step(small_recipe(16, 8, compile=compile_), network, notes)
        losses = [float(step(a_batch(16, seed=number), 16 * number, 0.01)[0]) for number in range(3)]
        assert notes == []
        found.append((losses, weights(network)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    assert_close(found[1][1], found[0][1], 1e-3)


def test_gpus_compile_unless_it_is_to_be_deterministic() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    recipe = Recipe()
    assert should_compile(recipe, gpu)
    assert not should_compile(recipe, cpu)
    recipe.trainer.deterministic = True
    assert not should_compile(recipe, gpu)
    recipe.step.compile = True
    assert should_compile(recipe, gpu)
    assert should_compile(recipe, cpu)


# Several ranks.


def train_on_rank(
    rank: int,
    micro_batch: int,
    step_options: dict[str, Any],
    steps: int,
    network_of: Callable[[], torch.nn.Module] = a_network,
) -> dict[str, Any]:
    """Steps on this rank's share of batches of 32; what they cost in collectives."""
    world_size = dist.get_world_size()
    os.environ |= {name: str(world_size) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # asked for, though there is a group already
    recipe = small_recipe(32, micro_batch, **step_options)
    network = network_of()
    network.eval()  # images do not see each other, so that all ranks together are one
    step = a_step(recipe, network)
    share = 32 // world_size
    losses, collectives = [], []
    for number in range(steps):
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            loss, _, _ = step(a_batch(share, rank * share, seed=number), 32 * number + rank * share, 0.01)
        losses.append(float(loss))
        names = [event.name for event in recorded.events() or [] if event.name.startswith("gloo:")]
        collectives.append(names)
    ddp = step._ddp
    assert ddp is not None
    return {
        "losses": losses,
        "weights": weights(network),
        "collectives": collectives,
        "static": ddp.static_graph,
        "buckets": len(ddp._get_ddp_logging_data().get("rebuilt_bucket_sizes", "").split(",")),
    }


def alone(steps: int, network_of: Callable[[], torch.nn.Module] = a_network) -> tuple[list[float], list[torch.Tensor]]:
    network = network_of().eval()
    step = a_step(small_recipe(32, 32), network)
    losses = [float(step(a_batch(32, seed=number), 32 * number, 0.01)[0]) for number in range(steps)]
    return losses, weights(network)


@pytest.mark.parametrize(("world_size", "micro_batch"), [(2, 16), (2, 8), (4, 8), (4, 4)])
def test_ranks_together_make_the_step_of_one(world_size: int, micro_batch: int) -> None:
    """With a static graph, where a rank has one micro-batch, and without."""
    losses, expected = alone(4)
    ranks = on_ranks(world_size, train_on_rank, micro_batch, {}, 4)
    means = [sum(step) / world_size for step in zip(*(rank["losses"] for rank in ranks), strict=True)]
    assert means == pytest.approx(losses, rel=1e-4)
    for rank in ranks:
        assert rank["static"] == (world_size * micro_batch == 32)
        assert_close(rank["weights"], expected, 1e-4)


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_step_has_one_set_of_bucketed_all_reduces_and_no_other_collective(world_size: int) -> None:
    for rank in on_ranks(world_size, train_on_rank, 4, {}, 4):
        # In the second step DDP arranges its buckets anew, as gradients came in the first, once and for all.
        assert rank["collectives"][2:] == [["gloo:all_reduce"] * rank["buckets"]] * 2


def test_gradients_may_travel_in_16_bits() -> None:
    losses, expected = alone(3)
    ranks = on_ranks(2, train_on_rank, 16, {"all_reduce": "bf16"}, 3)
    means = [sum(step) / 2 for step in zip(*(rank["losses"] for rank in ranks), strict=True)]
    assert means == pytest.approx(losses, rel=1e-2)
    assert all(map(torch.equal, ranks[0]["weights"], ranks[1]["weights"]))
    assert not all(map(torch.equal, ranks[0]["weights"], expected))
    assert_close(ranks[0]["weights"], expected, 1e-3)


def test_compiled_ranks_make_the_step_of_one() -> None:
    """As on eight GPUs: one micro-batch a rank, a static graph."""
    _, expected = alone(3, Block)
    for rank in on_ranks(2, train_on_rank, 16, {"compile": True}, 3, Block):
        assert rank["static"]
        assert_close(rank["weights"], expected, 1e-3)


def test_a_graph_is_static_only_if_every_backward_pass_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    recipe = small_recipe(256, 32)
    assert has_static_graph(recipe)
    recipe.trainer.deterministic = True
    assert not has_static_graph(recipe)
    assert not has_static_graph(small_recipe(256, 16))
