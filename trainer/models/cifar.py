"""The CIFAR-10 networks of section 4.2: 6n + 2 layers in three stages of n blocks, 16, 32 and 64 channels wide."""

from __future__ import annotations

from torch import nn

from trainer.models.resnet import BasicBlock, StagedNetwork, check_choice, resolve_shortcut

# C is not among the options: the paper's CIFAR networks have identity shortcuts "in all cases"; B is for comparison.
CIFAR_SHORTCUTS = ("A", "B")


class CifarResNet(StagedNetwork):
    """A network for 32x32 images with `layers` = 6n + 2 weighted layers, residual or plain (Table 6, Figure 6)."""

    def __init__(
        self,
        layers: int,
        *,
        residual: bool = True,
        shortcut: str | None = None,
        init: str = "fan_out",
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network; `shortcut` None is the paper's A, the rest is as in `ResNet`.

        Raises:
            UsageError: a value that the option does not have, or a shortcut for a plain network.
            ValueError: `layers` is not 6n + 2.
        """
        blocks, remainder = divmod(layers - 2, 6)
        if blocks < 1 or remainder:
            raise ValueError(f"a CIFAR network has 6n + 2 layers, not {layers}")
        if shortcut is not None:
            check_choice("shortcut", shortcut, CIFAR_SHORTCUTS)
        super().__init__(
            nn.Conv2d(in_chans, 16, kernel_size=3, padding=1, bias=False),
            nn.Identity(),
            BasicBlock,
            (blocks, blocks, blocks),
            (1, 1, 2, 4),
            shortcut=resolve_shortcut(shortcut, "A", residual),
            init=init,
            num_classes=num_classes,
            global_pool=global_pool,
        )
