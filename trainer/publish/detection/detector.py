"""torchvision's Faster R-CNN on one of this project's networks.

The body is the project's own class, so that stride and shortcuts are those it was trained with, whichever they are;
torchvision's own would run the paper's bottlenecks (stride in the 1x1) as another network without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops.misc import FrozenBatchNorm2d

from trainer.errors import UsageError
from trainer.models import create_model
from trainer.models.resnet import StagedNetwork
from trainer.publish.backbone import Facts
from trainer.publish.detection.recipe import DetectionRecipe
from trainer.publish.load import load_backbone
from trainer.publish.verify import check_sums, read_publication

STAGES: Final = (2, 3, 4)
"""Whose outputs, at strides 8, 16 and 32, the feature pyramid is built on; the pyramid adds one of stride 64."""
ANCHOR_STRIDES: Final = 4
"""Side of a level's anchors, in its strides."""
RATIOS: Final = (0.5, 1.0, 2.0)
"""Heights to widths of anchors."""
ROI: Final = 7
"""Side of what the box head sees of a proposal, in cells."""
HIDDEN: Final = 256
"""Width of the box head; a quarter of torchvision's, as everything here is small."""
SAMPLING: Final[dict[str, Any]] = {
    "rpn_batch_size_per_image": 64,
    "rpn_pre_nms_top_n_train": 400,
    "rpn_post_nms_top_n_train": 200,
    "rpn_pre_nms_top_n_test": 200,
    "rpn_post_nms_top_n_test": 100,
    "box_batch_size_per_image": 32,
}
"""About an eighth of torchvision's: images have a fortieth of the area."""


@dataclass(frozen=True)
class Published:
    """A publication that a detector can be built on."""

    folder: Path
    facts: Facts

    def body(self) -> StagedNetwork:
        """With the published weights, strictly."""
        return load_backbone(self.folder)

    def random_body(self) -> StagedNetwork:
        """The same network as it was before it was trained; the caller seeds torch."""
        return create_model(num_classes=0, **self.facts.model)


def read_published(folder: Path) -> Published:
    """Check a publication, and that its network is one for detectors.

    Raises:
        UsageError: it is none or damaged, its network is a CIFAR or a plain one, or it lacks the native format.
    """
    check_sums(folder)
    facts = read_publication(folder).facts
    if facts.mean_image:
        raise UsageError(f"{folder}: {facts.arch} was trained with a mean image, and detectors subtract a mean colour")
    if facts.is_cifar or facts.is_plain:
        kind = "one for CIFAR, with strides up to 4 only" if facts.is_cifar else "a plain one, the paper's baseline"
        raise UsageError(f"{folder}: {facts.arch} is {kind}; publish one of resnet18 to resnet152 for a detector")
    published = Published(folder, facts)
    published.body()  # refused before the work, not after half of it
    return published


def build_detector(body: StagedNetwork, facts: Facts, recipe: DetectionRecipe) -> FasterRCNN:
    """Faster R-CNN with FPN on `body`; the new layers are drawn from torch's generator.

    It takes float32 images [3, size, size] in [0, 1] and normalises them as the published network wants it. Every
    parameter of `body` that requires gradients is trained.
    """
    names = {str(body.feature_info[stage]["module"]): str(level) for level, stage in enumerate(STAGES)}
    channels = [body.feature_info[stage]["num_chs"] for stage in STAGES]
    strides = [body.feature_info[stage]["reduction"] for stage in STAGES]
    strides.append(2 * strides[-1])
    return FasterRCNN(
        BackboneWithFPN(body, names, channels, recipe.channels),
        rpn_anchor_generator=AnchorGenerator(
            tuple((ANCHOR_STRIDES * stride,) for stride in strides), (RATIOS,) * len(strides)
        ),
        box_head=TwoMLPHead(recipe.channels * ROI**2, HIDDEN),
        box_predictor=FastRCNNPredictor(HIDDEN, 1 + recipe.classes),
        min_size=recipe.size,
        max_size=recipe.size,
        image_mean=facts.unit_mean,
        image_std=facts.unit_std,
        **SAMPLING,
    )


def freeze(body: StagedNetwork, stages: int) -> None:
    """Freeze all batch norm, and stem and first `stages` stages as a whole, in place."""
    freeze_batch_norm(body)
    frozen = ["conv1", *(str(info["module"]) for info in body.feature_info[1 : 1 + stages])]
    for name in frozen:
        body.get_submodule(name).requires_grad_(False)


def freeze_batch_norm(module: nn.Module) -> None:
    """Put torchvision's frozen batch norm, which has no parameters, in the place of each below `module`."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            freeze_batch_norm(child)
