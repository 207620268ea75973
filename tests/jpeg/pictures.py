"""Pictures to encode, and JPEGs of every kind that the library takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.jpeg.surgery import in_three_scans, mcu_grid, resampled, with_frame
from tests.samples import jpeg, smooth_image
from trainer.jpeg import Pixels, restart_interval


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth parts and noise: coefficients of every size."""
    noise = np.random.default_rng(seed).integers(-40, 40, (height, width, 3))
    return np.clip(smooth_image(width, height, seed) + noise, 0, 255).astype(np.uint8)


def gray_2x2(pixels: np.ndarray, quality: int, **options: object) -> bytes:
    return with_frame(jpeg(pixels, quality, "L", **options), first_sampling=(2, 2))


def three_scans(pixels: np.ndarray, quality: int) -> bytes:
    return in_three_scans([jpeg(pixels[..., i], quality, "L") for i in range(3)])


SAMPLINGS: dict[str, Callable[..., bytes]] = {
    "gray": lambda p, q, **options: jpeg(p, q, "L", **options),
    "gray 2x2": gray_2x2,
    "gray 3x4": lambda p, q, **options: with_frame(jpeg(p, q, "L", **options), first_sampling=(3, 4)),
    "4:4:4": lambda p, q, **options: jpeg(p, q, subsampling="4:4:4", **options),
    "4:2:2": lambda p, q, **options: jpeg(p, q, subsampling="4:2:2", **options),
    "4:2:0": lambda p, q, **options: jpeg(p, q, subsampling="4:2:0", **options),
    "4:4:0": lambda p, q, **options: resampled(jpeg(p, q, subsampling="4:2:2", **options), (1, 2)),
    "4:1:1": lambda p, q, **options: resampled(jpeg(p, q, subsampling="4:2:0", **options), (4, 1)),
}
"""Encoders of pixels at a quality, in one scan, with the options of Pillow's."""

KINDS: dict[str, Callable[[np.ndarray, int], bytes]] = {
    **SAMPLINGS,
    "gray progressive": lambda p, q: jpeg(p, q, "L", progressive=True),
    "1x4": lambda p, q: resampled(jpeg(p, q, subsampling="4:2:0"), (1, 4)),
    "4:4:4 in three scans": three_scans,
    "4:4:4 progressive": lambda p, q: jpeg(p, q, subsampling="4:4:4", progressive=True),
    "4:2:0 progressive": lambda p, q: jpeg(p, q, subsampling="4:2:0", progressive=True),
    "4:2:0 optimised": lambda p, q: jpeg(p, q, subsampling="4:2:0", optimize=True),
    "4:2:0 restarts across rows": lambda p, q: jpeg(p, q, subsampling="4:2:0", restart_marker_blocks=5),
    "4:4:4 a restart each MCU": lambda p, q: jpeg(p, q, subsampling="4:4:4", restart_marker_blocks=1),
    "EXIF, ICC and a comment": lambda p, q: jpeg(
        p, q, exif=b"Exif\0\0" + b"x" * 999, icc_profile=b"i" * 70000, comment="c"
    ),
}
"""Encoders of pixels at a quality, for all that is transcoded."""


def restarted(encode: Callable[..., bytes], pixels: Pixels, quality: int, policy: str) -> bytes:
    """With restart markers: none, each so many MCUs, as transcoding places them, each row, or across rows."""
    if policy == "none":
        return encode(pixels, quality)
    if policy == "row":
        return encode(pixels, quality, restart_marker_rows=1)
    across, _ = mcu_grid(encode(pixels, quality))
    interval = {"own": restart_interval(across), "across rows": across + 1}.get(policy) or int(policy)
    return encode(pixels, quality, restart_marker_blocks=interval)
