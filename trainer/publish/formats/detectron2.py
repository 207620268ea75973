"""detectron2: its names in a pickle, for configurations whose input is RGB with mean and standard deviation."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
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
from trainer.publish.golden import Outputs, normalised, outputs_of

SNIPPET = "config.yaml"
STAGES = {f"layer{number}": f"res{number + 1}" for number in range(1, 5)}
_PICKLE_PROTOCOL = 4
GLOBALS = frozenset([("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")])
"""What the pickle calls."""

_RENAMED = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
)


def renamed(key: str) -> str:
    """detectron2's name of a weight."""
    for pattern, name in _RENAMED:
        key = re.sub(pattern, name, key)
    return key


def renamed_weights(weights: Weights) -> dict[str, Any]:
    """NumPy arrays by detectron2's names; without the classifier and the counters, which its networks do not have."""
    kept = {key: value for key, value in weights.items() if not key.startswith("fc.") and "num_batches" not in key}
    return {renamed(key): value.numpy() for key, value in kept.items()}


def pickled(weights: Weights) -> bytes:
    """What detectron2's checkpointer reads: arrays, and that their names are to be matched as its model zoo's."""
    author = f"imagenet-trainer {__version__}"
    content = {"model": renamed_weights(weights), "__author__": author, "matching_heuristics": True}
    file = io.BytesIO()
    _Pickler(file, _PICKLE_PROTOCOL).dump(content)
    return file.getvalue()


class _Pickler(pickle._Pickler):
    """Calls NumPy's functions by the names that NumPy 1 has, too."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module, found = str(obj.__module__), name or obj.__qualname__
        self.save(module.replace("numpy._core", "numpy.core"))  # type: ignore[attr-defined]
        self.save(found)  # type: ignore[attr-defined]
        self.write(pickle.STACK_GLOBAL)  # type: ignore[attr-defined]
        self.memoize(obj)  # type: ignore[attr-defined]


class _Unpickler(pickle.Unpickler):
    """Of arrays alone: a pickle from elsewhere may call anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in GLOBALS:
            raise UsageError(f"a pickle that calls {module}.{name}: not what this project writes")
        return super().find_class(module, name)


def yaml_of(facts: Facts, weights: str, *, order: str, mean: list[float], std: list[float]) -> str:
    """The keys of detectron2's configuration that go with the weights."""
    narrow = "" if facts.bottleneck else "    RES2_OUT_CHANNELS: 64  # basic blocks\n"
    return f"""# {facts.arch}, stride in the {facts.stride}, shortcut {facts.shortcut}, {order}
MODEL:
  WEIGHTS: "{weights}"  # the path, from where the training is started
  RESNETS:
    DEPTH: {facts.depth}
    STRIDE_IN_1X1: {facts.is_v1}
{narrow}  PIXEL_MEAN: {_numbers(mean)}
  PIXEL_STD: {_numbers(std)}
INPUT:
  FORMAT: "{order}"
"""


def _numbers(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.7g}" for value in values) + "]"


def write(source: Source, folder: Path) -> None:
    facts = source.backbone.facts
    name = f"{facts.file_name()}.pkl"
    (folder / name).write_bytes(pickled(source.backbone.projected()))
    (folder / SNIPPET).write_text(yaml_of(facts, name, order="RGB", mean=list(facts.mean), std=list(facts.std)))


def check(folder: Path, publication: Publication) -> Check:
    """By detectron2, if it is here; else the names are taken back, and the network is ours.

    Strides and normalisation are those of the configuration that was written.
    """
    with open(only_file(folder, "*.pkl"), "rb") as file:
        arrays = _Unpickler(file).load()["model"]
    config = yaml.safe_load((folder / SNIPPET).read_text())
    model, order = config["MODEL"], config["INPUT"]["FORMAT"]
    pixels = normalised(publication.golden, model["PIXEL_MEAN"], model["PIXEL_STD"], order=order)
    try:
        return _by_detectron2(arrays, model["RESNETS"], pixels)
    except NotInstalled as missing:
        return _by_names(arrays, publication.facts, model["RESNETS"], pixels, str(missing))


def _by_detectron2(arrays: dict[str, Any], resnets: dict[str, Any], pixels: Tensor) -> Check:
    detectron2, config = package("detectron2"), package("detectron2.config")
    backbones, layers = package("detectron2.modeling.backbone"), package("detectron2.layers")
    cfg = config.get_cfg()
    for key, value in {**resnets, "OUT_FEATURES": list(STAGES.values())}.items():
        setattr(cfg.MODEL.RESNETS, key, value)
    network = backbones.build_resnet_backbone(cfg, layers.ShapeSpec(channels=3)).eval()
    keys = network.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()}, strict=False)
    with torch.no_grad():
        found = network(pixels)
    outputs = {ours: found[theirs].numpy() for ours, theirs in STAGES.items()}
    return Check(f"detectron2 {detectron2.__version__}", outputs, keys.missing_keys, keys.unexpected_keys)


def _by_names(arrays: dict[str, Any], facts: Facts, resnets: dict[str, Any], pixels: Tensor, reason: str) -> Check:
    stride = "1x1" if resnets["STRIDE_IN_1X1"] else "3x3"
    network = create_model(num_classes=0, **{**facts.model, "shortcut": "B", "stride_in": stride}).eval()
    names = {renamed(key): key for key in network.state_dict() if "num_batches" not in key}
    weights = {names[key]: torch.from_numpy(np.array(value)) for key, value in arrays.items() if key in names}
    keys = network.load_state_dict(weights, strict=False)
    missing = [key for key in keys.missing_keys if "num_batches" not in key]
    outputs: Outputs = outputs_of(network, pixels)
    return Check(f"trainer {__version__}", outputs, missing, sorted(set(arrays) - set(names)), stand_in=reason)


def usage(facts: Facts, file: str) -> str:
    return f"""Merge `{SNIPPET}` into the configuration: the input is RGB in [0, 255] with the mean and standard
deviation given there. Put the path of the weights into it.

    cfg.merge_from_file("detectron2/{SNIPPET}")
"""


FORMAT = Format("detectron2", refuse_unlike("detectron2"), write, check, usage, logits=False)
