"""What a recipe computes in, and where that is to be had."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.small import begin_anew
from tests.test_step import a_batch, a_network, small_recipe
from trainer.data.colour import IMAGENET, Preprocess
from trainer.errors import UsageError
from trainer.precision import autocast
from trainer.processes import start_accelerator
from trainer.recipe import Recipe
from trainer.step import Objective


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Also where there is a GPU."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    begin_anew()
    yield
    begin_anew()


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
@pytest.mark.usefixtures("on_a_cpu")
def test_what_only_gpus_have_is_refused_on_a_cpu(precision: Any) -> None:
    recipe = Recipe(precision=precision)
    with pytest.raises(UsageError, match=f"precision is {precision}, which needs a GPU; use bf16 or fp32 on a CPU"):
        start_accelerator(recipe)


@pytest.mark.usefixtures("on_a_cpu")
def test_cuda_graphs_are_refused_on_a_cpu() -> None:
    with pytest.raises(UsageError, match=r"step\.cuda_graphs is true, which needs a GPU"):
        start_accelerator(small_recipe(8, 8, compile=True, cuda_graphs=True))


def test_tf32_is_used_only_where_the_recipe_says_so() -> None:
    begin_anew()
    start_accelerator(Recipe(precision="bf16"))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_bf16_computes_convolutions_in_16_bits_and_the_loss_in_32() -> None:
    device = torch.device("cpu")
    objective = Objective(a_network(), Preprocess(IMAGENET), "bf16", 0.0)
    seen: list[torch.dtype] = []
    network: Any = objective.network
    network.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    batch = a_batch(4)
    loss, correct = objective(batch.images, batch.labels, batch.colour)
    assert (seen, loss.dtype, correct.dtype) == ([torch.bfloat16], torch.float32, torch.int64)
    with autocast(device, "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
