"""detectron2: its names in a pickle, for configurations whose input is RGB with mean and standard deviation."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer import __version__
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
from trainer.publish.golden import INPUT, Outputs, outputs_of

SNIPPET = "config.yaml"
STAGES = {f"layer{number}": f"res{number + 1}" for number in range(1, 5)}
_PICKLE_PROTOCOL = 4

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


def pickled(weights: Weights, author: str) -> bytes:
    """What detectron2's checkpointer reads: arrays, and that their names are to be matched as its model zoo's."""
    content = {"model": renamed_weights(weights), "__author__": author, "matching_heuristics": True}
    return pickle.dumps(content, protocol=_PICKLE_PROTOCOL)


def yaml_of(facts: Facts, weights: str, *, order: str, mean: list[float], std: list[float]) -> str:
    """The keys of detectron2's configuration that go with the weights."""
    narrow = "" if facts.bottleneck else "    RES2_OUT_CHANNELS: 64  # basic blocks\n"
    return f"""# {facts.arch}, stride in the {facts.stride}, shortcut {facts.shortcut}, {order}
MODEL:
  WEIGHTS: "{weights}"
  RESNETS:
    DEPTH: {facts.arch.removeprefix("resnet")}
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
    (folder / name).write_bytes(pickled(source.backbone.projected(), f"imagenet-trainer {__version__}"))
    (folder / SNIPPET).write_text(yaml_of(facts, name, order="RGB", mean=list(facts.mean), std=list(facts.std)))


def check(folder: Path, publication: Publication) -> Check:
    return check_pickle(folder, publication, torch.from_numpy(publication.golden[INPUT]))


def check_pickle(folder: Path, publication: Publication, pixels: Tensor) -> Check:
    """By detectron2, if it is here; else the names are taken back and the network is ours."""
    with open(only_file(folder, "*.pkl"), "rb") as file:
        arrays = pickle.load(file)["model"]
    try:
        return _by_detectron2(arrays, publication.facts, pixels)
    except NotInstalled:
        return _by_names(arrays, publication.facts, pixels)


def _by_detectron2(arrays: dict[str, Any], facts: Facts, pixels: Tensor) -> Check:
    detectron2, config = package("detectron2"), package("detectron2.config")
    backbones, layers = package("detectron2.modeling.backbone"), package("detectron2.layers")
    cfg = config.get_cfg()
    cfg.MODEL.RESNETS.DEPTH = int(facts.arch.removeprefix("resnet"))
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = facts.is_v1
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256 if facts.bottleneck else 64
    cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES.values())
    network = backbones.build_resnet_backbone(cfg, layers.ShapeSpec(channels=3)).eval()
    keys = network.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()}, strict=False)
    with torch.no_grad():
        found = network(pixels)
    outputs = {ours: found[theirs].numpy() for ours, theirs in STAGES.items()}
    return Check(f"detectron2 {detectron2.__version__}", outputs, keys.missing_keys, keys.unexpected_keys)


def _by_names(arrays: dict[str, Any], facts: Facts, pixels: Tensor) -> Check:
    projected = create_model(num_classes=0, **{**facts.model, "shortcut": "B"}).eval()
    names = {renamed(key): key for key in projected.state_dict() if "num_batches" not in key}
    weights = {names[key]: torch.from_numpy(np.array(value)) for key, value in arrays.items() if key in names}
    keys = projected.load_state_dict(weights, strict=False)
    missing = [key for key in keys.missing_keys if "num_batches" not in key]
    outputs: Outputs = outputs_of(projected, pixels)
    unexpected = sorted(set(arrays) - set(names))
    loaded_by = f"trainer {__version__}, names taken back"
    return Check(loaded_by, outputs, missing, unexpected, "detectron2 is not installed")


def usage(facts: Facts, file: str) -> str:
    return f"""Merge `{SNIPPET}` into the configuration: the input is RGB in [0, 255] with the mean and standard
deviation given there.

    cfg.merge_from_file("detectron2/{SNIPPET}")
"""


FORMAT = Format("detectron2", refuse_unlike("detectron2"), write, check, usage)
