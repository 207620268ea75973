"""Counting multiply-adds, and splitting parameters by weight decay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainer.errors import UsageError
from trainer.models import MODEL_NAMES, WEIGHT_DECAY_MODES, create_model, multiply_adds, parameter_groups

SMALL_ENOUGH = [name for name in MODEL_NAMES if "1202" not in name]
FOREIGN_LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Conv1d(2, 3, 1),
    lambda: nn.Conv2d(2, 4, 3, bias=False),
    lambda: nn.ConvTranspose2d(2, 3, 2),
    lambda: nn.Linear(3, 2),
    lambda: nn.BatchNorm1d(3),
    lambda: nn.BatchNorm2d(2, affine=False),
    lambda: nn.SyncBatchNorm(2),
    lambda: nn.GroupNorm(1, 2),
    lambda: nn.LayerNorm(4),
    lambda: nn.RMSNorm(4),
    lambda: nn.PReLU(),
    lambda: nn.Embedding(3, 2),
    lambda: nn.ReLU(),
]


def decaying(model: nn.Module, mode: str) -> set[str]:
    """Names of the parameters that decay, after checking that every one is in exactly one group."""
    groups = parameter_groups(model, mode, 1e-4)
    grouped = Counter(id(parameter) for group in groups for parameter in group["params"])
    assert grouped == Counter(id(parameter) for parameter in model.parameters())
    assert all(group["params"] for group in groups)
    decays = {group["weight_decay"]: {id(p) for p in group["params"]} for group in groups}
    assert set(decays) <= {1e-4, 0.0}
    assert len(decays) == len(groups)
    return {name for name, parameter in model.named_parameters() if id(parameter) in decays.get(1e-4, ())}


@settings(deadline=None, max_examples=12)
@given(name=st.sampled_from(SMALL_ENOUGH), mode=st.sampled_from(WEIGHT_DECAY_MODES))
def test_the_groups_of_every_network_are_a_partition(name: str, mode: str) -> None:
    with torch.device("meta"):
        model: Any = create_model(name, 10)
    expected = {
        "all": dict(model.named_parameters()).keys(),
        "conv_and_fc": {key for key, parameter in model.named_parameters() if parameter.ndim > 1} | {"fc.bias"},
        "no_norm_bias": {key for key, parameter in model.named_parameters() if parameter.ndim > 1},
    }
    assert decaying(model, mode) == expected[mode]


@given(layers=st.lists(st.sampled_from(FOREIGN_LAYERS)), mode=st.sampled_from(WEIGHT_DECAY_MODES))
def test_the_groups_of_any_module_are_a_partition(layers: list[Callable[[], nn.Module]], mode: str) -> None:
    decaying(nn.Sequential(*(layer() for layer in layers)), mode)


def test_the_type_of_a_module_decides_and_not_its_name() -> None:
    misnamed = nn.ModuleDict({"bn": nn.Conv2d(2, 2, 1), "conv": nn.BatchNorm2d(2), "norm_bias": nn.Linear(2, 2)})
    assert decaying(misnamed, "conv_and_fc") == {"bn.weight", "bn.bias", "norm_bias.weight", "norm_bias.bias"}
    assert decaying(misnamed, "no_norm_bias") == {"bn.weight", "norm_bias.weight"}


def test_the_modes_differ_on_parameters_of_other_modules() -> None:
    model = nn.Sequential(nn.PReLU(), nn.Linear(2, 2))
    assert decaying(model, "conv_and_fc") == {"1.weight", "1.bias"}
    assert decaying(model, "no_norm_bias") == {"0.weight", "1.weight"}


def test_a_shared_parameter_is_in_one_group() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    for mode in WEIGHT_DECAY_MODES:
        decaying(model, mode)


def test_an_optimizer_takes_the_groups_and_decays_only_the_first() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(parameter_groups(model, "conv_and_fc", 0.5), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if name.startswith("0.") else 1.0))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match=r"decay: 'conv_fc' .*did you mean 'conv_and_fc'"):
        parameter_groups(nn.Linear(1, 1), "conv_fc", 1e-4)


def test_multiply_adds_of_a_small_network() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding=2, groups=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    convolutions = 16 * 16 * (8 * 3 * 9) + 16 * 16 * (8 * 2 * 25)
    assert multiply_adds(model, 32) == convolutions + 80


def test_multiply_adds_leave_the_model_as_it_was() -> None:
    model: Any = create_model("cifar_resnet20", 10).to(torch.bfloat16)
    model.bn1.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert multiply_adds(model, 32) == 40_551_040
    assert {name: module.training for name, module in model.named_modules()} == modes
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_multiply_adds_follow_the_size_of_the_image() -> None:
    with torch.device("meta"):
        model: Any = create_model("resnet18", 10)
    convolutions = multiply_adds(model, 224) - 5120
    assert multiply_adds(model, 448) == 4 * convolutions + 5120
    assert multiply_adds(model, 32) > 0, "one value per channel in training is no obstacle"
