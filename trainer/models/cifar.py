"""The CIFAR-10 networks of section 4.2: 6n + 2 layers in three stages of n blocks, 16, 32 and 64 channels wide."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from trainer.errors import UsageError
from trainer.models.resnet import StagedNetwork, check_choice, choose_block, resolve_shortcut

DEPTHS = (20, 32, 44, 56, 110, 1202)
"""Weighted layers of the networks of Table 6; of the plain ones, all but the last."""

# C is not among the options: the paper's CIFAR networks have identity shortcuts "in all cases"; B is for comparison.
CIFAR_SHORTCUTS = ("A", "B")
BLOCKS = ("basic", "bottleneck")
KERNELS = (1, 3, 5)
SKIPS = (1, 2, 3)
BOTTLENECK_LAYERS = 3


class CifarResNet(StagedNetwork):
    """A network for 32x32 images with `layers` weighted layers, residual or plain (Table 6, Figure 6).

    Depth is counted as in the paper: convolutions and the classifier, not projections. What changes the layers of a
    block changes the number of blocks, never the depth.
    """

    def __init__(
        self,
        layers: int,
        *,
        residual: bool = True,
        shortcut: str | None = None,
        block: str | None = None,
        kernel: int = 3,
        skip: int = 2,
        stride_in: str = "1x1",
        init: str = "fan_out",
        dropout: float = 0.0,
        dropout_at: str = "classifier",
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network; what is not listed is as in `ResNet`.

        Args:
            shortcut: "A" or "B"; None is the paper's A.
            block: "basic" or "bottleneck", whose output is four times as wide; None is the paper's basic block.
            kernel: side of the basic blocks' convolutions: 1, 3 (the paper's) or 5.
            skip: layers that the shortcut of a basic block spans: 1, 2 (the paper's) or 3.
            stride_in: of bottlenecks.

        Raises:
            UsageError: a value that the option does not have, options that exclude each other, or a depth that cannot
                be made of such blocks.
        """
        bottleneck = block == "bottleneck"
        if shortcut is not None:
            check_choice("shortcut", shortcut, CIFAR_SHORTCUTS)
        if block is not None:
            check_choice("block", block, BLOCKS)
        _check_basic("kernel", kernel, KERNELS, 3, bottleneck)
        _check_basic("skip", skip, SKIPS, 2, bottleneck)
        if skip != 2 and not residual:
            raise UsageError(f"skip: {skip} is given for a plain network, which has no shortcuts; leave it out")
        blocks = _blocks_per_stage(layers, BOTTLENECK_LAYERS if bottleneck else skip)
        super().__init__(
            nn.Conv2d(in_chans, 16, kernel_size=3, padding=1, bias=False),
            nn.Identity(),
            choose_block(bottleneck, stride_in, dropout, dropout_at, kernel=kernel, skip=skip),
            (blocks, blocks, blocks),
            (1, 1, 2, 4),
            shortcut=resolve_shortcut(shortcut, "A", residual),
            init=init,
            dropout=dropout if dropout_at == "classifier" else 0.0,
            num_classes=num_classes,
            global_pool=global_pool,
        )


def _check_basic(option: str, value: int, known: Sequence[int], default: int, bottleneck: bool) -> None:
    if value not in known:
        raise UsageError(f"{option}: {value} is not a value of this option (known: {', '.join(map(str, known))})")
    if bottleneck and value != default:
        raise UsageError(f"{option}: {value} is given for bottlenecks, but is an option of basic blocks; leave it out")


def _blocks_per_stage(layers: int, layers_of_a_block: int) -> int:
    """Return how many blocks each of the three stages has; the other two layers are the first and the last."""
    step = 3 * layers_of_a_block
    blocks, remainder = divmod(layers - 2, step)
    if blocks < 1 or remainder:
        fitting = ", ".join(str(depth) for depth in DEPTHS if (depth - 2) % step == 0)
        raise UsageError(
            f"a CIFAR network with blocks of {layers_of_a_block} layers has {step}n + 2 ({fitting}), not {layers}"
        )
    return blocks
