"""`python -m trainer.publish.detect_demo`: a published backbone beside random weights, in a detector.

Fine-tunes torchvision's Faster R-CNN with FPN on generated images twice, with equal data, new layers and steps, and
measures both on held-out images. See `recipes/detection/faster_rcnn.yaml` for what is equal and what is not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torchvision
from rich.table import Table
from torchvision.models.detection import FasterRCNN

from trainer import __version__
from trainer.console import table_console
from trainer.errors import RunError, run_command
from trainer.files import check_output, write_atomically
from trainer.publish.detection.detector import Published, build_detector, freeze, read_published
from trainer.publish.detection.picture import draw_detections
from trainer.publish.detection.recipe import DetectionRecipe, load_detection_recipe
from trainer.publish.detection.scenes import Scene, class_names, make_scenes
from trainer.publish.detection.training import (
    Detections,
    Outcome,
    detect,
    fine_tune,
    metrics_package,
    precision,
)

RECIPE: Final = Path("recipes/detection/faster_rcnn.yaml")
RESULTS, PICTURE = "results.json", "detections.png"
PUBLISHED, RANDOM = "published", "random"
TITLES: Final = {PUBLISHED: "From the published backbone", RANDOM: "From random weights"}


@dataclass(frozen=True)
class Data:
    """Generated images."""

    train: list[Scene]
    val: list[Scene]


def run_demo(publication: Path, out: Path, recipe: DetectionRecipe) -> dict[str, Outcome]:
    """Train and measure both detectors; write `detections.png` and `results.json` into `out`, print a table.

    Raises:
        UsageError: the publication is none, damaged or of another kind of network; there is no place for the results; a
            package is missing.
        RunError: a loss is not finite, or the results cannot be written.
    """
    published = read_published(publication)
    metrics_package()
    check_output(out / RESULTS, "--out", with_parents=True)
    print(f"{recipe.train_images} images to train on, {recipe.val_images} held out: drawing them", flush=True)
    data = Data(*(_scenes(split, recipe) for split in ("train", "val")))
    outcomes: dict[str, Outcome] = {}
    found: dict[str, list[Detections]] = {}
    for start in (PUBLISHED, RANDOM):
        outcomes[start], found[start] = _train(start, published, data, recipe)
    _make_folder(out)
    rows = [(f"{TITLES[start]}: AP50 {outcome.map_50:.1%}", found[start]) for start, outcome in outcomes.items()]
    draw_detections(out / PICTURE, data.val, rows, class_names(recipe.classes))
    write_atomically(out / RESULTS, _results(published, recipe, outcomes))
    _print_table(outcomes)
    print(f"wrote {out / PICTURE} and {out / RESULTS}")
    return outcomes


def _scenes(split: str, recipe: DetectionRecipe) -> list[Scene]:
    count = recipe.train_images if split == "train" else recipe.val_images
    return make_scenes(recipe.seed, split, count, size=recipe.size, classes=recipe.classes)


def _train(start: str, published: Published, data: Data, recipe: DetectionRecipe) -> tuple[Outcome, list[Detections]]:
    """One detector, from its first weights to what it finds in the held-out images."""
    detector = first_detector(start, published, recipe)
    begun = time.monotonic()
    losses = fine_tune(detector, data.train, recipe, start)
    seconds = time.monotonic() - begun
    found = detect(detector, data.val)
    outcome = Outcome(*precision(found, data.val), seconds, losses)
    print(f"{start}: mAP {outcome.map:.1%}, AP50 {outcome.map_50:.1%}", flush=True)
    return outcome, found


def first_detector(start: str, published: Published, recipe: DetectionRecipe) -> FasterRCNN:
    """Before its first step. Leaves torch's generator, from which proposals are sampled, the same for both."""
    torch.manual_seed(recipe.seed)
    if start == PUBLISHED:
        body = published.body()
        freeze(body, recipe.frozen_stages)
    else:
        body = published.random_body()
    torch.manual_seed(recipe.seed)  # whatever the body has drawn, the new layers are those of the other detector
    return build_detector(body, published.facts, recipe)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: cannot make the folder: {error.strerror or error}") from error


def _results(published: Published, recipe: DetectionRecipe, outcomes: Mapping[str, Outcome]) -> bytes:
    facts = published.facts
    content: dict[str, Any] = {
        "publication": {"name": facts.file_name(), "step": facts.step, "data_digest": facts.data_digest},
        "recipe": asdict(recipe),
        "detectors": {start: asdict(outcome) for start, outcome in outcomes.items()},
        "versions": {
            "imagenet-trainer": __version__,
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
        },
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def _print_table(outcomes: Mapping[str, Outcome]) -> None:
    table = Table()
    table.add_column("weights at the start")
    for heading in ("mAP (%)", "AP50 (%)", "loss at the end", "training (s)"):
        table.add_column(heading, justify="right")
    for start, outcome in outcomes.items():
        recent = outcome.losses[-50:]
        figures = f"{outcome.map:.1%}"[:-1], f"{outcome.map_50:.1%}"[:-1], f"{sum(recent) / len(recent):.3f}"
        table.add_row(start, *figures, f"{outcome.seconds:.0f}")
    table_console().print(table)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.publish.detect_demo",
        description="Fine-tune Faster R-CNN on generated images from a published backbone, and from random weights; "
        "measure mAP of both on held-out images. Takes minutes on a CPU.",
    )
    parser.add_argument("publication", metavar="PUBLICATION", type=Path, help="a folder that `trainer publish` wrote")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the recipe's, e.g. steps=600"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"for {PICTURE} and {RESULTS}")
    parser.add_argument(
        "--recipe", type=Path, default=RECIPE, metavar="YAML", help=f"data, detector, fine-tuning (default: {RECIPE})"
    )
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    run_demo(args.publication, args.out, load_detection_recipe(args.recipe, args.overrides))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
