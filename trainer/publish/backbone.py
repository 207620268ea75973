"""A checkpoint as it is published: weights under plain names, and every fact that a consumer must know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import UsageError
from trainer.models import create_model
from trainer.models.resnet import FIRST_BOTTLENECK_DEPTH, BasicBlock, Bottleneck, StagedNetwork, ZeroPadShortcut
from trainer.recipe import ModelRecipe
from trainer.trained import load_trained

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Facts:
    """What there is to know of a published network besides its weights; plain values, so that JSON holds them."""

    name: str
    """Begins the files' names (see `file_name`)."""
    model: dict[str, Any]
    """What `create_model` builds the network with."""
    num_classes: int
    mean: tuple[float, float, float]
    """RGB in [0, 255]."""
    std: tuple[float, float, float]
    """1 where a mean image is subtracted and nothing divided."""
    mean_image: bool
    """Whether a mean image is subtracted, not a mean colour."""
    size: int
    """Side of the crops that it was validated on, pixels."""
    resize: int
    """Shorter side of the image whose centre it was validated on, pixels."""
    step: int
    samples: int
    ema: bool
    recalibrated: bool
    data_digest: str
    """Of the training data."""
    recipe: dict[str, Any]
    versions: dict[str, str]

    @property
    def arch(self) -> str:
        """The network's name: `resnet50`."""
        return str(self.model["name"])

    @property
    def stride(self) -> str:
        """The convolution of a block that strides; in basic blocks it is always a 3x3."""
        return str(self.model["stride_in"]) if self.bottleneck else "3x3"

    @property
    def depth(self) -> int:
        """Weighted layers."""
        return int(self.arch.rpartition("resnet" if not self.is_plain else "plain")[2])

    @property
    def bottleneck(self) -> bool:
        if self.is_cifar:
            return self.model["block"] == "bottleneck"
        return self.depth >= FIRST_BOTTLENECK_DEPTH

    @property
    def is_cifar(self) -> bool:
        return ModelRecipe(self.arch).is_cifar

    @property
    def is_plain(self) -> bool:
        return ModelRecipe(self.arch).is_plain

    @property
    def is_v1(self) -> bool:
        """Whether torchvision and timm would run its weights as another network without a word."""
        return self.bottleneck and self.stride == "1x1"

    @property
    def shortcut(self) -> str:
        """The option of its shortcuts; "none" for plain networks."""
        return ModelRecipe(**self.model).option or "none"

    @property
    def unit_mean(self) -> list[float]:
        """RGB in [0, 1], as torchvision, timm and transformers have it."""
        return [value / 255 for value in self.mean]

    @property
    def unit_std(self) -> list[float]:
        return [value / 255 for value in self.std]

    def file_name(self, order: str = "rgb") -> str:
        """What tells the files of different networks apart, whatever folder they are copied to."""
        return f"{self.name}-stride{self.stride}-shortcut{self.shortcut}-{order}"

    def metadata(self, order: str = "rgb") -> dict[str, str]:
        """For the header of a safetensors or ONNX file, which holds strings."""
        return {
            "arch": self.arch,
            "stride": self.stride,
            "shortcut": self.shortcut,
            "channel_order": order.upper(),
            "mean": ", ".join(f"{value:g}" for value in self.mean),
            "std": ", ".join(f"{value:g}" for value in self.std),
            "mean_and_std_are_of": "pixels in [0, 255]",
            "data_digest": self.data_digest,
        }


@dataclass(frozen=True)
class Backbone:
    """A network to publish."""

    facts: Facts
    labels: list[str]
    weights: Weights
    """float32, contiguous, with this project's keys (torchvision's for ImageNet networks)."""
    mean_image: Tensor | None
    """float32 [size, size, 3]: subtracted instead of the mean."""
    run_dir: Path | None

    def network(self) -> StagedNetwork:
        """In evaluation mode, on the CPU."""
        return build(self.facts, self.weights)

    def projected(self) -> Weights:
        """The weights with option A written as option B: what consumers have no name for becomes a projection.

        Raises:
            UsageError: of option C, whose projections in every block no consumer has.
        """
        if self.facts.shortcut == "C":
            raise UsageError("option C has projections that no consumer has; publish it as native or onnx")
        weights = dict(self.weights)
        for name, module in self.network().named_modules():
            if isinstance(module, (BasicBlock, Bottleneck)) and isinstance(module.downsample, ZeroPadShortcut):
                weights |= identity_projection(f"{name}.downsample", module)
        return weights


def build(facts: Facts, weights: Weights, *, num_classes: int | None = None) -> StagedNetwork:
    """The network of `facts` with `weights`, strictly, in evaluation mode.

    Raises:
        RuntimeError: the weights are not those of the network.
    """
    count = facts.num_classes if num_classes is None else num_classes
    network = create_model(num_classes=count, **facts.model)
    network.load_state_dict(weights)
    return network.eval()


def identity_projection(prefix: str, block: BasicBlock | Bottleneck) -> Weights:
    """Option A's shortcut as option B's 1x1 convolution and batch norm: the identity, and zeros for the new channels.

    Batch norm divides by sqrt(var + eps): var = 1 - eps makes it the identity (1 - 1e-5 + 1e-5 is 1 in float32).
    """
    first, last = _first_and_last(block)
    weight = torch.zeros(last.num_features, first.in_channels, 1, 1)
    kept = range(first.in_channels)
    weight[kept, kept] = 1.0
    return {
        f"{prefix}.0.weight": weight,
        f"{prefix}.1.weight": torch.ones(last.num_features),
        f"{prefix}.1.bias": torch.zeros(last.num_features),
        f"{prefix}.1.running_mean": torch.zeros(last.num_features),
        f"{prefix}.1.running_var": torch.full((last.num_features,), 1 - last.eps),
        f"{prefix}.1.num_batches_tracked": torch.tensor(0),
    }


def _first_and_last(block: BasicBlock | Bottleneck) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    convolutions = [module for module in block.children() if isinstance(module, nn.Conv2d)]
    norms = [module for module in block.children() if isinstance(module, nn.BatchNorm2d)]
    return convolutions[0], norms[-1]


def load_backbone_of(path: str | Path, *, name: str | None, ema: bool, labels: Sequence[str] | None) -> Backbone:
    """A checkpoint of this project, ready to be published.

    Args:
        path: a run folder, a checkpoint's folder or its state file.
        name: begins the files' names; None: the network's.
        ema: the moving average of its weights.
        labels: names of the classes; None: those of the training data.

    Raises:
        UsageError: it cannot be read, its weights are not finite, or its classes have no names.
    """
    trained = load_trained(path, ema=ema)
    weights = {key: value.detach().contiguous() for key, value in trained.model.state_dict().items()}
    wild = [key for key, value in weights.items() if not value.isfinite().all()]
    if wild:
        raise UsageError(f"{trained.file}: {wild[0]} is not finite: the run diverged; publish an earlier checkpoint")
    facts = Facts(
        name=name or trained.recipe.model.name,
        model=asdict(trained.recipe.model),
        num_classes=len(trained.classes),
        mean=trained.statistics.mean,
        std=trained.statistics.std if trained.mean_image is None else (1.0, 1.0, 1.0),
        mean_image=trained.mean_image is not None,
        size=trained.recipe.validation_size,
        resize=trained.recipe.evaluation.resize,
        step=trained.step,
        samples=trained.samples,
        ema=trained.ema,
        recalibrated=trained.recalibrated,
        data_digest=trained.data_digest,
        recipe=_without_places(asdict(trained.recipe)),
        versions=trained.versions,
    )
    return Backbone(facts, _labels(trained.file, trained.classes, labels), weights, trained.mean_image, trained.run_dir)


def _labels(file: Path, classes: Sequence[str], given: Sequence[str] | None) -> list[str]:
    if given is not None:
        if len(given) != len(classes):
            raise UsageError(f"--labels has {len(given)} names, {file} has {len(classes)} classes; give one a line")
        return list(given)
    if list(classes) == [str(number) for number in range(len(classes))]:
        raise UsageError(
            f"{file}: its classes have no names, as its training data had no manifest; give them with --labels FILE, "
            "one a line in the order of the labels"
        )
    return list(classes)


def _without_places(recipe: dict[str, Any]) -> dict[str, Any]:
    """Of paths the last part: what lies where is nobody's business."""
    data = {key: Path(value).name if key in ("train", "val") else value for key, value in recipe["data"].items()}
    return {key: value for key, value in recipe.items() if key != "runs"} | {"data": data}
