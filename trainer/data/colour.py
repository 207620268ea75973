"""From bytes to the network's input, on the device: subtract the mean, scale, shift the colours.

Section 3.4 of the paper: "with the per-pixel mean subtracted" and "the standard color augmentation", which is the PCA
of Krizhevsky et al. 2012, section 4.1: to every pixel of an image is added P (a * lambda), a ~ N(0, sigma), with the
eigenvectors P and eigenvalues lambda of the covariance of RGB; one draw an image, in float, without clamping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from trainer.data.manifest import Manifest, load_mean_image
from trainer.errors import UsageError


@dataclass(frozen=True)
class ColourStatistics:
    """What normalisation and colour augmentation need to know of a data set; RGB in [0, 255]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    eigenvalues: tuple[float, float, float]
    """The lambdas of the augmentation: eigenvalues of the covariance of RGB in [0, 1], times 255."""
    eigenvectors: tuple[tuple[float, float, float], ...]
    """Rows R, G, B; columns in the order of the eigenvalues."""


IMAGENET: Final = ColourStatistics(
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    eigenvalues=(255 * 0.2175, 255 * 0.0188, 255 * 0.0045),
    eigenvectors=((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)),
)
"""What every consumer of ImageNet backbones expects; the constants of the PCA are fb.resnet.torch's (trap T11)."""


def colour_statistics(which: str, manifest: Manifest | None, beton: str) -> ColourStatistics:
    """The constants (`imagenet`) or those measured at conversion (`data`).

    Raises:
        UsageError: `data` is asked for and `beton` has no manifest, or all its images are of one colour.
    """
    if which == "imagenet":
        return IMAGENET
    if manifest is None:
        raise UsageError(f"{beton}: no manifest beside it to take statistics from; set data.statistics=imagenet")
    measured = manifest.statistics
    if min(measured.std) <= 0:
        raise UsageError(
            f"{beton}: a channel has the same value everywhere (standard deviations {measured.std}), which cannot be "
            "normalised; set data.statistics=imagenet"
        )
    # Krizhevsky et al. multiply by the eigenvalue itself, not by its root, so the shift depends on the unit of the
    # pixels: theirs is [0, 1]. The manifest's eigenvalues are those of [0, 255]: /255**2 for the unit, *255 back.
    lambdas = np.maximum(measured.eigenvalues, 0.0) / 255.0
    return ColourStatistics(
        mean=_triple(measured.mean),
        std=_triple(measured.std),
        eigenvalues=_triple(lambdas),
        eigenvectors=tuple(_triple(row) for row in measured.eigenvectors),
    )


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


class Preprocess(nn.Module):
    """Batches of bytes to the network's input: `(x - mean) / std`, or `x - mean_image`, plus the colour shift.

    Args:
        statistics: mean, std and PCA.
        sigma: standard deviation of the colour augmentation's a; 0 turns it off (evaluation).
        mean_image: float32 [size, size, 3]; when given it is subtracted, and nothing is divided (trap T10).
    """

    scale: torch.Tensor
    offset: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self, statistics: ColourStatistics, sigma: float = 0.0, mean_image: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        if mean_image is None:
            scale = 1.0 / torch.tensor(statistics.std)
            offset = -torch.tensor(statistics.mean).view(1, 3, 1, 1) * scale.view(1, 3, 1, 1)
        else:
            scale = torch.ones(3)
            offset = -mean_image.permute(2, 0, 1).unsqueeze(0)
        components = torch.tensor(statistics.eigenvectors) * torch.tensor(statistics.eigenvalues) * sigma
        self.augments = sigma > 0
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", offset.contiguous(memory_format=torch.channels_last), persistent=False)
        # Draws [b, 3] @ shift -> colour shift [b, 3], already divided as the image is.
        self.register_buffer("shift", (components * scale.view(3, 1)).T.contiguous(), persistent=False)

    def forward(self, images: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
        """uint8 [b, h, w, 3] and draws [b, 3] -> float32 [b, 3, h, w], channels_last."""
        # Not by @, which autocast would compute in 16 bits and a compiler in a kernel of its own.
        shift = (colour[:, :, None] * self.shift).sum(dim=1).view(-1, 3, 1, 1) if self.augments else 0.0
        offset = self.offset + shift
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        return torch.addcmul(offset, pixels, self.scale, out=pixels)

    def levels(self, colour: torch.Tensor) -> torch.Tensor:
        """What the draws [b, 3] add to every pixel, in levels of RGB in [0, 255]: float32 [b, 3]."""
        return colour @ self.shift / self.scale.view(3)

    def to_rgb(self, inputs: torch.Tensor) -> torch.Tensor:
        """The network's input as a picture, for people: float32 [b, 3, h, w] -> uint8 [b, h, w, 3].

        The colour shift is kept; what it moves out of [0, 255] is clamped.
        """
        pixels = (inputs - self.offset) / self.scale
        return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def mean_image_for(beton: str, size: int) -> torch.Tensor:
    """The mean image beside `beton` as float32 [size, size, 3].

    Raises:
        UsageError: it is missing or of another size: a mean image has no meaning at other sizes (trap T10).
    """
    image = load_mean_image(beton)
    if image.shape != (size, size, 3):
        raise UsageError(
            f"{beton}: its mean image is {image.shape[1]}x{image.shape[0]}, the crops are {size}x{size}; "
            "use data.normalize=channel, or crops of the mean image's size"
        )
    return torch.from_numpy(image)
