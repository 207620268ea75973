"""`load_backbone`: a published network in this project's own class, strictly."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from trainer.errors import UsageError
from trainer.models.resnet import StagedNetwork
from trainer.publish.backbone import Backbone, Facts, Weights, build
from trainer.publish.tensors import safetensors_bytes

FACTS: Final = "facts"
LABELS: Final = "labels"
MEAN_IMAGE: Final = "preprocessing.mean_image"
CLASSIFIER: Final = "fc."
FOLDER: Final = "native"


def load_backbone(path: str | Path) -> StagedNetwork:
    """A published network without its classifier, in evaluation mode, on the CPU, ready to be trained on.

    `forward_features` maps images, RGB, normalised as the model card says, float32 [N, 3, H, W], to the last stage's
    float32 [N, C, H / 32, W / 32] (CIFAR networks: H / 4, W / 4); `forward` pools them; `feature_info` has the stages,
    as timm has it.

    Args:
        path: a publication's folder, or its `native/*.safetensors`.

    Raises:
        UsageError: there is none, it is damaged, or a weight is missing or too many, the classifier's aside.
    """
    return load_native(_file(Path(path)), classifier=False)


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    found = [file for folder in (path, path / FOLDER) for file in sorted(folder.glob("*.safetensors"))]
    if len(found) != 1:
        raise UsageError(f"{path}: expected a publication with {FOLDER}/*.safetensors, found {len(found)} of them")
    return found[0]


def load_native(file: Path, *, classifier: bool) -> StagedNetwork:
    """As `load_backbone`, of the file itself, with its classifier if wanted."""
    weights, facts = read_native(file)
    weights.pop(MEAN_IMAGE, None)
    if not classifier:
        weights = {key: value for key, value in weights.items() if not key.startswith(CLASSIFIER)}
    try:
        return build(facts, weights, num_classes=facts.num_classes if classifier else 0)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"{file}: {' '.join(str(error).split())[:500]}") from error


def read_native(file: Path) -> tuple[Weights, Facts]:
    """Tensors by name and what is known of them.

    Raises:
        UsageError: it cannot be read, or is none of this project's.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{file}: cannot read it: {error}; was it copied as a whole?") from error
    if FACTS not in metadata:
        raise UsageError(f"{file}: not written by this project as native; give that file of the publication")
    try:
        facts = json.loads(metadata[FACTS])
    except ValueError as error:
        raise UsageError(f"{file}: damaged: its facts are no JSON: {error}") from error
    return weights, facts_from(facts, str(file))


def facts_from(values: Any, where: str) -> Facts:
    """
    Raises:
        UsageError: naming what is missing.
    """
    names = {field.name for field in fields(Facts)}
    missing = sorted(names - set(values)) if isinstance(values, dict) else sorted(names)
    if missing:
        raise UsageError(f"{where}: not what this project publishes: {', '.join(missing)} missing")
    known: dict[str, Any] = {name: values[name] for name in names}
    for name in ("mean", "std"):
        if not isinstance(known[name], list) or len(known[name]) != 3:
            raise UsageError(f"{where}: damaged: {name} is {known[name]}, expected three numbers")
        known[name] = tuple(known[name])
    return Facts(**known)


def native_bytes(backbone: Backbone) -> bytes:
    """The whole network and its facts."""
    extra = {} if backbone.mean_image is None else {MEAN_IMAGE: backbone.mean_image}
    facts = {FACTS: json.dumps(asdict(backbone.facts), sort_keys=True), LABELS: json.dumps(backbone.labels)}
    return safetensors_bytes({**backbone.weights, **extra}, {**backbone.facts.metadata(), **facts})
