"""The paper's ways to look at an image when it is classified: which views, mirrored or not, how they are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from trainer.data.views import FIVE_PLACES, Cut, View, views_of

CENTER: Final = "center"
TEN_CROP: Final = "ten-crop"
MULTI_SCALE: Final = "multi-scale"
MULTI_SCALE_DENSE: Final = "multi-scale-dense"
TITLES: Final = {
    CENTER: "centre crop",
    TEN_CROP: "10-crop",
    MULTI_SCALE: "multi-scale 10-crop",
    MULTI_SCALE_DENSE: "multi-scale, fully convolutional",
}
"""The protocols' names, and what people read."""

PAPER_SCALES: Final = (224, 256, 384, 480, 640)
"""Shorter sides of the multi-scale evaluation in pixels, for crops of PAPER_SIZE (section 3.4)."""
PAPER_RESIZE: Final = 256
"""Shorter side for the centre crop and the ten crops in pixels."""
PAPER_SIZE: Final = 224

Score = Literal["softmax", "logits"]
"""What is averaged over views and networks. The released models' README averages softmax (trap T13)."""
Pool = Literal["dense", "global"]


@dataclass(frozen=True)
class Protocol:
    """What an image's score is the average of."""

    name: str
    """One of TITLES."""
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
    return Protocol(CENTER, views_of(resize, ("center",), flip))


def ten_crop(resize: int, flip: bool = True) -> Protocol:
    """The corners and the centre, of the image and of its mirror image: "the standard 10-crop testing" (trap T13)."""
    return Protocol(TEN_CROP, views_of(resize, FIVE_PLACES, flip))


def multi_scale(scales: Sequence[int], flip: bool = True) -> Protocol:
    """Ten crops at every scale."""
    return Protocol(MULTI_SCALE, tuple(view for scale in scales for view in views_of(scale, FIVE_PLACES, flip)))


def multi_scale_dense(scales: Sequence[int], pool: Pool, flip: bool = True) -> Protocol:
    """The whole image at every scale: "we adopt the fully-convolutional form [...], and average the scores"."""
    views = tuple(view for scale in scales for view in views_of(scale, ("whole",), flip))
    return Protocol(MULTI_SCALE_DENSE, views, pool)


def default_scales(size: int) -> tuple[int, ...]:
    """The paper's scales, in proportion to crops of `size` pixels."""
    return tuple(round(scale * size / PAPER_SIZE) for scale in PAPER_SCALES)
