"""The recipe of a detector: the keys of `recipes/detection/*.yaml`, every one of them given there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from data_prep.synthetic import PATTERNS
from trainer.errors import UsageError, did_you_mean
from trainer.recipe import parse_override

STRIDE: Final = 32
"""Of the last stage: images are whole multiples of it, so that nothing is padded."""


@dataclass
class DetectionRecipe:
    """Data, detector and fine-tuning."""

    seed: int = MISSING
    """Of the images, the new layers, the order of the images and the sampling of proposals."""
    classes: int = MISSING
    train_images: int = MISSING
    val_images: int = MISSING
    size: int = MISSING
    """Of the images, pixels a side."""
    channels: int = MISSING
    """Of the feature pyramid."""
    frozen_stages: int = MISSING
    """Stages of the published backbone that are not trained, besides its stem."""
    steps: int = MISSING
    batch: int = MISSING
    """Images a step."""
    lr: float = MISSING
    """After the warm-up; from there a cosine leads to 0."""
    warmup: int = MISSING
    """Steps over which the rate rises linearly."""
    momentum: float = MISSING
    weight_decay: float = MISSING


def load_detection_recipe(path: Path, overrides: Sequence[str] = ()) -> DetectionRecipe:
    """Read a recipe, apply overrides `key=value`, check it.

    Raises:
        UsageError: with file or override, key, value and what was expected.
    """
    config = OmegaConf.structured(DetectionRecipe)
    config = _merge(config, _read(path), str(path))
    for override in overrides:
        config = _merge(config, parse_override(override, "seed=1"), f"override '{override}'")
    try:
        recipe = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        missing = ", ".join(sorted(str(key) for key in OmegaConf.missing_keys(config)))
        raise UsageError(f"{path}: {missing} missing; recipes/detection/faster_rcnn.yaml has every key") from error
    assert isinstance(recipe, DetectionRecipe)
    _check(recipe, f"{path} with overrides" if overrides else str(path))
    return recipe


def _read(path: Path) -> DictConfig:
    try:
        content = OmegaConf.load(path)
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot read the recipe: {' '.join(str(error).split())}") from error
    if not isinstance(content, DictConfig):
        raise UsageError(f"{path}: a recipe is a mapping of keys to values")
    return content


def _merge(config: DictConfig, layer: DictConfig, source: str) -> DictConfig:
    known = [entry.name for entry in fields(DetectionRecipe)]
    for key in map(str, layer):
        if key not in known:
            raise UsageError(f"{source}: unknown key '{key}'{did_you_mean(key, known)}")
    try:
        merged = OmegaConf.merge(config, layer)
    except OmegaConfBaseException as error:
        reason = str(error).split("\n")[0]
        raise UsageError(f"{source}: {getattr(error, 'full_key', None) or 'recipe'}: {reason}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _check(recipe: DetectionRecipe, source: str) -> None:
    rules: list[tuple[str, bool, Any]] = [
        ("seed", recipe.seed >= 0, "0 or more"),
        ("classes", 1 <= recipe.classes <= len(PATTERNS), f"1 to {len(PATTERNS)}"),
        ("train_images", recipe.train_images >= recipe.batch, f"at least a batch ({recipe.batch})"),
        ("val_images", recipe.val_images > 0, "1 or more"),
        ("size", recipe.size >= 2 * STRIDE and recipe.size % STRIDE == 0, f"a multiple of {STRIDE}, two or more"),
        ("channels", recipe.channels > 0, "1 or more"),
        ("frozen_stages", 0 <= recipe.frozen_stages <= 4, "0 to 4"),
        ("steps", recipe.steps > 0, "1 or more"),
        ("batch", recipe.batch > 0, "1 or more"),
        ("lr", 0 < recipe.lr < math.inf, "a positive rate"),
        ("warmup", 0 <= recipe.warmup < recipe.steps, f"0 or more, fewer than steps ({recipe.steps})"),
        ("momentum", 0 <= recipe.momentum < 1, "a number in [0, 1)"),
        ("weight_decay", 0 <= recipe.weight_decay < math.inf, "0 or more"),
    ]
    for key, fulfilled, expected in rules:
        if not fulfilled:
            raise UsageError(f"{source}: {key} is {getattr(recipe, key)}, expected {expected}")
