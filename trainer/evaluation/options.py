"""What the command line of `trainer evaluate` says. Without torch, so that a wrong value is refused at once."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast, get_args

from trainer.choices import TRUTHS, parse_choice
from trainer.errors import UsageError, did_you_mean
from trainer.evaluation.protocols import (
    CENTER,
    MULTI_SCALE,
    TEN_CROP,
    Pool,
    Protocol,
    Score,
    center,
    default_scales,
    multi_scale,
    multi_scale_dense,
    ten_crop,
)
from trainer.files import check_output

ALL: Final = "all"
MOST_PIXELS: Final = 4096
"""Of a shorter side. The C library decodes to sides of 16,384, which leaves room for panoramas."""
CHOICES: Final = (CENTER, TEN_CROP, MULTI_SCALE, ALL)


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    Raises:
        UsageError: a value is none that there is, or belongs to a protocol that is not asked for.
    """

    protocols: tuple[str, ...] = (CENTER,)
    """Of CHOICES."""
    sizes: tuple[int, ...] | None = None
    """Sides of the crops in pixels, each evaluated by itself; None: that of the recipe's validation."""
    resize: int | None = None
    """Shorter side in pixels for the centre and the ten crops; None: in proportion as in the recipe's validation."""
    scales: tuple[int, ...] | None = None
    """For `multi-scale`, in pixels; None: the paper's, in proportion to the network's crops."""
    score: Score = "softmax"
    pool: Pool | None = None
    """The fully convolutional form of `multi-scale`, pooled so; None: ten crops at every scale."""
    flip: bool | None = None
    """Of all protocols; None: all but `center`."""
    ema: bool = False
    batch: int = 256
    """Crops in one forward pass."""
    predictions: Path | None = None

    def __post_init__(self) -> None:
        if not self.protocols:
            raise UsageError(f"--protocol: expected some of {', '.join(CHOICES)}")
        for name in self.protocols:
            if name not in CHOICES:
                raise UsageError(f"--protocol: '{name}' is not a protocol{did_you_mean(name, CHOICES)}")
        if self.pool is not None and not self._asks(MULTI_SCALE):
            raise UsageError("--pool: only multi-scale has whole images to pool; add --protocol multi-scale")
        if self.scales is not None and not self._asks(MULTI_SCALE):
            raise UsageError("--scales: only multi-scale has several; add --protocol multi-scale")
        if self.resize is not None and not (self._asks(CENTER) or self._asks(TEN_CROP)):
            raise UsageError("--resize: of center and ten-crop; for multi-scale give --scales")
        if self.sizes is not None and len(self.sizes) > 1:
            for option, given in (("--resize", self.resize), ("--predictions", self.predictions)):
                if given is not None:
                    raise UsageError(f"{option}: goes with one --size; evaluate {self.sizes[0]} and the others apart")
        if self.batch < 1:
            raise UsageError(f"--batch is {self.batch}, expected a positive number of crops")
        if self.predictions is not None:
            if self.predictions.suffix != ".npz":
                raise UsageError(f"--predictions {self.predictions}: expected a name that ends in .npz")
            check_output(self.predictions, "--predictions")

    def _asks(self, name: str) -> bool:
        return name in self.protocols or ALL in self.protocols

    def views(self, size: int, validated: tuple[int, int]) -> list[Protocol]:
        """The protocols as a network looks at images.

        Args:
            size: side of its crops in pixels.
            validated: of its validation while training, the side of the crops and the shorter side of the images, in
                pixels: in that proportion images are resized for crops of another size.

        Raises:
            UsageError: an image would be smaller than the network's crops.
        """
        resize = round(validated[1] * size / validated[0]) if self.resize is None else self.resize
        scales = default_scales(size) if self.scales is None else sorted(set(self.scales))
        asked = [(resize, "--resize", self.resize is not None)] * (self._asks(CENTER) or self._asks(TEN_CROP))
        asked += [(scale, "--scales", self.scales is not None) for scale in scales if self._asks(MULTI_SCALE)]
        for value, option, given in asked:
            if value > MOST_PIXELS and not given:
                raise UsageError(
                    f"--size: for crops of {size:,} pixels images would be resized to {value:,}, above {MOST_PIXELS:,}"
                )
            if value > MOST_PIXELS:
                raise UsageError(f"{option}: {value:,} pixels are too many; give at most {MOST_PIXELS:,}")
            if value < size:
                raise UsageError(
                    f"{option}: {value} is below the network's crops of {size} pixels; give {size} or more"
                )
        flip = True if self.flip is None else self.flip
        found = []
        if self._asks(CENTER):
            found.append(center(resize, bool(self.flip)))
        if self._asks(TEN_CROP):
            found.append(ten_crop(resize, flip))
        if ALL in self.protocols or (self._asks(MULTI_SCALE) and self.pool is None):
            found.append(multi_scale(scales, flip))
        if ALL in self.protocols or self.pool is not None:
            found.append(multi_scale_dense(scales, self.pool or "dense", flip))
        return found


def parse_options(args: argparse.Namespace) -> Options:
    """The options of the command line.

    Raises:
        UsageError: a value is none that there is; with the nearest one.
    """
    return Options(
        protocols=tuple(name.strip() for name in args.protocol.split(",") if name.strip()),
        sizes=_parse_pixels("--size", args.size, "224,256"),
        resize=args.resize,
        scales=_parse_pixels("--scales", args.scales, "224,256,384,480,640"),
        score=cast(Score, parse_choice("--score", args.score, get_args(Score))),
        pool=None if args.pool is None else cast(Pool, parse_choice("--pool", args.pool, get_args(Pool))),
        flip=None if args.flip is None else parse_choice("--flip", args.flip, TRUTHS) == "true",
        ema=parse_choice("--ema", args.ema, TRUTHS) == "true",
        batch=args.batch,
        predictions=args.predictions,
    )


def _parse_pixels(option: str, text: str | None, example: str) -> tuple[int, ...] | None:
    """As given, each once."""
    if text is None:
        return None
    for item in text.split(","):
        if not item.strip().isdecimal() or int(item) == 0:
            raise UsageError(f"{option}: '{item}' is no number of pixels; write e.g. {example}")
    return tuple(dict.fromkeys(int(item) for item in text.split(",")))
