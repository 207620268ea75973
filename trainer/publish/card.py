"""The model card: what a hub and a person have to know of a published network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Final

import yaml
from huggingface_hub import EvalResult, ModelCardData

from trainer.publish.backbone import Backbone, Facts
from trainer.publish.formats import FORMATS
from trainer.report.canvas import to_png
from trainer.report.comparison import Measured, measured_at
from trainer.report.paper import CIFAR, IMAGENET, family
from trainer.report.plots import draw_errors
from trainer.report.runs import read_runs

CURVE: Final = "training.png"
PAPER: Final = "https://arxiv.org/abs/1512.03385"
_DATA_SETS: Final = {IMAGENET: ("imagenet-1k", 1000), CIFAR: ("cifar10", 10)}
"""A hub's name of what the paper evaluates on, and its classes."""

_CARD: Final = Template("""---
$metadata
---

# $title

$summary

| | |
|---|---|
$facts

## Errors

$errors

## Use

Input is RGB. Pixels in [0, 255]: $pixels. $resize

$usage

$not_written`golden.npz` has seeded images, the network's `input`, and what every stage makes of it: compare your
features with it. `SHA256SUMS` is for `sha256sum --check`; `python -m trainer publish --verify FOLDER` does both, with
every consumer that is installed.

$curve## Limits

$limits

## Recipe

```yaml
$recipe
```
""")


def draw_curve(backbone: Backbone) -> bytes | None:
    """The errors of its run over the iterations, a PNG; None if it lies in no run folder."""
    if backbone.run_dir is None:
        return None
    return to_png(draw_errors(read_runs([backbone.run_dir])))


def model_card(
    backbone: Backbone, folder: Path, formats: Sequence[str], not_written: dict[str, str], *, license: str
) -> str:
    """README.md of a publication: a hub's metadata with a model-index, then what a person reads.

    Args:
        folder: has the formats already; the files' names go into the card.
    """
    facts, found = backbone.facts, _errors(backbone)
    reasons = "".join(f"Not written as {name}: {reason}.\n" for name, reason in not_written.items())
    return _CARD.substitute(
        metadata=_metadata(facts, found, formats, license),
        title=facts.file_name(),
        summary=_summary(facts),
        facts="\n".join(f"| {name} | {value} |" for name, value in _rows(backbone, license).items()),
        errors=_error_table(found),
        pixels=_normalisation(backbone),
        resize=f"Validated on the centre {facts.size} x {facts.size} of images whose shorter side is {facts.resize}.",
        usage="\n".join(_usage(name, facts, folder) for name in formats),
        not_written=f"{reasons}\n" if reasons else "",
        curve=f"![top-1 error while training]({CURVE})\n\n" if backbone.run_dir is not None else "",
        limits=_limits(facts),
        recipe=yaml.safe_dump(facts.recipe, sort_keys=False).rstrip(),
    )


def _errors(backbone: Backbone) -> list[Measured]:
    """What its run folder has of these weights."""
    if backbone.run_dir is None:
        return []
    (run,) = read_runs([backbone.run_dir])
    facts = backbone.facts
    return measured_at(run, facts.samples, ema=facts.ema, recalibrated=facts.recalibrated)


def _metadata(facts: Facts, errors: Sequence[Measured], formats: Sequence[str], license: str) -> str:
    data_set, classes = _DATA_SETS[family(facts.arch)]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=data_set if one.comparable and facts.num_classes == classes else "other",
            dataset_name=f"{one.images:,} images of {facts.recipe['data']['val']}",
            metric_type="accuracy",
            metric_name=f"top-{k} accuracy, {one.view}",
            metric_value=round(1 - error / 100, 6),
        )
        for one in errors
        for k, error in ((1, one.top1), (5, one.top5))
    ]
    tags = ["image-classification", "image-feature-extraction", "resnet", "object-detection-backbone"]
    data = ModelCardData(
        license=license,
        library_name="timm" if "timm" in formats else None,
        pipeline_tag="image-classification",
        tags=[*tags, f"stride-{facts.stride}", f"shortcut-{facts.shortcut}"],
        model_name=facts.file_name() if results else None,
        eval_results=results or None,
    )
    return str(data)


def _summary(facts: Facts) -> str:
    by = f"imagenet-trainer {facts.versions.get('imagenet-trainer', '')}".rstrip()
    return f"{facts.arch} of [He et al. 2015]({PAPER}), trained with {by} as the recipe below says."


def _rows(backbone: Backbone, license: str) -> dict[str, str]:
    facts = backbone.facts
    variant = " (v1, the paper's)" if facts.is_v1 else " (v1.5)" if facts.bottleneck else " (basic blocks)"
    weights = "their moving average" if facts.ema else "of that iteration"
    statistics = "averages over training images" if facts.recalibrated else "moving averages"
    return {
        "architecture": facts.arch,
        "stride": f"in the {facts.stride} convolution" + variant,
        "shortcut": {"none": "none (plain)"}.get(facts.shortcut, f"option {facts.shortcut}"),
        "channel order": "RGB (`detectron2-msra`: BGR)",
        "classes": f"{facts.num_classes:,}",
        "trained for": f"{facts.step:,} iterations, {facts.samples:,} samples",
        "weights": weights,
        "batch norm": statistics,
        "training data": f"digest `{facts.data_digest}`",
        "trained with": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
        "licence": license,
    }


def _normalisation(backbone: Backbone) -> str:
    facts = backbone.facts
    if backbone.mean_image is not None:
        return "subtract the mean image (`preprocessing.mean_image` in the native file)"
    mean, std = (", ".join(f"{value:.7g}" for value in values) for values in (facts.mean, facts.std))
    return f"subtract ({mean}), divide by ({std})"


def _error_table(errors: Sequence[Measured]) -> str:
    if not errors:
        return "Not evaluated."
    rows = ["| protocol | images | top-1 error (%) | top-5 error (%) | the paper's |", "|---|---|---|---|---|"]
    for one in errors:
        papers = () if one.paper is None else (one.paper.top1_text, one.paper.top5_text)
        paper = " / ".join(filter(None, papers)) or "–"
        notes = f" ({'; '.join(one.notes)})" if one.notes else ""
        rows.append(f"| {one.view}{notes} | {one.images:,} | {one.top1:.2f} | {one.top5:.2f} | {paper} |")
    return "\n".join(rows)


def _usage(name: str, facts: Facts, folder: Path) -> str:
    (file, *_) = [path.name for path in sorted((folder / name).iterdir()) if path.suffix in _WEIGHTS]
    return f"### {name}\n\n{FORMATS[name].usage(facts, file)}"


_WEIGHTS: Final = (".safetensors", ".pth", ".pkl", ".onnx")


def _limits(facts: Facts) -> str:
    stride = (
        "Its bottlenecks stride in the 1x1 convolution: networks that stride in the 3x3 (torchvision's and timm's "
        "`resnet50` and deeper) load the weights without a word and give other features.\n\n"
        if facts.is_v1
        else ""
    )
    return (
        f"{stride}It classifies photographs into the classes in `labels.json` and knows no others; its errors are "
        "those of its data, and so are its biases. ImageNet's images are licensed for non-commercial research: whether "
        "that binds what was trained on them is for you to find out."
    )
