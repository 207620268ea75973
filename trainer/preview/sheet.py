"""The sheet: images pasted pixel by pixel, texts and outlines drawn over them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib.figure
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from trainer import palette
from trainer.files import write_atomically
from trainer.jpeg import Pixels
from trainer.preview.views import EPOCHS, Row, Stored, Validation, resized_to
from trainer.recipe import Recipe

COLOURS: Final = palette.COLOURS[:6]
"""Of epochs and of crops."""

INK, PALE = "#222222", "#666666"
TILE: Final = 224
"""About the side of a crop on the sheet; small ones are enlarged by whole factors."""
MARGIN, GAP, LINE, HEADER = 28, 18, 17, 124
FACTS, LEGEND = 190, 350
"""Widths that texts need."""
TEXT, TITLE = 13, 20

CROPS: Final = ("top left", "top right", "bottom left", "bottom right", "centre", "mirrored centre")
STYLES: Final = ("solid", (0, (5, 5)), (0, (5, 5)), "solid", "solid", (0, (5, 5)))
"""Solid are the two crops that share no edge."""


class Sheet:
    """A white picture of `width` x `height` pixels; places are in pixels from its top left."""

    def __init__(self, width: int, height: int) -> None:
        self.size = width, height
        self._canvas = np.full((height, width, 3), 255, np.uint8)
        # At 72 dots an inch a point, the unit of texts and lines, is a pixel.
        self._figure = matplotlib.figure.Figure(figsize=(width / 72, height / 72), dpi=72)
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.axis("off")

    def paste(self, pixels: Pixels, left: int, top: int) -> None:
        """Put an image there, unchanged."""
        self._canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels

    def write(self, text: str, left: float, top: float, **style: Any) -> None:
        """Write a line below `top`."""
        style = {"size": TEXT, "color": INK, **style}
        self._axes.text(left, top + style["size"], text, parse_math=False, va="baseline", **style)

    def label(self, text: str, colour: str, left: float, top: float) -> None:
        """Write a line behind a square of that colour: some of the colours are too pale for letters."""
        self.write("■", left, top, color=colour)
        self.write(text, left + TEXT + 4, top, weight="bold")

    def outline(self, box: Sequence[float], colour: str, **style: Any) -> None:
        """Draw the edges of a box (left, top, right, bottom), legible on any picture."""
        left, top, right, bottom = box
        effects = [withStroke(linewidth=4, foreground="white", alpha=0.65)]
        style = {"linewidth": 2, "edgecolor": colour, "fill": False, "path_effects": effects, **style}
        self._axes.add_patch(Rectangle((left, top), right - left, bottom - top, **style))

    def save(self, path: Path) -> None:
        """Write it as a PNG."""
        self._figure.figimage(self._canvas, origin="upper", zorder=-1)
        image = io.BytesIO()
        self._figure.savefig(image, dpi=72, format="png")
        write_atomically(path, image.getvalue())


class _Layout:
    """Where things are, in pixels of the sheet."""

    def __init__(self, recipe: Recipe, rows: list[Row], validation: Validation) -> None:
        self.padding = recipe.data.padding if recipe.data.crop == "padded" else 0
        self.factor = max(1, round(TILE / recipe.data.size))
        self.tile = self.factor * recipe.data.size
        self.cell = max(self.tile, FACTS)
        self.width = 2 * MARGIN + EPOCHS * (self.cell + GAP) + self.cell
        self.row = self.tile + LINE * max(2, len(rows[0].views[0].facts)) + GAP
        self.validation_top = HEADER + self.row * len(rows) + GAP
        image = validation.image
        self.resized = resized_to(recipe.evaluation.resize, image.width, image.height)
        self.center = self.factor * recipe.validation_size
        room = self.width - 2 * MARGIN - self.center - LEGEND - 2 * GAP
        self.validation_scale = _fit(*self.resized, room, 2 * self.tile, self.factor)
        below = max(round(self.resized[1] * self.validation_scale), self.center + LINE, 9 * LINE)
        self.height = self.validation_top + 3 * LINE + below + MARGIN

    def left(self, column: int) -> int:
        return MARGIN + column * (self.cell + GAP)

    def top(self, row: int) -> int:
        return HEADER + row * self.row


def draw_sheet(recipe: Recipe, rows: list[Row], validation: Validation, path: Path) -> tuple[int, int]:
    """Draw everything and write it to `path`; returns width and height in pixels.

    Raises:
        RunError: a stored image does not decode.
    """
    layout = _Layout(recipe, rows, validation)
    sheet = Sheet(layout.width, layout.height)
    sheet.write(f"{recipe.name}: what the network sees", MARGIN, 20, size=TITLE, weight="bold")
    sheet.write(_shortened(recipe.data.train, 120), MARGIN, 50, color=PALE)
    sheet.write(_describe(recipe), MARGIN, 50 + LINE, color=PALE)
    sheet.write("stored, with its crops", layout.left(0), HEADER - LINE - 6, weight="bold")
    for epoch, colour in enumerate(COLOURS[:EPOCHS]):
        sheet.label(f"epoch {epoch}", colour, layout.left(1 + epoch), HEADER - LINE - 6)
    for place, row in enumerate(rows):
        _draw_stored(sheet, layout, row, layout.top(place))
        _draw_views(sheet, layout, row, layout.top(place))
    _draw_validation(sheet, layout, recipe, validation)
    sheet.save(path)
    return sheet.size


def _draw_stored(sheet: Sheet, layout: _Layout, row: Row, top: int) -> None:
    """The whole image, in as much white as padding adds, with the box of each view."""
    image, left, pad = row.image, layout.left(0), layout.padding
    scale = _fit(image.width + 2 * pad, image.height + 2 * pad, layout.cell, layout.tile, layout.factor)
    x, y = left + round(pad * scale), top + round(pad * scale)
    sheet.paste(_scaled(image, image.width, image.height, scale), x, y)
    for view, colour in zip(row.views, COLOURS[:EPOCHS], strict=True):
        sheet.outline(_placed(view.box, x, y, scale), colour)
    bottom = top + layout.tile + 4
    sheet.write(_shortened(image.class_name, 24), left, bottom)
    sheet.write(f"sample {image.sample:,}, {image.width}×{image.height}", left, bottom + LINE, color=PALE)


def _draw_views(sheet: Sheet, layout: _Layout, row: Row, top: int) -> None:
    for epoch, view in enumerate(row.views):
        left = layout.left(1 + epoch)
        sheet.paste(_enlarged(view.pixels, layout.factor), left, top)
        for line, fact in enumerate(view.facts):
            weight = "normal" if line else "bold"
            sheet.write(fact, left, top + layout.tile + 4 + line * LINE, weight=weight)


def _draw_validation(sheet: Sheet, layout: _Layout, recipe: Recipe, validation: Validation) -> None:
    image, left, top, scale = validation.image, MARGIN, layout.validation_top, layout.validation_scale
    (width, height), size = layout.resized, recipe.validation_size
    sheet.write("validation, with the ten crops", left, top, weight="bold")
    about = f"{_shortened(recipe.data.val, 50)}: {_shortened(image.class_name, 24)}, sample {image.sample}"
    resized = f"{image.width}×{image.height} resized to {width}×{height}"
    sheet.write(f"{about}, {resized}", left, top + LINE + 2, color=PALE)
    top += 2 * LINE + 12
    sheet.paste(_scaled(image, width, height, scale), left, top)
    boxes = validation.corners * np.array([width / image.width, height / image.height] * 2)
    # Boxes share edges in pairs: dashes of the one over the line of the other show both.
    for box, colour, style in zip(boxes, COLOURS, STYLES, strict=True):
        sheet.outline(_placed(box.tolist(), left, top, scale), colour, linestyle=style)
    left += round(width * scale) + GAP
    sheet.paste(_enlarged(validation.center, layout.factor), left, top)
    sheet.write("the centre crop", left, top + layout.center + 4, weight="bold")
    left += layout.center + GAP
    sheet.write(f"ten-crop of {size}×{size}: corners and centre, as they are and mirrored", left, top)
    for line, (name, box, colour) in enumerate(zip(CROPS, boxes, COLOURS, strict=True)):
        x, y = (round(float(value), 1) for value in box[:2])
        sheet.label(f"{name} at ({x:g}, {y:g})", colour, left, top + 24 + line * LINE)
    if np.allclose(boxes, boxes[0]):
        sheet.write("all of them are the whole image", left, top + 30 + len(boxes) * LINE, color=PALE)


def _describe(recipe: Recipe) -> str:
    data = recipe.data
    crop = {
        "scale": f"shorter side S drawn from {data.min_side} to {data.max_side}, crops of {recipe.crop_sizes}",
        "rrc": f"areas from {data.rrc_scale[0]:.0%} to {data.rrc_scale[1]:.0%}, resized to {recipe.crop_sizes}",
        "padded": f"padded by {data.padding}, crops of {recipe.crop_sizes}",
    }[data.crop]
    flip = "half of them flipped" if data.flip else "none flipped"
    colour = f"colours shifted by PCA (σ {data.colour:g})" if data.colour else "colours as they are"
    shown = {"channel": "before normalisation", "mean_image": "before the mean image is subtracted"}[data.normalize]
    return f"{crop} pixels, {flip}, {colour}; seed {recipe.seed}; shown {shown}"


def _fit(width: int, height: int, most_width: int, most_height: int, most: int) -> float:
    """By what to scale an image so that it fits: enlarged by a whole factor up to `most`, or made smaller."""
    room = min(most_width / width, most_height / height)
    return room if room < 1 else min(int(room), most)


def _scaled(image: Stored, width: int, height: int, scale: float) -> Pixels:
    """The whole image resized to `width` x `height`, and that made smaller, or each of its pixels enlarged."""
    if scale >= 1:
        return _enlarged(image.resized(width, height), int(scale))
    return image.resized(max(1, round(width * scale)), max(1, round(height * scale)))


def _enlarged(pixels: Pixels, factor: int) -> Pixels:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _placed(box: Sequence[float], left: int, top: int, scale: float) -> list[float]:
    """A box of an image on the sheet, where the image is at `left`, `top`."""
    return [start + scale * value for start, value in zip((left, top, left, top), box, strict=True)]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"
