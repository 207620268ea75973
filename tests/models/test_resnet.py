"""The ImageNet networks: torchvision's equals where they should be, the paper's where it differs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from trainer.errors import UsageError
from trainer.models import create_model, multiply_adds
from trainer.models.resnet import SHORTCUTS, BasicBlock, Bottleneck, ZeroPadShortcut

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


@cache
def on_meta(name: str, **options: Any) -> Any:
    with torch.device("meta"):
        return create_model(name, 1000, **options)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def weighted_layers(model: nn.Module) -> int:
    """Convolutions and fully connected layers, without projections: what the names count."""
    return sum(
        isinstance(module, nn.Conv2d | nn.Linear) and ".downsample." not in name
        for name, module in model.named_modules()
    )


def randomise(model: nn.Module) -> None:
    """Give batch normalisation weights and statistics that make every layer matter."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


@pytest.mark.parametrize("name", RESNETS)
def test_state_dict_has_torchvisions_names_order_shapes_and_dtypes(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)().state_dict()
    ours = on_meta(name).state_dict()
    assert [(k, v.shape, v.dtype) for k, v in ours.items()] == [(k, v.shape, v.dtype) for k, v in theirs.items()]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032), ("resnet101", 44_549_160),
     ("resnet152", 60_192_808), ("plain18", 11_515_688), ("plain34", 21_623_848)],
)  # fmt: skip
def test_parameter_counts(name: str, parameters: int) -> None:
    assert parameter_count(on_meta(name)) == parameters


@pytest.mark.parametrize("name", [*RESNETS, "plain18", "plain34"])
def test_the_number_in_a_name_is_its_weighted_layers(name: str) -> None:
    assert weighted_layers(on_meta(name)) == int("".join(filter(str.isdigit, name)))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_logits_equal_torchvisions_for_the_same_weights(name: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=7).eval()
    randomise(theirs)
    ours = create_model(name, 7, stride_in="3x3").eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 33, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)


def test_gradients_and_statistics_equal_torchvisions_in_training() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=7)
    ours = create_model("resnet18", 7)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 40, 40)
    for model in (ours, theirs):
        model(images).logsumexp(1).sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, msg=f"gradient of {name}")
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_v1_and_v15_take_each_others_weights_and_differ() -> None:
    torch.manual_seed(0)
    v1, v15 = (create_model("resnet50", 7, stride_in=stride).eval() for stride in ("1x1", "3x3"))
    randomise(v1)
    v15.load_state_dict(v1.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        a, b = v1.forward_features(images), v15.forward_features(images)
    assert a.shape == b.shape
    assert (a - b).norm() / b.norm() > 0.05


def test_v1_strides_in_the_first_1x1_and_v15_in_the_3x3() -> None:
    for stride_in, strides in {"1x1": (2, 1, 1), "3x3": (1, 2, 1)}.items():
        model = on_meta("resnet50", stride_in=stride_in)
        for stage in (model.layer2, model.layer3, model.layer4):
            assert (stage[0].conv1.stride[0], stage[0].conv2.stride[0], stage[0].conv3.stride[0]) == strides
            assert stage[0].downsample[0].stride[0] == 2
            assert all(conv.stride == (1, 1) for conv in stage[1].modules() if isinstance(conv, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "shortcut", "table_1"),
    [("resnet18", "A", 1.8), ("resnet18", "B", 1.8), ("resnet34", "A", 3.6), ("resnet101", "B", 7.6),
     ("resnet152", "B", 11.3), ("plain18", None, 1.8), ("plain34", None, 3.6)],
)  # fmt: skip
def test_multiply_adds_round_to_table_1(name: str, shortcut: str | None, table_1: float) -> None:
    assert round(multiply_adds(on_meta(name, shortcut=shortcut), 224) / 1e9, 1) == table_1


def test_table_1_cuts_resnet50s_multiply_adds_off() -> None:
    # The one entry that rounding does not give: 3.858 G is printed as 3.8. v1.5 would be 4.1.
    exact = multiply_adds(on_meta("resnet50"), 224)
    assert exact == 3_857_973_248
    assert math.floor(exact / 1e8) / 10 == 3.8
    assert round(multiply_adds(on_meta("resnet50", stride_in="3x3"), 224) / 1e9, 1) == 4.1


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_option_a_has_the_parameters_of_the_plain_network(name: str) -> None:
    residual, plain = on_meta(name, shortcut="A"), on_meta(name.replace("resnet", "plain"))
    shapes = {key: value.shape for key, value in residual.state_dict().items()}
    assert shapes == {key: value.shape for key, value in plain.state_dict().items()}
    b = on_meta(name, shortcut="B").state_dict()
    assert list(shapes) == [key for key in b if ".downsample." not in key]


@pytest.mark.parametrize("name", RESNETS)
def test_options_project_where_the_paper_says(name: str) -> None:
    projections = {}
    for option in SHORTCUTS:
        blocks = [
            block for block in on_meta(name, shortcut=option).modules() if isinstance(block, BasicBlock | Bottleneck)
        ]
        projections[option] = [isinstance(block.downsample, nn.Sequential) for block in blocks]
    assert sum(projections["A"]) == 0
    assert sum(projections["B"]) == (3 if name in ("resnet18", "resnet34") else 4)
    assert all(projections["C"])
    assert (
        len(projections["C"]) == {"resnet18": 8, "resnet34": 16, "resnet50": 16, "resnet101": 33, "resnet152": 50}[name]
    )


def test_options_shape_the_function_as_their_definition_says() -> None:
    """A with identity projections written out as B is the same function."""
    torch.manual_seed(0)
    a, b = create_model("resnet18", 5, shortcut="A").eval(), create_model("resnet18", 5, shortcut="B").eval()
    randomise(a)
    state = b.state_dict() | a.state_dict()
    for key in state:
        if key.endswith("downsample.0.weight"):
            state[key] = torch.eye(*state[key].shape[:2])[:, :, None, None]
        elif key.endswith("downsample.1.running_var"):
            state[key] = torch.full_like(state[key], 1 - 1e-5)
    b.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(a(images), b(images))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_zero_pad_shortcut_subsamples_and_appends_zeros(memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 8, 8, 6).to(memory_format=memory_format)
    out = ZeroPadShortcut(8, 12, stride=2)(x)
    assert out.shape == (2, 12, 4, 3)
    assert torch.equal(out[:, :8], x[:, :, ::2, ::2])
    assert not out[:, 8:].any()
    assert out.is_contiguous(memory_format=memory_format)


def test_zero_pad_shortcut_takes_odd_sizes() -> None:
    x = torch.randn(2, 8, 7, 5)
    out = ZeroPadShortcut(8, 12, stride=2)(x)
    assert out.shape == (2, 12, 4, 3)
    assert torch.equal(out[:, :8], x[:, :, ::2, ::2])


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_channels_last_stays_channels_last(shortcut: str) -> None:
    model: Any = create_model("resnet18", 5, shortcut=shortcut).to(memory_format=torch.channels_last)
    features = model.forward_features(torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stem_pool", ["torchvision", "caffe"])
def test_both_stems_map_224_to_56(stem_pool: str) -> None:
    model = on_meta("resnet18", stem_pool=stem_pool)
    assert model.maxpool(torch.empty(1, 64, 112, 112, device="meta")).shape[-2:] == (56, 56)
    assert model.forward_features(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 512, 7, 7)


def test_the_caffe_stem_pools_without_padding() -> None:
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    caffe = on_meta("resnet18", stem_pool="caffe").maxpool
    # Windows start at 0, 2, 4; the last is cut off by the border.
    assert caffe(x)[0, 0].tolist() == [[14, 16, 17], [26, 28, 29], [32, 34, 35]]


PLACES = {"before_3x3": "conv1", "after_3x3": "conv2"}


@pytest.mark.parametrize("place", PLACES)
def test_dropout_is_on_what_enters_or_leaves_the_3x3(place: str) -> None:
    """Where it is 1, nothing of the layers before it is left."""
    torch.manual_seed(0)
    block: Any = create_model("resnet50", 5, dropout=1.0, dropout_at=place).layer1[1].train()
    x = torch.rand(2, 256, 4, 4)
    out = block(x)
    block.get_submodule(PLACES[place]).weight.data.normal_()
    assert torch.equal(block(x), out)
    following = {"before_3x3": "conv2", "after_3x3": "conv3"}[place]
    inputs = []
    block.get_submodule(following).register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    block(x)
    assert not inputs[0].any()


def test_dropout_before_the_classifier_is_of_pooled_features() -> None:
    model = create_model("resnet18", 5, dropout=1.0).train()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), model.fc.bias.expand(2, 5))


@pytest.mark.parametrize("place", ["before_3x3", "after_3x3", "classifier"])
def test_dropout_has_no_parameters_and_none_in_evaluation(place: str) -> None:
    torch.manual_seed(0)
    without = create_model("resnet50", 5).eval()
    model = create_model("resnet50", 5, dropout=0.5, dropout_at=place)
    assert list(model.state_dict()) == list(without.state_dict())
    model.load_state_dict(without.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), without(images))
        assert not torch.equal(model.train()(images), model(images))


@pytest.mark.parametrize(("init", "fan"), [("fan_out", 0), ("fan_in", 1)])
def test_convolutions_are_he_normal(init: str, fan: int) -> None:
    torch.manual_seed(0)
    model: Any = create_model("resnet18", 5, init=init)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight
            std = math.sqrt(2 / (weight.shape[fan] * weight[0, 0].numel()))
            assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel())), name
            assert abs(weight.mean().item()) < 5 * std / math.sqrt(weight.numel()), name
            assert weight.abs().max() > 2.5 * std, f"{name}: not a normal distribution"


def test_batch_norm_starts_as_identity_also_at_the_end_of_a_block() -> None:
    for module in create_model("resnet50", 5).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
            assert module.eps == 1e-5


def test_the_classifier_starts_uniform_without_bias() -> None:
    fc = create_model("resnet18", 1000).fc
    assert (fc.bias == 0).all()
    assert fc.weight.abs().max().item() == pytest.approx(1 / math.sqrt(512), rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"shortcut": "A"}, {"shortcut": "C"}])
def test_fx_traces_the_network(options: dict[str, Any]) -> None:
    model: Any = create_model("resnet18", 5, **options).eval()
    images = torch.randn(1, 3, 33, 33)
    traced: Callable[[torch.Tensor], torch.Tensor] = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(images), model(images))


def test_dynamo_captures_the_network_in_one_graph() -> None:
    model: Any = create_model("cifar_resnet20", 5)
    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(model, backend="eager", fullgraph=True)
    assert compiled(torch.randn(2, 3, 33, 33)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50", {"stride_in": "3x4"}, "stride_in: '3x4' .*did you mean '3x3'"),
        ("resnet50", {"stem_pool": "cafe"}, "stem_pool: 'cafe' .*did you mean 'caffe'"),
        ("resnet50", {"init": "fanout"}, "init: 'fanout' .*did you mean 'fan_out'"),
        ("resnet50", {"shortcut": "D"}, "shortcut: 'D' .*known: A, B, C"),
        ("plain34", {"shortcut": "B"}, "shortcut: 'B' .*plain network"),
        ("resnet18", {"kernel": 5}, "block, kernel, skip: resnet18 has the paper's"),
        ("resnet50", {"block": "bottleneck"}, "block, kernel, skip: resnet50 has the paper's"),
        ("resnet34", {"dropout": 0.1, "dropout_at": "before_3x3"}, "'before_3x3' is a place in a bottleneck"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        on_meta(name, **options)
