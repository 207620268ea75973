"""The CIFAR-10 networks of section 4.2."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from trainer.errors import UsageError
from trainer.models import MODEL_NAMES, create_model, multiply_adds
from trainer.models.cifar import CifarResNet

CIFAR_NAMES = [name for name in MODEL_NAMES if name.startswith("cifar_")]


@cache
def on_meta(name: str, **options: Any) -> Any:
    with torch.device("meta"):
        return create_model(name, 10, **options)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("layers", "millions", "digits"),
    [(20, 0.27, 2), (32, 0.46, 2), (44, 0.66, 2), (56, 0.85, 2), (110, 1.7, 1), (1202, 19.4, 1)],
)
def test_parameters_round_to_table_6(layers: int, millions: float, digits: int) -> None:
    assert round(parameter_count(on_meta(f"cifar_resnet{layers}")) / 1e6, digits) == millions


@pytest.mark.parametrize("name", CIFAR_NAMES)
def test_a_network_has_the_layers_of_its_name(name: str) -> None:
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in on_meta(name).modules())
    assert layers == int(name.removeprefix("cifar_resnet").removeprefix("cifar_plain"))


@pytest.mark.parametrize("layers", [20, 32, 44, 56, 110])
def test_residual_and_plain_have_the_same_parameters(layers: int) -> None:
    residual, plain = on_meta(f"cifar_resnet{layers}"), on_meta(f"cifar_plain{layers}")
    shapes = [[(key, value.shape) for key, value in model.state_dict().items()] for model in (residual, plain)]
    assert shapes[0] == shapes[1]
    assert multiply_adds(residual, 32) == multiply_adds(plain, 32)


def test_multiply_adds_equal_those_counted_by_hand() -> None:
    first_stage = 6 * 32**2 * 9 * 16 * 16
    later_stages = 2 * (32**2 * 9 * 16 * 16 // 2 + 5 * 32**2 * 9 * 16 * 16)
    assert multiply_adds(on_meta("cifar_resnet20"), 32) == 32**2 * 9 * 3 * 16 + first_stage + later_stages + 64 * 10


def test_the_feature_maps_are_those_of_section_4_2() -> None:
    model = on_meta("cifar_resnet20")
    x = model.relu(model.bn1(model.conv1(torch.empty(2, 3, 32, 32, device="meta"))))
    shapes = [x.shape[1:], *((x := stage(x)).shape[1:] for stage in (model.layer1, model.layer2, model.layer3))]
    assert shapes == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_the_residual_function_is_the_plain_one_plus_its_input() -> None:
    torch.manual_seed(0)
    residual, plain = create_model("cifar_resnet20", 10).eval(), create_model("cifar_plain20", 10).eval()
    plain.load_state_dict(residual.state_dict())
    for nets in (residual, plain):
        nets.layer1[0].bn2.bias.data.fill_(100.0)  # keeps the last ReLU of the block out of the comparison
    x = torch.rand(2, 16, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(residual.layer1[0](x), plain.layer1[0](x) + x)


def test_the_papers_shortcut_is_a_and_b_can_be_asked_for() -> None:
    default = parameter_count(on_meta("cifar_resnet20"))
    assert parameter_count(on_meta("cifar_resnet20", shortcut="A")) == default
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert parameter_count(on_meta("cifar_resnet20", shortcut="B")) == default + projections


def test_a_step_of_training_reaches_every_parameter() -> None:
    model: Any = create_model("cifar_resnet20", 10)
    nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar_resnet20", {"shortcut": "C"}, "shortcut: 'C' .*known: A, B"),
        ("cifar_resnet20", {"stem_pool": "caffe"}, "stem_pool: 'caffe' is given for cifar_resnet20"),
        ("cifar_resnet20", {"stem_pool": "cafe"}, "did you mean 'caffe'"),
        ("cifar_plain20", {"shortcut": "A"}, "shortcut: 'A' .*plain network"),
    ],
)
def test_options_that_the_network_cannot_have_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        on_meta(name, **options)


@pytest.mark.parametrize("layers", [2, 21, 54])
def test_only_6n_plus_2_layers_exist(layers: int) -> None:
    with pytest.raises(ValueError, match=r"6n \+ 2"):
        CifarResNet(layers)
