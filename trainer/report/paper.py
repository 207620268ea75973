"""The errors that the paper and its released models' README publish, in percent (top-1, top-5); None: not given."""

from __future__ import annotations

from typing import Final, NamedTuple


class Published(NamedTuple):
    """Published errors of one network."""

    top1: float
    top5: float | None
    data: str
    protocol: str


IMAGENET: Final = "ImageNet"
CIFAR: Final = "CIFAR-10"
TEN_CROP: Final = "10-crop"
SINGLE: Final = "single view"

PAPER: Final[dict[tuple[str, str], Published]] = {
    # ImageNet validation, Tables 2 and 3.
    ("plain18", "B"): Published(27.94, None, IMAGENET, TEN_CROP),
    ("plain34", "B"): Published(28.54, 10.02, IMAGENET, TEN_CROP),
    ("resnet18", "A"): Published(27.88, None, IMAGENET, TEN_CROP),
    ("resnet34", "A"): Published(25.03, 7.76, IMAGENET, TEN_CROP),
    ("resnet34", "B"): Published(24.52, 7.46, IMAGENET, TEN_CROP),
    ("resnet34", "C"): Published(24.19, 7.40, IMAGENET, TEN_CROP),
    ("resnet50", "B"): Published(22.85, 6.71, IMAGENET, TEN_CROP),
    ("resnet101", "B"): Published(21.75, 6.05, IMAGENET, TEN_CROP),
    ("resnet152", "B"): Published(21.43, 5.71, IMAGENET, TEN_CROP),
    # CIFAR-10, Table 6.
    ("cifar_resnet20", "A"): Published(8.75, None, CIFAR, SINGLE),
    ("cifar_resnet32", "A"): Published(7.51, None, CIFAR, SINGLE),
    ("cifar_resnet44", "A"): Published(7.17, None, CIFAR, SINGLE),
    ("cifar_resnet56", "A"): Published(6.97, None, CIFAR, SINGLE),
    ("cifar_resnet110", "A"): Published(6.43, None, CIFAR, SINGLE),
    ("cifar_resnet1202", "A"): Published(7.93, None, CIFAR, SINGLE),
}
"""By network and shortcut option. There is no published number for ResNet-18 with option B or C."""


def published(model: str, shortcut: str | None) -> Published | None:
    """The published error of a recipe's network; `shortcut` None is the paper's choice for it."""
    return PAPER.get((model, shortcut or ("A" if model.startswith("cifar_") else "B")))
