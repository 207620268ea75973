"""The CIFAR-10 networks of section 4.2."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from trainer.errors import UsageError
from trainer.models import MODEL_NAMES, create_model, multiply_adds
from trainer.models.cifar import CifarResNet
from trainer.models.resnet import BasicBlock, Bottleneck

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


def weighted_layers(model: nn.Module) -> int:
    """Depth as the paper counts it: convolutions and the classifier, not projections."""
    kinds = nn.Conv2d | nn.Linear
    return sum(isinstance(module, kinds) and ".downsample." not in name for name, module in model.named_modules())


@pytest.mark.parametrize("name", CIFAR_NAMES)
def test_a_network_has_the_layers_of_its_name(name: str) -> None:
    assert weighted_layers(on_meta(name)) == int(name.removeprefix("cifar_resnet").removeprefix("cifar_plain"))


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


OTHER_BLOCKS: list[dict[str, Any]] = [
    {"skip": 1},
    {"skip": 3},
    {"kernel": 1},
    {"kernel": 5},
    {"block": "bottleneck"},
    {"block": "bottleneck", "shortcut": "B"},
    {"block": "bottleneck", "dropout": 0.3, "dropout_at": "before_3x3"},
    {"block": "bottleneck", "dropout": 0.3, "dropout_at": "after_3x3"},
    {"dropout": 0.3},
]


@pytest.mark.parametrize("layers", [20, 56, 110])
@pytest.mark.parametrize("options", [{"skip": 1}, {"skip": 3}, {"block": "bottleneck"}], ids=str)
def test_other_blocks_leave_the_depth_as_it_is(layers: int, options: dict[str, Any]) -> None:
    model = on_meta(f"cifar_resnet{layers}", **options)
    assert weighted_layers(model) == layers
    blocks = [block for block in model.modules() if isinstance(block, BasicBlock | Bottleneck)]
    assert {len(list(weights(block))) for block in blocks} == {options.get("skip", 3)}
    assert all(isinstance(block, Bottleneck) == ("block" in options) for block in blocks)


def weights(block: nn.Module) -> Iterator[nn.Conv2d]:
    return (module for name, module in block.named_children() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize("skip", [1, 3])
def test_a_skip_moves_the_shortcuts_and_keeps_the_layers(skip: int) -> None:
    """The same convolutions in the same order, so the same parameters."""
    shapes = [[p.shape for p in on_meta("cifar_resnet20", skip=k).parameters()] for k in (2, skip)]
    assert shapes[0] == shapes[1]
    assert "layer1.0.conv3.weight" in on_meta("cifar_resnet20", skip=3).state_dict()
    assert "layer1.0.conv2.weight" not in on_meta("cifar_resnet20", skip=1).state_dict()


@pytest.mark.parametrize("skip", [1, 2, 3])
def test_a_block_adds_its_input_to_that_many_layers_rectified_between(skip: int) -> None:
    torch.manual_seed(0)
    block: Any = create_model("cifar_resnet20", 10, skip=skip).layer1[0].eval()
    x = torch.rand(2, 16, 8, 8)
    with torch.no_grad():
        out = block.bn1(block.conv1(x))
        for layer in range(2, skip + 1):
            out = getattr(block, f"bn{layer}")(getattr(block, f"conv{layer}")(out.relu()))
        torch.testing.assert_close(block(x), (out + x).relu())


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_kernels_of_all_basic_blocks_change_and_sizes_do_not(kernel: int) -> None:
    model = on_meta("cifar_resnet20", kernel=kernel)
    assert model.conv1.kernel_size == (3, 3)
    blocks = [block for block in model.modules() if isinstance(block, BasicBlock)]
    assert {conv.kernel_size for block in blocks for conv in weights(block)} == {(kernel, kernel)}
    assert model.forward_features(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 64, 8, 8)


def test_bottlenecks_are_four_times_as_wide_and_their_identity_shortcuts_have_no_parameters() -> None:
    model = on_meta("cifar_resnet56", block="bottleneck")
    assert [info["num_chs"] for info in model.feature_info] == [16, 64, 128, 256]
    assert not any(".downsample." in key for key in model.state_dict())
    plain = on_meta("cifar_plain56", block="bottleneck")
    assert parameter_count(plain) == parameter_count(model)


def test_a_bottleneck_strides_where_it_is_told_to() -> None:
    for stride_in, strides in {"1x1": (2, 1), "3x3": (1, 2)}.items():
        block = on_meta("cifar_resnet20", block="bottleneck", stride_in=stride_in).layer2[0]
        assert (block.conv1.stride[0], block.conv2.stride[0]) == strides


@pytest.mark.parametrize("options", [{}, *OTHER_BLOCKS], ids=str)
def test_a_step_of_training_reaches_every_parameter(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model: Any = create_model("cifar_resnet20", 10, **options)
    nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar_resnet20", {"shortcut": "C"}, "shortcut: 'C' .*known: A, B"),
        ("cifar_resnet20", {"stem_pool": "caffe"}, "stem_pool: 'caffe' is given for cifar_resnet20"),
        ("cifar_resnet20", {"stem_pool": "cafe"}, "did you mean 'caffe'"),
        ("cifar_plain20", {"shortcut": "A"}, "shortcut: 'A' .*plain network"),
        ("cifar_plain20", {"skip": 1}, "skip: 1 is given for a plain network"),
        ("cifar_resnet20", {"skip": 4}, r"skip: 4 is not a value of this option \(known: 1, 2, 3\)"),
        ("cifar_resnet20", {"kernel": 2}, r"kernel: 2 is not a value of this option \(known: 1, 3, 5\)"),
        ("cifar_resnet20", {"block": "bottelneck"}, "block: 'bottelneck' .*did you mean 'bottleneck'"),
        ("cifar_resnet20", {"block": "bottleneck", "kernel": 5}, "kernel: 5 is given for bottlenecks"),
        ("cifar_resnet20", {"block": "bottleneck", "skip": 3}, "skip: 3 is given for bottlenecks"),
        ("cifar_resnet32", {"block": "bottleneck"}, r"blocks of 3 layers has 9n \+ 2 \(20, 56, 110\), not 32"),
        ("cifar_resnet1202", {"skip": 3}, r"blocks of 3 layers has 9n \+ 2 \(20, 56, 110\), not 1202"),
        ("cifar_resnet20", {"dropout": 0.3, "dropout_at": "after_3x3"}, "'after_3x3' is a place in a bottleneck"),
        ("cifar_resnet20", {"dropout_at": "befor_3x3"}, "dropout_at: 'befor_3x3' .*did you mean 'before_3x3'"),
    ],
)
def test_options_that_the_network_cannot_have_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        on_meta(name, **options)


@pytest.mark.parametrize("layers", [2, 21, 54])
def test_only_6n_plus_2_layers_exist(layers: int) -> None:
    with pytest.raises(UsageError, match=r"6n \+ 2"):
        CifarResNet(layers)
