"""A generated detection set: patterned objects of all sizes on blotchy backgrounds, among plain shapes that are none.

An object is an ellipse or a rectangle covered with one of the patterns of `data_prep synth`, and the pattern is its
class: what a network has learnt of those, it can use here; place, size and outline of objects it has never seen. Scene
i of a split depends on (seed, split, i, size, number of classes) alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from data_prep.synthetic import PATTERNS, render

SPLITS: Final = ("train", "val")
STREAM: Final = 1511
"""Keeps the random numbers apart from those of the classification data of the same seed."""
SMALLEST, LARGEST = 0.3, 0.7
"""Of the mean side of an object, as a fraction of the image's."""
MOST_OBJECTS, MOST_PLAIN, TRIES = 3, 3, 20
SMOOTH: Final = 4
"""Outlines are drawn at so many times the size and averaged."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are just outside."""


@dataclass(frozen=True)
class Scene:
    """An image and what is to be found in it."""

    image: Tensor
    """uint8 [3, size, size], RGB."""
    boxes: Tensor
    """float32 [objects, 4]: left, top, right, bottom in pixels."""
    labels: Tensor
    """int64 [objects]: place in `class_names`. 0 is the background, as torchvision's detectors have it."""


def class_names(classes: int) -> list[str]:
    """By label."""
    return ["background", *list(PATTERNS)[:classes]]


def make_scenes(seed: int, split: str, count: int, *, size: int, classes: int) -> list[Scene]:
    """The first `count` scenes of a split."""
    return [make_scene(seed, split, index, size=size, classes=classes) for index in range(count)]


def make_scene(seed: int, split: str, index: int, *, size: int, classes: int) -> Scene:
    """One to three objects, none over another."""
    rng = np.random.default_rng((STREAM, seed, SPLITS.index(split), index))
    canvas = draw_background(size, rng)
    boxes: list[Box] = []
    labels: list[int] = []
    for _ in range(int(rng.integers(1, MOST_OBJECTS + 1))):
        box = _free_place(boxes, size, rng)
        if box is not None:
            labels.append(int(rng.integers(1, classes + 1)))
            boxes.append(box)
            _draw_object(canvas, box, class_names(classes)[labels[-1]], rng)
    pixels = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous()
    return Scene(pixels, torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels))


def draw_background(size: int, rng: np.random.Generator) -> Image.Image:
    """Coloured blotches with noise, and up to three plain shapes: an outline alone makes no object."""
    coarse = Image.fromarray(rng.integers(72, 184, (5, 5, 3), np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
    strength = int(rng.integers(2, 16))
    noise = rng.integers(-strength, strength + 1, (size, size, 1), np.int16)
    canvas = Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))
    for _ in range(int(rng.integers(0, MOST_PLAIN + 1))):
        left, top, right, bottom = _place(size, rng)
        colour = tuple(int(value) for value in rng.integers(20, 236, 3))
        canvas.paste(colour, (left, top), _outline(right - left, bottom - top, rng))
    return canvas


def _place(size: int, rng: np.random.Generator) -> Box:
    """Small ones are as likely as large ones by the octave; sides differ by up to 1.7 times."""
    side = size * math.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST)))
    stretch = math.exp(rng.uniform(-0.26, 0.26))
    width, height = round(side * stretch), round(side / stretch)
    left, top = (int(rng.integers(0, size - extent + 1)) for extent in (width, height))
    return left, top, left + width, top + height


def _free_place(taken: list[Box], size: int, rng: np.random.Generator) -> Box | None:
    """A box that overlaps none of those taken; None if there seems to be no room."""
    for _ in range(TRIES):
        box = _place(size, rng)
        if not any(_overlap(box, other) for other in taken):
            return box
    return None


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _draw_object(canvas: Image.Image, box: Box, pattern: str, rng: np.random.Generator) -> None:
    """Two and a half to four repetitions of the pattern, cut out along an outline that touches the box on all sides."""
    width, height = box[2] - box[0], box[3] - box[1]
    surface = ImageOps.fit(render(pattern, rng), (width, height), Image.Resampling.BOX)
    canvas.paste(surface, box[:2], _outline(width, height, rng))


def _outline(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """An ellipse or a rectangle that fills [height, width], as a mask."""
    if rng.random() < 0.5:
        return Image.new("L", (width, height), 255)
    mask = Image.new("L", (SMOOTH * width, SMOOTH * height))
    ImageDraw.Draw(mask).ellipse((0, 0, SMOOTH * width - 1, SMOOTH * height - 1), fill=255)
    return mask.reduce(SMOOTH)
