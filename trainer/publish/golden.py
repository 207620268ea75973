"""The golden input and what every stage makes of it: what a consumer has to reproduce."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.errors import UsageError
from trainer.models.resnet import StagedNetwork
from trainer.publish.backbone import Backbone

FILE: Final = "golden.npz"
IMAGES: Final = "images"
INPUT: Final = "input"
LOGITS: Final = "logits"
SEED: Final = 20151210
"""The day the paper came out."""
COUNT, SIDE, GRID = 2, 64, 8
"""Two images of 64 pixels, in squares of 8: no stage has one pixel only, and the file stays small."""

Outputs = dict[str, npt.NDArray[Any]]


def make_golden(backbone: Backbone) -> Outputs:
    """Seeded images, uint8 [2, side, side, 3] RGB; the network's `input`, float32 [2, 3, side, side]; every stage's
    output by its name, `layer1` and on, and `logits`, float32."""
    facts = backbone.facts
    side = facts.size if backbone.mean_image is not None else SIDE
    images = _images(side)
    mean = torch.tensor(facts.mean) if backbone.mean_image is None else backbone.mean_image
    pixels = ((torch.from_numpy(images).float() - mean) / torch.tensor(facts.std)).permute(0, 3, 1, 2).contiguous()
    return {IMAGES: images, INPUT: pixels.numpy(), **outputs_of(backbone.network(), pixels)}


def _images(side: int) -> npt.NDArray[np.uint8]:
    """Coloured squares with noise: all frequencies, all channels different."""
    random = np.random.Generator(np.random.PCG64(SEED))
    count = -(-side // GRID)
    squares = random.integers(0, 256, (COUNT, count, count, 3)).repeat(GRID, 1).repeat(GRID, 2)[:, :side, :side]
    noise = random.integers(-24, 25, (COUNT, side, side, 3))
    return np.clip(squares + noise, 0, 255).astype(np.uint8)


@torch.no_grad()
def outputs_of(network: StagedNetwork, pixels: Tensor) -> Outputs:
    """What the stages of one of this project's networks make of its input, and the logits if it has classes."""
    found = {}
    x = network.maxpool(network.relu(network.bn1(network.conv1(pixels))))
    for feature in network.feature_info[1:]:
        x = getattr(network, feature["module"])(x)
        found[feature["module"]] = x.numpy()
    if network.num_classes:
        found[LOGITS] = network.forward_head(x).numpy()
    return found


def normalised(golden: Outputs, mean: Sequence[float], std: Sequence[float], *, order: str = "RGB") -> Tensor:
    """The golden images as a consumer prepares them, float32 [2, 3, h, w].

    Args:
        mean, std: of pixels in [0, 255], in that `order` of the channels, "RGB" or "BGR".
    """
    pixels = torch.from_numpy(golden[IMAGES]).float()
    pixels = pixels.flip(-1) if order == "BGR" else pixels
    return ((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2).contiguous()


def write_golden(path: Path, golden: Outputs) -> None:
    """As a `.npz`, the same bytes every time."""
    content = io.BytesIO()
    np.savez(content, **cast(dict[str, Any], golden))  # no time stamps: NumPy writes 1980
    path.write_bytes(content.getvalue())


def read_golden(path: Path) -> Outputs:
    """
    Raises:
        UsageError: it cannot be read.
    """
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # on damaged bytes NumPy may raise anything
        raise UsageError(f"{path}: cannot read the golden outputs: {error}") from error


def stages_of(golden: Outputs) -> list[str]:
    """The names of the stages' outputs."""
    return sorted(name for name in golden if name.startswith("layer"))


def worst_difference(found: Outputs, golden: Outputs, wanted: Sequence[str]) -> tuple[str, float]:
    """Of the `wanted` outputs the one furthest from the golden one, and how far: |a - b| / |b| in the Euclidean norm;
    infinite if it is not there."""
    distances = [relative(found[name], golden[name]) if name in found else math.inf for name in wanted]
    worst = max(range(len(wanted)), key=distances.__getitem__)
    return wanted[worst], distances[worst]


def relative(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """|a - b| / |b|; infinite where they cannot be compared or are not finite."""
    if found.shape != wanted.shape or not (np.isfinite(found).all() and np.isfinite(wanted).all()):
        return math.inf
    difference = float(np.linalg.norm((found.astype(np.float64) - wanted).ravel()))
    return difference / max(float(np.linalg.norm(wanted.astype(np.float64).ravel())), 1e-30)
