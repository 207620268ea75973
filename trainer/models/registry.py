"""Every network by its name, for the recipes (`create_model`) and for timm (`timm.create_model("he_...")`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from trainer.errors import UsageError, did_you_mean
from trainer.models.cifar import DEPTHS, CifarResNet
from trainer.models.resnet import BLOCKS_PER_STAGE, STEM_POOLS, ResNet, StagedNetwork, check_choice

__all__ = ["MODEL_NAMES", "TIMM_PREFIX", "create_model"]

# timm has its own resnet18 ... resnet152; the prefix keeps both.
TIMM_PREFIX = "he_"

_NETWORKS: dict[str, Callable[..., StagedNetwork]] = {
    **{f"resnet{n}": partial(ResNet, n) for n in BLOCKS_PER_STAGE},
    **{f"plain{n}": partial(ResNet, n, residual=False) for n in (18, 34)},
    **{f"cifar_resnet{n}": partial(CifarResNet, n) for n in DEPTHS},
    **{f"cifar_plain{n}": partial(CifarResNet, n, residual=False) for n in DEPTHS[:-1]},
}

MODEL_NAMES = tuple(_NETWORKS)


def _is_cifar(name: str) -> bool:
    return name.startswith("cifar_")


def _timm_config(name: str) -> dict[str, Any]:
    """What timm's data and fine-tuning tools want to know of a network. No weights are published under these names."""
    config = {
        "first_conv": "conv1",
        "classifier": "fc",
        "interpolation": "bilinear",
        "license": "apache-2.0",
        "paper_ids": "arXiv:1512.03385",
        "paper_name": "Deep Residual Learning for Image Recognition",
    }
    if _is_cifar(name):
        return config | {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": (8, 8),
            "crop_pct": 1.0,
            "mean": (0.4914, 0.4822, 0.4465),
            "std": (0.2470, 0.2435, 0.2616),
        }
    return config | {"input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 0.875}


# timm looks for this name in the module of an entry point.
default_cfgs = generate_default_cfgs({TIMM_PREFIX + name: _timm_config(name) for name in MODEL_NAMES})


def _register_with_timm(name: str) -> None:
    def entry_point(pretrained: bool = False, **kwargs: Any) -> StagedNetwork:
        # The stem and every stage; a new dict each time, because timm writes into it.
        feature_cfg = {"out_indices": tuple(range(4 if _is_cifar(name) else 5))}
        model: StagedNetwork = build_model_with_cfg(
            _NETWORKS[name], TIMM_PREFIX + name, pretrained, feature_cfg=feature_cfg, **kwargs
        )
        return model

    entry_point.__name__ = entry_point.__qualname__ = TIMM_PREFIX + name
    entry_point.__doc__ = f"Build {name} as timm does; the options are those of `{__name__}.create_model`."
    # timm appends the name to this module's __all__, so the module must have it.
    globals()[TIMM_PREFIX + name] = register_model(entry_point)


for _name in MODEL_NAMES:
    _register_with_timm(_name)


def create_model(
    name: str,
    num_classes: int,
    *,
    shortcut: str | None = None,
    stride_in: str = "1x1",
    stem_pool: str = "torchvision",
    init: str = "fan_out",
    block: str | None = None,
    kernel: int = 3,
    skip: int = 2,
    dropout: float = 0.0,
    dropout_at: str = "classifier",
) -> StagedNetwork:
    """Build and initialise the network `name` (one of `MODEL_NAMES`) with a recipe's options, on the default device.

    Args:
        name: "resnet18" ... "resnet152", "plain18", "plain34", "cifar_resnet20" ... "cifar_resnet1202",
            "cifar_plain20" ... "cifar_plain110".
        num_classes: number of logits.
        shortcut: "A", "B", "C" (ImageNet networks only), or None for the paper's: B for ImageNet, A for CIFAR.
        stride_in: the convolution of a bottleneck that strides, "1x1" (the paper's) or "3x3". Networks without
            bottlenecks are the same either way.
        stem_pool: "torchvision" or "caffe" (see `ResNet`).
        init: fan of He's normal initialisation, "fan_out" or "fan_in".
        block: "basic" or "bottleneck" (CIFAR networks only), or None for the paper's.
        kernel: side of the basic blocks' convolutions: 1, 3 or 5 (CIFAR networks only).
        skip: layers that the shortcut of a basic block spans: 1, 2 or 3 (residual CIFAR networks only).
        dropout: probability of dropout; the paper uses none.
        dropout_at: "classifier", or, in networks of bottlenecks, "before_3x3" or "after_3x3".

    Raises:
        UsageError: an unknown name or value, or an option that the network cannot have: any shortcut in a plain
            network, shortcut C or the Caffe stem in a CIFAR network, other blocks in an ImageNet network, dropout in
            bottlenecks where there are none, a depth that is no multiple of the block's.
    """
    if name not in _NETWORKS:
        raise UsageError(f"model: '{name}' is not a network of this project{did_you_mean(name, MODEL_NAMES)}")
    check_choice("stem_pool", stem_pool, STEM_POOLS)
    options: dict[str, Any] = {"num_classes": num_classes, "shortcut": shortcut, "stride_in": stride_in, "init": init}
    options |= {"dropout": dropout, "dropout_at": dropout_at}
    if _is_cifar(name):
        if stem_pool != "torchvision":
            raise UsageError(f"stem_pool: '{stem_pool}' is given for {name}, whose stem has no pooling; leave it out")
        options |= {"block": block, "kernel": kernel, "skip": skip}
    elif (block, kernel, skip) != (None, 3, 2):
        raise UsageError(f"block, kernel, skip: {name} has the paper's, only CIFAR networks others; leave them out")
    else:
        options["stem_pool"] = stem_pool
    # Through timm, because it remembers the options: what it saves of the model can then be built again.
    return cast(StagedNetwork, timm.create_model(TIMM_PREFIX + name, **options))
