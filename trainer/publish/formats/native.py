"""This project's own class: the one that has every network of the paper. Read by `trainer.publish.load_backbone`."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer import __version__
from trainer.publish.backbone import Facts
from trainer.publish.formats.base import Check, Format, Publication, Source, only_file
from trainer.publish.golden import INPUT, outputs_of
from trainer.publish.load import load_native, native_bytes
from trainer.publish.tensors import hashed_name


def refuse(facts: Facts, allow_v1_snippet: bool) -> None:
    """Nothing."""


def write(source: Source, folder: Path) -> None:
    content = native_bytes(source.backbone)
    (folder / hashed_name(source.backbone.facts.file_name(), content, ".safetensors")).write_bytes(content)


def check(folder: Path, publication: Publication) -> Check:
    network = load_native(only_file(folder, "*.safetensors"), classifier=True)
    outputs = outputs_of(network, torch.from_numpy(publication.golden[INPUT]))
    return Check(f"trainer {__version__}", outputs)


def usage(facts: Facts, file: str) -> str:
    return f"""    from trainer.publish import load_backbone

    backbone = load_backbone("native/{file}")  # without the classifier; strict
    features = backbone.forward_features(images)  # the last stage's
"""


FORMAT = Format("native", refuse, write, check, usage)
