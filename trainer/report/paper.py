"""The errors that the paper and its released models' README publish. The one place of these numbers."""

from __future__ import annotations

from typing import Final, NamedTuple

from trainer.evaluation.protocols import (
    CENTER,
    MULTI_SCALE_DENSE,
    PAPER_RESIZE,
    PAPER_SCALES,
    TEN_CROP,
)
from trainer.recipe import ModelRecipe


class Published(NamedTuple):
    """Published errors of one network under one protocol, in percent."""

    top1: float
    top5: float | None
    """None: not given."""
    source: str

    @property
    def top1_text(self) -> str:
        """In percent, with the decimals that the source gives."""
        return self._text(self.top1)

    @property
    def top5_text(self) -> str:
        """As `top1_text`; "" if it is not given."""
        return "" if self.top5 is None else self._text(self.top5)

    def _text(self, error: float) -> str:
        return f"{error:.{1 if self.source == RELEASED else 2}f}"


RELEASED: Final = "released models"
IMAGENET: Final = "ImageNet"
CIFAR: Final = "CIFAR-10"

SCALES: Final[dict[tuple[str, str], list[int]]] = {
    (IMAGENET, CENTER): [PAPER_RESIZE],
    (IMAGENET, TEN_CROP): [PAPER_RESIZE],
    (IMAGENET, MULTI_SCALE_DENSE): list(PAPER_SCALES),
    (CIFAR, CENTER): [32],
}
"""The shorter sides, in pixels, of the published errors."""

VALIDATION_IMAGES: Final = {IMAGENET: 50_000, CIFAR: 10_000}
"""ILSVRC2012's validation set; CIFAR-10's test set."""

BUDGET: Final = {IMAGENET: 600_000 * 256, CIFAR: 64_000 * 128}
"""Images seen in training: up to 60 x 10^4 iterations of 256 (section 3.4), 64k of 128 (section 4.2)."""

PAPER: Final[dict[tuple[str, str, str], Published]] = {
    # ImageNet validation, 10-crop: Table 2, and Table 3 where both have it.
    ("plain18", "", TEN_CROP): Published(27.94, None, "Table 2"),
    ("plain34", "", TEN_CROP): Published(28.54, 10.02, "Table 3"),
    ("resnet18", "A", TEN_CROP): Published(27.88, None, "Table 2"),
    ("resnet34", "A", TEN_CROP): Published(25.03, 7.76, "Table 3"),
    ("resnet34", "B", TEN_CROP): Published(24.52, 7.46, "Table 3"),
    ("resnet34", "C", TEN_CROP): Published(24.19, 7.40, "Table 3"),
    ("resnet50", "B", TEN_CROP): Published(22.85, 6.71, "Table 3"),
    ("resnet101", "B", TEN_CROP): Published(21.75, 6.05, "Table 3"),
    ("resnet152", "B", TEN_CROP): Published(21.43, 5.71, "Table 3"),
    # ImageNet validation, single models "in the fully-convolutional form", averaged over scales.
    ("resnet34", "B", MULTI_SCALE_DENSE): Published(21.84, 5.71, "Table 4"),
    ("resnet34", "C", MULTI_SCALE_DENSE): Published(21.53, 5.60, "Table 4"),
    ("resnet50", "B", MULTI_SCALE_DENSE): Published(20.74, 5.25, "Table 4"),
    ("resnet101", "B", MULTI_SCALE_DENSE): Published(19.87, 4.60, "Table 4"),
    ("resnet152", "B", MULTI_SCALE_DENSE): Published(19.38, 4.49, "Table 4"),
    # ImageNet validation, one crop; the README gives one decimal.
    ("resnet50", "B", CENTER): Published(24.7, 7.8, RELEASED),
    ("resnet101", "B", CENTER): Published(23.6, 7.1, RELEASED),
    ("resnet152", "B", CENTER): Published(23.0, 6.7, RELEASED),
    # CIFAR-10 test, "the single view of the original 32x32 image".
    ("cifar_resnet20", "A", CENTER): Published(8.75, None, "Table 6"),
    ("cifar_resnet32", "A", CENTER): Published(7.51, None, "Table 6"),
    ("cifar_resnet44", "A", CENTER): Published(7.17, None, "Table 6"),
    ("cifar_resnet56", "A", CENTER): Published(6.97, None, "Table 6"),
    ("cifar_resnet110", "A", CENTER): Published(6.43, None, "Table 6"),
    ("cifar_resnet1202", "A", CENTER): Published(7.93, None, "Table 6"),
}
"""By network, option of its shortcuts ("": it has none) and protocol.

There is none of ResNet-18 with option B or C, of the plain networks on CIFAR-10 (Figure 6 only draws them), and of
10-crops at several scales.
"""


def family(model: str) -> str:
    """The data set that the paper trains a network on, `IMAGENET` or `CIFAR`."""
    return CIFAR if ModelRecipe(model).is_cifar else IMAGENET


def published(network: ModelRecipe, protocol: str) -> Published | None:
    """The published error of a network; None if there is none, or it has other blocks than the paper's.

    Args:
        protocol: of `trainer.evaluation.protocols`; of CIFAR networks CENTER is the single view of the original image.
    """
    papers = ModelRecipe(name=network.name)
    if network.block not in (None, "basic"):
        return None
    if any(getattr(network, key) != getattr(papers, key) for key in ("kernel", "skip", "dropout")):
        return None
    return PAPER.get((network.name, network.option, protocol))
