"""What a format is: whom it is for, what it refuses, how it is written, how it is checked."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from trainer.publish.backbone import Backbone, Facts
from trainer.publish.golden import LOGITS, Outputs


@dataclass(frozen=True)
class Source:
    """What is published."""

    backbone: Backbone
    golden: Outputs
    license: str


@dataclass(frozen=True)
class Publication:
    """What was published, as it is read back."""

    facts: Facts
    labels: list[str]
    golden: Outputs


@dataclass(frozen=True)
class Check:
    """What a consumer made of its format."""

    loaded_by: str
    """Package and version."""
    outputs: Outputs
    """By the golden outputs' names."""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    stand_in: str = ""
    """Why it was not the consumer that loaded it."""


class NotInstalled(Exception):
    """The package of the consumer is not here."""


@dataclass(frozen=True)
class Format:
    """One consumer's.

    Attributes:
        refuse: why the network cannot be written so, None if it can.
        write: into an empty folder of its own.
        check: load what was written with the consumer; raises NotInstalled.
        usage: how a user loads it, in Markdown; Python in it runs in the publication's folder.
        stages, logits: what the check compares.
    """

    name: str
    refuse: Callable[[Facts, bool], str | None]
    write: Callable[[Source, Path], None]
    check: Callable[[Path, Publication], Check]
    usage: Callable[[Facts, str], str]
    stages: bool = True
    logits: bool = True


def package(name: str) -> ModuleType:
    """Import a consumer.

    Raises:
        NotInstalled: it is not here, or does not import.
    """
    top = name.partition(".")[0]
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == top
        raise NotInstalled(f"{top} is not installed" if absent else f"{top} does not import: {error}") from error
    if module.__file__ is None:  # a folder of that name: a publication's own, where it is the working directory
        raise NotInstalled(f"{top} is not installed")
    return module


def refuse_unlike(consumer: str) -> Callable[[Facts, bool], str | None]:
    """For consumers that have the ImageNet residual networks with option B alone, and the stem's pooling padded."""

    def refuse(facts: Facts, allow_v1_snippet: bool) -> str | None:
        if facts.is_cifar:
            return f"{consumer} has no network for images of {facts.size} pixels like {facts.arch}"
        if facts.mean_image:
            return f"{consumer} subtracts a mean colour, {facts.arch} was trained with a mean image (data.normalize)"
        if facts.is_plain:
            return f"{consumer} has no network without shortcuts like {facts.arch}"
        if facts.shortcut == "C":
            return f"{consumer} has no projections in every block; loaded loosely, option C is wrong without a word"
        if facts.model["stem_pool"] == "caffe":
            return f"{consumer} pads the stem's pooling, {facts.arch} was trained unpadded (model.stem_pool=caffe)"
        return None

    return refuse


def only_file(folder: Path, pattern: str) -> Path:
    """The one file of a kind."""
    (found,) = folder.glob(pattern)
    return found


def check_stages(network: nn.Module, stages: dict[str, str], classifier: str, pixels: Tensor) -> Outputs:
    """Run a consumer's network on the golden images, float32 [n, 3, h, w].

    Args:
        stages: names of its modules by those of ours.
        classifier: the module whose output is the logits.
    """
    found: Outputs = {}
    wanted = {theirs: ours for ours, theirs in stages.items()} | {classifier: LOGITS}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[wanted[name]] = output.numpy().copy()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules() if name in wanted]
    try:
        with torch.no_grad():
            network.eval()(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return found


STAGES = {f"layer{number}": f"layer{number}" for number in range(1, 5)}
"""Of consumers that call the stages as torchvision does."""
