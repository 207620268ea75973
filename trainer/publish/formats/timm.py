"""timm: `config.json` and `model.safetensors`, for `timm.create_model("local-dir:...", pretrained=True)` or a hub.

Its bottleneck, too, strides in the 3x3 convolution. A network that strides in the 1x1 gets an architecture of its own,
which timm does not know until the snippet has registered it: without it, timm says so instead of being wrong.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from string import Template
from typing import Any

import timm
from safetensors import safe_open

from trainer.models.resnet import BLOCKS_PER_STAGE
from trainer.publish.backbone import Facts
from trainer.publish.formats.base import STAGES, Check, Format, Publication, Source, check_stages, refuse_unlike
from trainer.publish.formats.torchvision import refuse_v1, run_snippet
from trainer.publish.golden import normalised
from trainer.publish.tensors import safetensors_bytes

SNIPPET = "timm_v1.py"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_SNIPPET = Template('''"""Registers $name with timm: its $arch with bottlenecks that stride in the 1x1 convolution.

Import this before `timm.create_model("local-dir:FOLDER", pretrained=True)`.
"""

from timm.models import build_model_with_cfg, register_model
from timm.models.resnet import Bottleneck, ResNet

__all__ = []


class BottleneckV1(Bottleneck):
    """Strides in its first convolution."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, (1, 1)


@register_model
def $name(pretrained=False, **kwargs):
    """The network of config.json beside this."""
    options = dict(block=BottleneckV1, layers=$layers)
    return build_model_with_cfg(ResNet, "$name", pretrained, **options, **kwargs)
''')

_refuse_unlike = refuse_unlike("timm")


def architecture(facts: Facts) -> str:
    """timm's name of the network."""
    return f"{facts.arch}_stride_in_1x1" if facts.is_v1 else facts.arch


def refuse(facts: Facts, allow_v1_snippet: bool) -> str | None:
    """Also v1, unless a snippet that registers it may go with it."""
    return _refuse_unlike(facts, allow_v1_snippet) or refuse_v1("timm", facts, allow_v1_snippet)


def write(source: Source, folder: Path) -> None:
    facts = source.backbone.facts
    weights = {key: value for key, value in source.backbone.projected().items() if "num_batches_tracked" not in key}
    (folder / WEIGHTS).write_bytes(safetensors_bytes(weights, {**facts.metadata(), "format": "pt"}))
    config = {
        "architecture": architecture(facts),
        "num_classes": facts.num_classes,
        "num_features": int(weights["fc.weight"].shape[1]),
        "global_pool": "avg",
        "label_names": source.backbone.labels,
        "pretrained_cfg": {
            "tag": "",
            "custom_load": False,
            "input_size": [3, facts.size, facts.size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": crop_share(facts),
            "crop_mode": "center",
            "mean": facts.unit_mean,
            "std": facts.unit_std,
            "num_classes": facts.num_classes,
            "pool_size": [-(-facts.size // 32)] * 2,
            "first_conv": "conv1",
            "classifier": "fc",
            "license": source.license,
        },
        "he2015": {"stride": facts.stride, "shortcut": facts.shortcut, "channel_order": "RGB"},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    if facts.is_v1:
        (folder / SNIPPET).write_text(snippet(facts))


def crop_share(facts: Facts) -> float:
    """The side of the crop over that of the image, from which timm gets the side of the image by rounding down."""
    share = facts.size / facts.resize
    while math.floor(facts.size / share) < facts.resize:
        share = math.nextafter(share, 0)
    return share


def snippet(facts: Facts) -> str:
    """The Python that goes with the weights."""
    layers = BLOCKS_PER_STAGE[facts.depth]
    return _SNIPPET.substitute(name=architecture(facts), arch=facts.arch, layers=layers)


def check(folder: Path, publication: Publication) -> Check:
    facts = publication.facts
    if facts.is_v1:
        run_snippet(folder / SNIPPET, snippet(facts))
    network: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
    with safe_open(folder / WEIGHTS, framework="pt") as opened:
        published = set(opened.keys())
    keys = {key for key in network.state_dict() if "num_batches_tracked" not in key}
    mean, std = ([255 * value for value in network.pretrained_cfg[key]] for key in ("mean", "std"))
    outputs = check_stages(network, STAGES, "fc", normalised(publication.golden, mean, std))
    loaded_by = f"timm {timm.__version__}" + (f" with {SNIPPET}" if facts.is_v1 else "")
    return Check(loaded_by, outputs, sorted(keys - published), sorted(published - keys))


def usage(facts: Facts, file: str) -> str:
    before = (
        f"`{SNIPPET}` in the folder registers `{architecture(facts)}`; timm does not know it otherwise.\n\n"
        '    import sys\n\n    sys.path.insert(0, "timm")\n    import timm_v1\n'
        if facts.is_v1
        else ""
    )
    return f"""{before}    import timm

    model = timm.create_model("local-dir:timm", pretrained=True)
    backbone = timm.create_model("local-dir:timm", pretrained=True, features_only=True)
"""


FORMAT = Format("timm", refuse, write, check, usage)
