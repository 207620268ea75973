"""torchvision: its keys in a flat file, named by the hash that torch.hub compares.

Its bottleneck strides in the 3x3 convolution. Weights of one that strides in the 1x1 load into it strictly, and give
other features: they are written only with the few lines that swap the strides.
"""

from __future__ import annotations

import sys
from pathlib import Path
from string import Template
from types import ModuleType

import torch

from trainer.data.colour import IMAGENET
from trainer.errors import UsageError
from trainer.publish.backbone import Facts
from trainer.publish.formats.base import (
    STAGES,
    Check,
    Format,
    Publication,
    Source,
    check_stages,
    only_file,
    package,
    refuse_unlike,
)
from trainer.publish.golden import INPUT
from trainer.publish.tensors import hashed_name, torch_bytes

SNIPPET = "torchvision_v1.py"
_SNIPPET = Template('''"""torchvision's $arch with these weights.

They are of a network whose bottlenecks stride in the 1x1 convolution, the paper's; torchvision's stride in the 3x3. The
weights fit either way, the features do not: build the network here.
"""

import torch
from torchvision.models import resnet


def $arch(path: str, num_classes: int = $num_classes) -> resnet.ResNet:
    """Strictly loaded from `path`, $file."""
    model = stride_in_1x1(resnet.$arch(weights=None, num_classes=num_classes))
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model


def stride_in_1x1(model: torch.nn.Module) -> torch.nn.Module:
    """Move the strides of a torchvision network's bottlenecks to the 1x1 convolution before the 3x3; again, nothing."""
    for block in model.modules():
        if isinstance(block, resnet.Bottleneck) and block.conv2.stride != (1, 1):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    return model
''')

_refuse_unlike = refuse_unlike("torchvision")


def refuse(facts: Facts, allow_v1_snippet: bool) -> str | None:
    """Also v1, unless a snippet that swaps its strides may go with it."""
    return _refuse_unlike(facts, allow_v1_snippet) or refuse_v1("torchvision", facts, allow_v1_snippet)


def refuse_v1(consumer: str, facts: Facts, allow_v1_snippet: bool) -> str | None:
    """For consumers whose bottlenecks stride in the 3x3 convolution."""
    if not facts.is_v1 or allow_v1_snippet:
        return None
    return (
        f"{consumer}'s {facts.arch} strides in the 3x3 convolution, this one in the 1x1: it would load without a word "
        "and be wrong; --allow-v1-snippet writes it with the lines that swap the strides"
    )


def write(source: Source, folder: Path) -> None:
    facts = source.backbone.facts
    content = torch_bytes(source.backbone.projected())
    name = hashed_name(facts.file_name(), content, ".pth")
    (folder / name).write_bytes(content)
    if facts.is_v1:
        (folder / SNIPPET).write_text(snippet(facts, name))


def snippet(facts: Facts, file: str) -> str:
    """The Python that goes with the weights."""
    return _SNIPPET.substitute(arch=facts.arch, num_classes=facts.num_classes, file=file)


def check(folder: Path, publication: Publication) -> Check:
    torchvision, facts = package("torchvision"), publication.facts
    network = torchvision.models.get_model(facts.arch, weights=None, num_classes=facts.num_classes)
    if facts.is_v1:
        file = only_file(folder, "*.pth").name
        network = run_snippet(folder / SNIPPET, snippet(facts, file)).stride_in_1x1(network)
    weights = torch.load(only_file(folder, "*.pth"), map_location="cpu", weights_only=True)
    keys = network.load_state_dict(weights, strict=False)
    outputs = check_stages(network, STAGES, "fc", torch.from_numpy(publication.golden[INPUT]))
    loaded_by = f"torchvision {torchvision.__version__}" + (f" with {SNIPPET}" if facts.is_v1 else "")
    return Check(loaded_by, outputs, keys.missing_keys, keys.unexpected_keys)


def run_snippet(path: Path, written: str) -> ModuleType:
    """Import a published snippet: the very file that users get is what is checked.

    Raises:
        UsageError: it is not what was `written`: what somebody sent is not run.
    """
    if path.read_text(encoding="utf-8") != written:
        raise UsageError(f"{path}: not what this version writes; publish again")
    module = sys.modules[path.stem] = ModuleType(path.stem)  # timm looks for it there
    exec(compile(written, str(path), "exec"), module.__dict__)  # no import, which leaves its cache beside it
    return module


def usage(facts: Facts, file: str) -> str:
    if facts.is_v1:
        first = f"""`{SNIPPET}` beside the weights swaps the strides; without it the features are wrong.

    import sys

    sys.path.insert(0, "torchvision")
    from torchvision_v1 import {facts.arch}, stride_in_1x1

    model = {facts.arch}("torchvision/{file}")
"""
        body = "stride_in_1x1(backbone.body)\n    backbone.body"
    else:
        first = f"""    import torch
    from torchvision.models import {facts.arch}

    model = {facts.arch}(weights=None, num_classes={facts.num_classes})
    model.load_state_dict(torch.load("torchvision/{file}", weights_only=True))
"""
        body = "backbone.body"
    return f"""{first}
As the backbone of a detector, with its batch norm frozen:

    import torch
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(backbone_name="{facts.arch}", weights=None, trainable_layers=3)
    weights = torch.load("torchvision/{file}", weights_only=True)
    {body}.load_state_dict({{key: value for key, value in weights.items() if not key.startswith("fc.")}})
    detector = FasterRCNN(backbone, num_classes=91{normalisation(facts)})
"""


def normalisation(facts: Facts) -> str:
    """Further arguments of a detector of torchvision, whose own are ImageNet's."""
    if (facts.mean, facts.std) == (IMAGENET.mean, IMAGENET.std):
        return ""
    mean, std = (", ".join(f"{value:.7g}" for value in values) for values in (facts.unit_mean, facts.unit_std))
    return f", image_mean=[{mean}], image_std=[{std}]"


FORMAT = Format("torchvision", refuse, write, check, usage)
