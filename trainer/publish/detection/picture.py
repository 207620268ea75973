"""A few held-out images: what is in them, and what each detector found."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor
from torchvision.ops import box_iou, nms

from trainer.files import write_atomically
from trainer.palette import COLOURS
from trainer.publish.detection.scenes import Scene
from trainer.publish.detection.training import Detections

COLUMNS: Final = 5
SURE: Final = 0.3
"""The score from which a detection is drawn."""
CROWDED: Final = 0.3
"""The IoU from which one box hides another."""
MATCH: Final = 0.5
"""The IoU from which it may be right, as in AP50."""
TRUTH, RIGHT, WRONG = "#000000", *COLOURS[:2]
TILE, HEADER, GAP = 2.4, 0.34, 0.08
"""Inches."""
LETTERS: Final = 8.5
"""Points."""


def draw_detections(
    path: Path, scenes: Sequence[Scene], rows: Sequence[tuple[str, Sequence[Detections]]], names: Sequence[str]
) -> None:
    """Write the first scenes as a PNG: a row for the truth, then one for each detector's title and detections.

    Raises:
        RunError: it cannot be written.
    """
    columns = min(COLUMNS, len(scenes))
    width, height = columns * (TILE + GAP) + GAP, (1 + len(rows)) * (TILE + HEADER + GAP)
    figure = Figure(figsize=(width, height))
    for row, title in enumerate(["What is in held-out images", *(title for title, _ in rows)]):
        top = row * (TILE + HEADER + GAP)
        figure.text(GAP / width, 1 - (top + HEADER / 2) / height, title, size=11, weight="bold", va="center")
        if row:
            _legend(figure, 1 - GAP / width, 1 - (top + HEADER / 2) / height)
        for column in range(columns):
            left, bottom = GAP + column * (TILE + GAP), height - top - HEADER - TILE
            axes = figure.add_axes((left / width, bottom / height, TILE / width, TILE / height))
            _draw_image(axes, scenes[column].image)
            if row == 0:
                _draw_truth(axes, scenes[column], names)
            else:
                _draw_found(axes, rows[row - 1][1][column], scenes[column], names)
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    write_atomically(path, content.getvalue())


def _legend(figure: Figure, right: float, height: float) -> None:
    style: dict[str, Any] = {"size": 9.5, "ha": "right", "va": "center"}
    figure.text(right, height, "dashed: wrong", color=WRONG, **style)
    figure.text(right - 0.095, height, "solid: right", color=RIGHT, **style)
    figure.text(right - 0.18, height, f"the surest box of a place, from a score of {SURE:g}", color="#444444", **style)


def _draw_image(axes: Axes, image: Tensor) -> None:
    size = image.shape[1]
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="bicubic", extent=(0, size, size, 0))
    axes.axis("off")


def _draw_truth(axes: Axes, scene: Scene, names: Sequence[str]) -> None:
    for box, label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
        _draw_box(axes, box, names[label], TRUTH, "solid")


def _draw_found(axes: Axes, found: Detections, scene: Scene, names: Sequence[str]) -> None:
    """Of boxes that overlap, whatever their classes, only the surest: more could not be read."""
    verdicts = are_right(found, scene)
    for place in nms(found["boxes"], found["scores"], CROWDED).tolist():
        name, score = names[int(found["labels"][place])], float(found["scores"][place])
        if score >= SURE:
            colour, line = (RIGHT, "solid") if verdicts[place] else (WRONG, "dashed")
            _draw_box(axes, found["boxes"][place].tolist(), f"{name} {score:.2f}", colour, line)


def are_right(found: Detections, scene: Scene) -> list[bool]:
    """Of each detection, the surest first: whether it is the first to overlap an object and to name its class."""
    overlaps = box_iou(found["boxes"], scene.boxes)
    taken: set[int] = set()
    verdicts = []
    for label, row in zip(found["labels"].tolist(), overlaps, strict=True):
        candidates = [
            (float(overlap), place)
            for place, overlap in enumerate(row)
            if overlap >= MATCH and int(scene.labels[place]) == label and place not in taken
        ]
        verdicts.append(bool(candidates))
        taken |= {max(candidates)[1]} if candidates else set()
    return verdicts


def _draw_box(axes: Axes, box: Sequence[float], text: str, colour: str, line: str) -> None:
    """Inside its upper edge, where the image has room for it, what it is."""
    left, top, right, bottom = box
    halo = [withStroke(linewidth=4, foreground="white", alpha=0.8)]
    axes.add_patch(
        Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=2, linestyle=line,
            path_effects=halo,
        )
    )  # fmt: skip
    size = axes.get_xlim()[1]
    near_the_edge = left > 0.6 * size
    axes.text(
        right if near_the_edge else left,
        top,
        text.replace("_", "\n"),
        ha="right" if near_the_edge else "left",
        va="top",
        size=LETTERS,
        linespacing=0.95,
        color="white",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2},
        clip_on=True,
    )
