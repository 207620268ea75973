"""Names: those of the recipes and those of timm."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from trainer.errors import UsageError
from trainer.models import MODEL_NAMES, create_model
from trainer.models.registry import TIMM_PREFIX

PAPERS_NAMES = {
    *(f"resnet{n}" for n in (18, 34, 50, 101, 152)),
    *(f"plain{n}" for n in (18, 34)),
    *(f"cifar_resnet{n}" for n in (20, 32, 44, 56, 110, 1202)),
    *(f"cifar_plain{n}" for n in (20, 32, 44, 56, 110)),
}


def test_the_names_are_the_papers_networks() -> None:
    assert set(MODEL_NAMES) == PAPERS_NAMES
    assert len(MODEL_NAMES) == len(PAPERS_NAMES)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_name_builds(name: str) -> None:
    with torch.device("meta"):
        model: Any = create_model(name, 7)
    assert model.fc.out_features == model.num_classes == 7


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "plain34", "cifar_resnet20", "cifar_plain20"])
def test_both_factories_build_the_same(name: str) -> None:
    with torch.device("meta"):
        ours, timms = create_model(name, 7), timm.create_model(TIMM_PREFIX + name, num_classes=7)
    assert type(ours) is type(timms)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in timms.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet18", "plain18", "cifar_resnet20", "cifar_plain20"])
def test_every_family_maps_images_to_finite_logits(name: str) -> None:
    logits = create_model(name, 7)(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet51", "resnet50"), ("Resnet34", "resnet34"), ("cifar-resnet20", "cifar_resnet20")]
)
def test_an_unknown_name_gets_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' .*did you mean '{nearest}'"):
        create_model(name, 10)


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(UsageError, match=r"known: resnet18, resnet34, .*cifar_plain110"):
        create_model("vgg", 10)


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(create_model("cifar_resnet20", 10).state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_timm_keeps_its_own_networks() -> None:
    assert set(timm.list_models(TIMM_PREFIX + "*")) == {TIMM_PREFIX + name for name in MODEL_NAMES}
    assert timm.list_models(TIMM_PREFIX + "*", module="resnet") == []
    assert timm.model_entrypoint("resnet50").__module__ == "timm.models.resnet"


def test_all_names_of_the_registry_module_exist() -> None:
    module = importlib.import_module("trainer.models.registry")
    assert all(hasattr(module, name) for name in module.__all__)


def test_timm_passes_the_options_on() -> None:
    with torch.device("meta"):
        model: Any = timm.create_model(
            "he_resnet50", num_classes=10, shortcut="C", stride_in="3x3", stem_pool="caffe", in_chans=1
        )
    assert (model.shortcut, model.stride_in, model.stem_pool) == ("C", "3x3", "caffe")
    assert model.conv1.weight.shape == (64, 1, 7, 7)


@pytest.mark.parametrize(
    "options",
    [{"kernel": 5, "skip": 1, "dropout": 0.2}, {"block": "bottleneck", "dropout": 0.2, "dropout_at": "before_3x3"}],
    ids=str,
)
def test_what_timm_saves_of_other_blocks_is_built_again(options: dict[str, Any], tmp_path: Path) -> None:
    model: Any = create_model("cifar_resnet20", 4, **options).eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert str(again) == str(model)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "plain34", "cifar_resnet20", "cifar_plain20"])
def test_timms_conventions(name: str) -> None:
    with torch.device("meta"):
        model: Any = timm.create_model(TIMM_PREFIX + name)
    config = model.pretrained_cfg
    assert config is model.default_cfg
    assert config["architecture"] == TIMM_PREFIX + name
    assert config["num_classes"] == model.num_classes == (10 if "cifar" in name else 1000)
    assert model.get_submodule(config["classifier"]) is model.get_classifier() is model.fc
    assert model.get_submodule(config["first_conv"]) is model.conv1
    assert model.num_features == model.head_hidden_size == model.fc.in_features
    features = model.forward_features(torch.empty(1, *config["input_size"], device="meta"))
    assert features.shape == (1, model.num_features, *config["pool_size"])


def test_head() -> None:
    model: Any = timm.create_model("he_resnet18", num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.forward_features(images)
        assert features.shape == (2, 512, 2, 2)
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(pooled, features.mean((2, 3)))
        torch.testing.assert_close(model.forward_head(features), model.fc(pooled))
        torch.testing.assert_close(model(images), model.fc(pooled))


def test_reset_classifier() -> None:
    model: Any = create_model("resnet18", 4).to(torch.float64).eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    model.reset_classifier(9)
    assert model(images).shape == (2, 9)
    assert model.num_classes == 9
    assert not model.fc.training
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model(images).shape == (2, 512)
    model.reset_classifier(0, global_pool="")
    assert model(images).shape == (2, 512, 2, 2)
    model.reset_classifier(3, global_pool="catavgmax")
    assert model(images).shape == (2, 3)
    assert model.head_hidden_size == 1024


@pytest.mark.parametrize(
    ("name", "channels"),
    [("he_resnet18", [64, 64, 128, 256, 512]), ("he_resnet50", [64, 256, 512, 1024, 2048]),
     ("he_plain34", [64, 64, 128, 256, 512])],
)  # fmt: skip
@pytest.mark.parametrize("stem_pool", ["torchvision", "caffe"])
def test_features_only_of_imagenet_networks(name: str, channels: list[int], stem_pool: str) -> None:
    with torch.device("meta"):
        model: Any = timm.create_model(name, features_only=True, stem_pool=stem_pool)
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32]
    features = model(torch.empty(2, 3, 64, 96, device="meta"))
    assert [f.shape for f in features] == [
        (2, c, 64 // r, 96 // r) for c, r in zip(channels, (2, 4, 8, 16, 32), strict=True)
    ]


def test_features_only_of_cifar_networks() -> None:
    model: Any = timm.create_model("he_cifar_resnet20", features_only=True)
    assert model.feature_info.channels() == [16, 16, 32, 64]
    assert model.feature_info.reduction() == [1, 1, 2, 4]
    shapes = [f.shape[1:] for f in model(torch.randn(1, 3, 32, 32))]
    assert shapes == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_features_only_gives_the_chosen_stages_of_the_same_function() -> None:
    whole = create_model("resnet18", 4, shortcut="A").eval()
    part: Any = timm.create_model("he_resnet18", features_only=True, out_indices=(1, 4), shortcut="A").eval()
    assert part.feature_info.channels() == [64, 512]
    assert part.feature_info.reduction() == [4, 32]
    missing, unexpected = part.load_state_dict(whole.state_dict(), strict=False)
    assert not missing
    assert unexpected == ["fc.weight", "fc.bias"]
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        first, last = part(images)
        assert first.shape == (2, 64, 16, 16)
        torch.testing.assert_close(last, whole.forward_features(images))


def test_timm_loads_a_checkpoint_of_ours_into_a_new_head(tmp_path: Path) -> None:
    source: Any = create_model("resnet18", 4)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    same: Any = timm.create_model("he_resnet18", num_classes=4, checkpoint_path=tmp_path / "weights.pth")
    torch.testing.assert_close(same.state_dict(), source.state_dict(), rtol=0, atol=0)
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 4}
    other: Any = timm.create_model("he_resnet18", pretrained=True, num_classes=9, pretrained_cfg_overlay=overlay)
    assert torch.equal(other.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert other.fc.out_features == 9


def test_what_timm_saves_is_built_again_with_its_options(tmp_path: Path) -> None:
    model: Any = create_model("resnet50", 4, shortcut="A", stride_in="3x3", stem_pool="caffe").eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert (again.shortcut, again.stride_in, again.stem_pool) == ("A", "3x3", "caffe")
    images = torch.randn(1, 3, 33, 33)
    assert torch.equal(again(images), model(images))
