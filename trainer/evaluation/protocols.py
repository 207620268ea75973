"""The paper's ways to look at an image when it is classified: which views, mirrored or not, how they are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from trainer.data.views import FIVE_PLACES, Cut, View, views_of
from trainer.errors import UsageError, did_you_mean

Pool = Literal["dense", "global"]
POOLS: Final = ("dense", "global")
CHOICES: Final = ("center", "ten-crop", "multi-scale", "all")

PAPER_SCALES: Final = (224, 256, 384, 480, 640)
"""Shorter sides of the multi-scale evaluation in pixels, for crops of PAPER_SIZE (section 3.4)."""
PAPER_SIZE: Final = 224


@dataclass(frozen=True)
class Protocol:
    """What an image's score is the average of."""

    name: str
    """`center`, `ten-crop`, `multi-scale` (ten crops at every scale), or `multi-scale-dense` (fully convolutional)."""
    views: tuple[View, ...]
    pool: Pool | None = None
    """Of a whole image: `dense`, the average of the scores at all places where a crop would fit, or `global`, the score
    of the averaged features. None for crops."""

    @property
    def scales(self) -> list[int]:
        """Shorter sides in pixels, ascending."""
        return sorted({view.cut.resize for view in self.views})

    @property
    def flip(self) -> bool:
        """Whether mirror images are among the views."""
        return any(view.mirrored for view in self.views)


def all_cuts(protocols: Sequence[Protocol]) -> list[Cut]:
    """The cuts of all protocols, each once: what one looks at needs not be decoded or scored again for another."""
    return list(dict.fromkeys(view.cut for protocol in protocols for view in protocol.views))


def center(resize: int, flip: bool = False) -> Protocol:
    """The centre crop."""
    return Protocol("center", views_of(resize, ("center",), flip))


def ten_crop(resize: int, flip: bool = True) -> Protocol:
    """The corners and the centre, of the image and of its mirror image: "the standard 10-crop testing" (trap T13)."""
    return Protocol("ten-crop", views_of(resize, FIVE_PLACES, flip))


def multi_scale(scales: Sequence[int], flip: bool = True) -> Protocol:
    """Ten crops at every scale."""
    return Protocol("multi-scale", tuple(view for scale in scales for view in views_of(scale, FIVE_PLACES, flip)))


def multi_scale_dense(scales: Sequence[int], pool: Pool, flip: bool = True) -> Protocol:
    """The whole image at every scale: "we adopt the fully-convolutional form [...], and average the scores"."""
    views = tuple(view for scale in scales for view in views_of(scale, ("whole",), flip))
    return Protocol("multi-scale-dense", views, pool)


def default_scales(size: int) -> tuple[int, ...]:
    """The paper's scales, in proportion to crops of `size` pixels."""
    return tuple(round(scale * size / PAPER_SIZE) for scale in PAPER_SCALES)


def choose(
    chosen: str,
    *,
    size: int,
    validated_with: int,
    resize: int | None = None,
    scales: Sequence[int] | None = None,
    pool: Pool | None = None,
    flip: bool | None = None,
) -> list[Protocol]:
    """The protocols of a command line.

    Args:
        chosen: names of CHOICES, with commas between them.
        size: side of the crops in pixels.
        validated_with: shorter side of the image in the validation while training ...
        resize: ... and for `center` and `ten-crop`; None: the same.
        scales: for `multi-scale`; None: the paper's.
        pool: the fully convolutional form of `multi-scale`, pooled so; None: ten crops at every scale.
        flip: of all protocols; None: all but `center`.

    Raises:
        UsageError: an unknown protocol, a scale below the crop's size, or an option that none of them has.
    """
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    for name in names:
        if name not in CHOICES:
            raise UsageError(f"--protocol: '{name}' is not a protocol{did_you_mean(name, CHOICES)}")
    if not names:
        raise UsageError(f"--protocol: expected some of {', '.join(CHOICES)}")
    everything, scaled = "all" in names, "multi-scale" in names
    if pool is not None and not (everything or scaled):
        raise UsageError("--pool: only multi-scale has whole images to pool; add --protocol multi-scale")
    if scales is not None and not (everything or scaled):
        raise UsageError("--scales: only multi-scale has several; add --protocol multi-scale")
    if resize is not None and not everything and set(names) == {"multi-scale"}:
        raise UsageError("--resize: of center and ten-crop; for multi-scale give --scales")
    resize = validated_with if resize is None else resize
    scales = default_scales(size) if scales is None else sorted(set(scales))
    for value, option in ((resize, "--resize"), *((scale, "--scales") for scale in scales)):
        if value < size:
            raise UsageError(f"{option}: {value} is below the network's crops of {size} pixels; give {size} or more")
    mirrored = True if flip is None else flip
    found = []
    if everything or "center" in names:
        found.append(center(resize, False if flip is None else flip))
    if everything or "ten-crop" in names:
        found.append(ten_crop(resize, mirrored))
    if everything or (scaled and pool is None):
        found.append(multi_scale(scales, mirrored))
    if everything or (scaled and pool is not None):
        found.append(multi_scale_dense(scales, pool or "dense", mirrored))
    return found
