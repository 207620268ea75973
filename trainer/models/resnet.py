"""The ImageNet networks of He et al. 2015 (sections 3.3 and 4.1, Table 1), residual and plain, and their parts.

Parameter names, order and shapes of the residual networks with option B equal torchvision's, so its checkpoints load
here and ours there. Where a bottleneck strides is not visible in a checkpoint (see `Bottleneck`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch.nn.functional as F
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.classifier import create_classifier
from torch import Tensor, nn

from trainer.errors import UsageError, did_you_mean

SHORTCUTS = ("A", "B", "C")
STRIDES_IN = ("1x1", "3x3")
STEM_POOLS = ("torchvision", "caffe")
INITS = ("fan_out", "fan_in")
DROPOUT_PLACES = ("before_3x3", "after_3x3", "classifier")

# Blocks in each of the four stages, by the number of weighted layers (Table 1).
BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
FIRST_BOTTLENECK_DEPTH = 50


def check_choice(option: str, value: str, known: Sequence[str]) -> None:
    """Raise `UsageError` naming the nearest of `known` unless `value` is one of them."""
    if value not in known:
        raise UsageError(f"{option}: '{value}' is not a value of this option{did_you_mean(value, known)}")


def _dropout(probability: float) -> nn.Module:
    return nn.Dropout(probability) if probability > 0 else nn.Identity()


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


class ZeroPadShortcut(nn.Module):
    """Option A where dimensions grow: every `stride`-th pixel, and zeros for the new channels. No parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = out_channels - in_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + new channels, ceil(H / stride), ceil(W / stride))."""
        # One copy: the subsampled view is read only while it is padded.
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))

    def extra_repr(self) -> str:
        return f"new_channels={self.new_channels}, stride={self.stride}"


def _shortcut(option: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut of one block, by the paper's options (section 4.1)."""
    same_dimensions = stride == 1 and in_channels == out_channels
    if option == "C" or (option == "B" and not same_dimensions):
        return nn.Sequential(_convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
    return nn.Identity() if same_dimensions else ZeroPadShortcut(in_channels, out_channels, stride)


class BasicBlock(nn.Module):
    """`skip` convolutions, spanned by a shortcut: two of 3x3 in the paper (Figure 5, left).

    `downsample` is None in a plain network, nn.Identity where x is added.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, shortcut: str | None, *, kernel: int = 3, skip: int = 2
    ) -> None:
        super().__init__()
        self.skip = skip
        for layer in range(1, skip + 1):
            source, step = (in_channels, stride) if layer == 1 else (width, 1)
            self.add_module(f"conv{layer}", _convolution(source, width, kernel, step))
            self.add_module(f"bn{layer}", nn.BatchNorm2d(width))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None if shortcut is None else _shortcut(shortcut, in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, ceil(H / stride), ceil(W / stride))."""
        out = self._layer(1, x)
        for layer in range(2, self.skip + 1):
            out = self._layer(layer, self.relu(out))
        if self.downsample is not None:
            out += self.downsample(x)
        return self.relu(out)

    def _layer(self, number: int, x: Tensor) -> Tensor:
        return getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions (Figure 5, right); strides in the first 1x1, as the released networks do ("v1").

    `BottleneckV15` strides in the 3x3, as torchvision, timm and fb.resnet.torch do. The two have the same parameters:
    weights of one load into the other without a word and give wrong results.

    `dropout` zeroes activations that enter the 3x3 ("before_3x3") or leave it, normalised and rectified ("after_3x3").
    """

    expansion: ClassVar[int] = 4
    stride_in_3x3: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        shortcut: str | None,
        *,
        dropout: float = 0.0,
        dropout_at: str = "classifier",
    ) -> None:
        super().__init__()
        out_channels = width * self.expansion
        first, second = (1, stride) if self.stride_in_3x3 else (stride, 1)
        self.conv1 = _convolution(in_channels, width, 1, first)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, second)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.dropout_before = _dropout(dropout if dropout_at == "before_3x3" else 0.0)
        self.dropout_after = _dropout(dropout if dropout_at == "after_3x3" else 0.0)
        self.downsample = None if shortcut is None else _shortcut(shortcut, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 * width, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.dropout_before(self.relu(self.bn1(self.conv1(x))))
        out = self.dropout_after(self.relu(self.bn2(self.conv2(out))))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            out += self.downsample(x)
        return self.relu(out)


class BottleneckV15(Bottleneck):
    """The bottleneck that strides in its 3x3 convolution."""

    stride_in_3x3 = True


BlockFactory = Callable[[int, int, int, str | None], BasicBlock | Bottleneck]
"""Makes a block of (channels of its input, width, stride, option of its shortcut)."""


def choose_block(
    bottleneck: bool, stride_in: str, dropout: float, dropout_at: str, *, kernel: int = 3, skip: int = 2
) -> BlockFactory:
    """Return what makes a network's blocks; `kernel` and `skip` are a basic block's.

    Raises:
        UsageError: a value that the option does not have, or dropout inside of blocks that are no bottlenecks.
    """
    check_choice("stride_in", stride_in, STRIDES_IN)
    check_choice("dropout_at", dropout_at, DROPOUT_PLACES)
    if bottleneck:
        return partial(BottleneckV15 if stride_in == "3x3" else Bottleneck, dropout=dropout, dropout_at=dropout_at)
    if dropout > 0 and dropout_at != "classifier":
        raise UsageError(
            f"dropout_at: '{dropout_at}' is a place in a bottleneck, and this network has none; set it to classifier"
        )
    return partial(BasicBlock, kernel=kernel, skip=skip)


class StagedNetwork(nn.Module):
    """Stem, stages of blocks, global pooling, one fully connected layer: what the ImageNet and CIFAR networks share.

    The first stage keeps the stem's width and size; every later one halves the size and doubles the width.
    Follows timm's conventions (`feature_info`, `forward_features`, `forward_head`, `reset_classifier`, ...).
    """

    global_pool: SelectAdaptivePool2d
    fc: nn.Module

    def __init__(
        self,
        stem: nn.Conv2d,
        stem_pool: nn.Module,
        block: BlockFactory,
        blocks_per_stage: Sequence[int],
        reductions: Sequence[int],
        *,
        shortcut: str | None,
        init: str,
        dropout: float,
        num_classes: int,
        global_pool: str,
    ) -> None:
        """Build and initialise.

        `reductions` are the output strides of the stem and of each stage; `shortcut` None builds no shortcuts;
        `dropout` is of the pooled features.
        """
        super().__init__()
        if shortcut is not None:
            check_choice("shortcut", shortcut, SHORTCUTS)
        check_choice("init", init, INITS)
        self.shortcut = shortcut
        self.in_chans = stem.in_channels
        self.num_classes = num_classes

        channels = width = stem.out_channels
        self.conv1 = stem
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = stem_pool
        self.feature_info: list[dict[str, Any]] = [{"num_chs": channels, "reduction": reductions[0], "module": "relu"}]
        for index, (depth, reduction) in enumerate(zip(blocks_per_stage, reductions[1:], strict=True)):
            stage = nn.Sequential()
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                made = block(channels, width << index, stride, shortcut)
                stage.append(made)
                channels = (width << index) * made.expansion
            self.add_module(f"layer{index + 1}", stage)
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"layer{index + 1}"})
        self.num_features = self.head_hidden_size = channels
        self.dropout = _dropout(dropout)
        self.reset_classifier(num_classes, global_pool)
        self._initialise(init)

    def _initialise(self, fan: str) -> None:
        """He normal for every convolution; batch normalisation starts at gamma 1, beta 0 everywhere, as in the paper.

        No gamma is set to zero at the end of a block: that is a later practice (Goyal et al. 2017), timm's default.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")  # type: ignore[arg-type]

    def get_classifier(self) -> nn.Module:
        """Return the fully connected layer (nn.Identity without classes)."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new fully connected layer for `num_classes` in place; 0 leaves the pooled features.

        Its weights are uniform in +-1/sqrt(fan_in), torch's default: He's factor of 2 makes up for a ReLU, and none
        follows. Its biases are zero, as in fb.resnet.torch. `global_pool` is one of timm's names ("" for none).
        """
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool_type)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()  # type: ignore[no-untyped-call]
        if isinstance(self.fc, nn.Linear):
            nn.init.zeros_(self.fc.bias)
        self.fc.to(self.conv1.weight)  # device and dtype
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (N, in_chans, H, W) to the last stage's (N, num_features, H / 32, W / 32); CIFAR: H / 4, W / 4."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for feature in self.feature_info[1:]:
            x = getattr(self, feature["module"])(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the output of `forward_features` and, unless `pre_logits`, classify: (N, num_classes) logits."""
        x = self.dropout(self.global_pool(x))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_chans, H, W), of any height and width, to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))


class ResNet(StagedNetwork):
    """An ImageNet network of Table 1: residual with 18, 34, 50, 101 or 152 layers, or plain with 18 or 34."""

    def __init__(
        self,
        layers: int,
        *,
        residual: bool = True,
        shortcut: str | None = None,
        stride_in: str = "1x1",
        stem_pool: str = "torchvision",
        init: str = "fan_out",
        dropout: float = 0.0,
        dropout_at: str = "classifier",
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network with `layers` weighted layers.

        Args:
            layers: 18, 34, 50, 101 or 152.
            residual: False leaves every shortcut out (the plain networks).
            shortcut: option "A" (zero-padded identity), "B" (projection where dimensions grow) or "C" (projection in
                every block); None is B.
            stride_in: the convolution of a bottleneck that strides: "1x1" (the paper's) or "3x3" (torchvision's).
                A basic block always strides in its first 3x3.
            stem_pool: 3x3 max pooling with stride 2, padded by one ("torchvision") or unpadded with sizes rounded up
                ("caffe", the released networks); both map 112 to 56.
            init: the fan of He's normal initialisation, "fan_out" or "fan_in".
            dropout: probability of dropout, in [0, 1]; the paper uses none.
            dropout_at: where it is: on the pooled features ("classifier"), or in every bottleneck on what enters the
                3x3 convolution ("before_3x3") or leaves it ("after_3x3").
            num_classes: outputs; 0 for pooled features.
            in_chans: channels of the images.
            global_pool: timm's name of the pooling before the classifier.

        Raises:
            UsageError: a value that the option does not have, a shortcut for a plain network, or dropout in bottlenecks
                for a network without them.
        """
        check_choice("stem_pool", stem_pool, STEM_POOLS)
        super().__init__(
            nn.Conv2d(in_chans, 64, kernel_size=7, stride=2, padding=3, bias=False),
            nn.MaxPool2d(3, 2, padding=1) if stem_pool == "torchvision" else nn.MaxPool2d(3, 2, ceil_mode=True),
            choose_block(layers >= FIRST_BOTTLENECK_DEPTH, stride_in, dropout, dropout_at),
            BLOCKS_PER_STAGE[layers],
            (2, 4, 8, 16, 32),
            shortcut=resolve_shortcut(shortcut, "B", residual),
            init=init,
            dropout=dropout if dropout_at == "classifier" else 0.0,
            num_classes=num_classes,
            global_pool=global_pool,
        )
        self.stride_in = stride_in
        self.stem_pool = stem_pool


def resolve_shortcut(shortcut: str | None, papers_choice: str, residual: bool) -> str | None:
    """Return the option to build (None: no shortcuts); raise `UsageError` for a plain network that is given one."""
    if residual:
        return papers_choice if shortcut is None else shortcut
    if shortcut is not None:
        raise UsageError(f"shortcut: '{shortcut}' is given for a plain network, which has none; set it to null")
    return None
