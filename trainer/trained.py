"""A checkpoint's network, ready to be used: the one way in for all that looks at what training left."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from trainer import checkpoint
from trainer.data.colour import ColourStatistics
from trainer.errors import UsageError
from trainer.models import create_model
from trainer.models.resnet import StagedNetwork
from trainer.recipe import Recipe, recipe_from_dict

_WRAPPERS: Final = re.compile(r"^(?:(?:module|_orig_mod)\.)+")


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds of a network."""

    file: Path
    """The state file; no link."""
    recipe: Recipe
    model: StagedNetwork
    """On the CPU."""
    classes: list[str]
    statistics: ColourStatistics
    mean_image: torch.Tensor | None
    """float32 [size, size, 3]."""
    step: int
    samples: int
    ema: bool
    """Whether the weights are the moving average."""
    recalibrated: bool
    """Whether batch norm has statistics over many training images, not moving averages."""
    data_digest: str
    """Of the training data."""
    versions: dict[str, str]
    """Of the packages that it was trained with."""

    @property
    def run_dir(self) -> Path | None:
        """The run folder that the checkpoint lies in, if it does."""
        return checkpoint.run_dir_of(self.file)

    def on(self, device: torch.device) -> StagedNetwork:
        """The network in evaluation mode on a device."""
        return self.model.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @property
    def title(self) -> str:
        """Network and position, for people."""
        facts = ["moving average"] * self.ema + ["batch norm recalibrated"] * self.recalibrated
        return f"{self.recipe.model.title}, step {self.step:,}" + (f" ({', '.join(facts)})" if facts else "")


def load_trained(path: str | Path, *, ema: bool = False) -> Trained:
    """The network of a checkpoint.

    Args:
        path: a run folder, a checkpoint's folder or its state file.
        ema: the moving average of its weights.

    Raises:
        UsageError: it cannot be read, or has no moving average.
    """
    file = checkpoint.find(path)
    state = checkpoint.load(file)
    recipe = recipe_from_dict(state["recipe"], str(file))
    model = create_model(num_classes=len(state["classes"]), **asdict(recipe.model))
    try:
        model.load_state_dict(_weights(state, file, ema))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{file}: its weights are not those of {recipe.model.name} ({reason[:500]})") from error
    return Trained(
        file.resolve(),
        recipe,
        model,
        state["classes"],
        ColourStatistics(**state["colour"]),
        state["mean_image"],
        state["step"],
        state["samples"],
        ema,
        state["recalibrated"] is not None,
        state["data_digest"],
        state["versions"],
    )


def _weights(state: dict[str, Any], file: Path, ema: bool) -> dict[str, torch.Tensor]:
    if not ema:
        return plain_names(state["model"])
    if state["ema"] is None:
        raise UsageError(f"{file}: it has no moving average of the weights: its recipe has optimizer.ema=0")
    return plain_names(state["ema"]["model"])


def plain_names(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by the names that the network has alone, without those of what it was wrapped in: DDP's `module.`,
    torch.compile's `_orig_mod.`."""
    return {_WRAPPERS.sub("", name): value for name, value in weights.items()}
