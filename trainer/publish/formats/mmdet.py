"""mmdetection: torchvision's keys, and the lines for a configuration.

mmdetection loads a backbone loosely and only warns of what does not fit: the lines say style and normalisation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import __version__
from trainer.errors import UsageError
from trainer.models import create_model
from trainer.publish.backbone import Facts, Weights
from trainer.publish.formats.base import (
    Check,
    Format,
    NotInstalled,
    Publication,
    Source,
    only_file,
    package,
    refuse_unlike,
)
from trainer.publish.golden import normalised, outputs_of
from trainer.publish.tensors import hashed_name, torch_bytes

SNIPPET = "config.py"


def style(facts: Facts) -> str:
    """mmdetection's word for where a bottleneck strides."""
    return "caffe" if facts.is_v1 else "pytorch"


def write(source: Source, folder: Path) -> None:
    facts = source.backbone.facts
    content = torch_bytes(source.backbone.projected())
    name = hashed_name(facts.file_name(), content, ".pth")
    (folder / name).write_bytes(content)
    (folder / SNIPPET).write_text(config(facts, name))


def config(facts: Facts, file: str) -> str:
    """Lines for a configuration of mmdetection 3."""
    mean, std = ("[" + ", ".join(f"{value:.7g}" for value in values) + "]" for values in (facts.mean, facts.std))
    return f"""# {facts.arch}, stride in the {facts.stride}, shortcut {facts.shortcut}, RGB
model = dict(
    data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb=True),
    backbone=dict(
        type="ResNet",
        depth={facts.depth},
        style="{style(facts)}",
        norm_cfg=dict(type="BN", requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="{file}"),  # the path, from where the training is started
    ),
)
"""


def check(folder: Path, publication: Publication) -> Check:
    """By mmdetection, if it is here; else by the names, which are torchvision's, in our network."""
    file = only_file(folder, "*.pth")
    facts = publication.facts
    if (folder / SNIPPET).read_text() != config(facts, file.name):
        raise UsageError(f"{folder / SNIPPET}: not what this version writes; publish again")
    weights: Weights = torch.load(file, map_location="cpu", weights_only=True)
    pixels = normalised(publication.golden, facts.mean, facts.std)
    try:
        return _by_mmdet(weights, facts, pixels)
    except NotInstalled as missing:
        return _by_names(weights, facts, pixels, str(missing))


def _by_mmdet(weights: Weights, facts: Facts, pixels: Tensor) -> Check:
    package("mmcv")
    mmdet, backbones = package("mmdet"), package("mmdet.models.backbones")
    network: Any = backbones.ResNet(depth=facts.depth, style=style(facts)).eval()
    keys = network.load_state_dict(weights, strict=False)
    with torch.no_grad():
        found = network(pixels)
    outputs = {f"layer{number}": value.numpy() for number, value in enumerate(found, start=1)}
    unexpected = [key for key in keys.unexpected_keys if not key.startswith("fc.")]
    return Check(f"mmdet {mmdet.__version__}", outputs, keys.missing_keys, unexpected)


def _by_names(weights: Weights, facts: Facts, pixels: Tensor, reason: str) -> Check:
    network = create_model(num_classes=facts.num_classes, **{**facts.model, "shortcut": "B"}).eval()
    keys = network.load_state_dict(weights, strict=False)
    outputs = outputs_of(network, pixels)
    return Check(f"trainer {__version__}", outputs, keys.missing_keys, keys.unexpected_keys, stand_in=reason)


def usage(facts: Facts, file: str) -> str:
    return f"""Put the lines of `mmdet/{SNIPPET}` into the configuration: style `{style(facts)}`, RGB with its standard
deviation. It is not for `*-caffe*` configurations, whose input is BGR.
"""


FORMAT = Format("mmdet", refuse_unlike("mmdetection"), write, check, usage, logits=False)
