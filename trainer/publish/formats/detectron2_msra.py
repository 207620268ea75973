"""detectron2 with its default configuration, made for the released (MSRA) models: BGR in [0, 255], less the mean.

The standard deviation that the network was trained with is folded into its first convolution: only weights change.
"""

from __future__ import annotations

from pathlib import Path

import torch

from trainer import __version__
from trainer.publish.backbone import Facts, Weights
from trainer.publish.formats.base import Check, Format, Publication, Source, refuse_unlike
from trainer.publish.formats.detectron2 import SNIPPET, check_pickle, pickled, yaml_of
from trainer.publish.golden import bgr_input


def folded(weights: Weights, std: tuple[float, float, float]) -> Weights:
    """conv1(x / std), of RGB, as conv1'(x), of BGR: each input channel divided, then the channels turned round.

    The mean stays outside: what is padded with zeros is the mean colour either way.
    """
    first = weights["conv1.weight"].double() / torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1)
    return {**weights, "conv1.weight": first.flip(1).float().contiguous()}


def write(source: Source, folder: Path) -> None:
    facts = source.backbone.facts
    name = f"{facts.file_name('bgr')}.pkl"
    weights = folded(source.backbone.projected(), facts.std)
    (folder / name).write_bytes(pickled(weights, f"imagenet-trainer {__version__}"))
    mean = list(reversed(facts.mean))
    (folder / SNIPPET).write_text(yaml_of(facts, name, order="BGR", mean=mean, std=[1.0, 1.0, 1.0]))


def check(folder: Path, publication: Publication) -> Check:
    return check_pickle(folder, publication, bgr_input(publication.golden, publication.facts))


def usage(facts: Facts, file: str) -> str:
    strides = "" if facts.is_v1 or not facts.bottleneck else " Its stride is not the default's: merge the file."
    return f"""For detectron2's default input (BGR, standard deviation 1): a drop-in for its `R-50.pkl`.{strides}

    cfg.merge_from_file("detectron2-msra/{SNIPPET}")
"""


FORMAT = Format("detectron2-msra", refuse_unlike("detectron2"), write, check, usage)
