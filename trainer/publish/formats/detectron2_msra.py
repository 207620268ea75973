"""detectron2 with its default configuration, made for the released (MSRA) models: BGR in [0, 255], less the mean.

The standard deviation that the network was trained with is folded into its first convolution: only weights change.
"""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.data.colour import IMAGENET
from trainer.publish.backbone import Facts, Weights
from trainer.publish.formats.base import Format, Source, refuse_unlike
from trainer.publish.formats.detectron2 import SNIPPET, check, pickled, yaml_of


def folded(weights: Weights, std: tuple[float, float, float]) -> Weights:
    """conv1(x / std), of RGB, as conv1'(x), of BGR: each input channel divided, then the channels turned round.

    The mean stays outside: what is padded with zeros is the mean colour either way.
    """
    first = weights["conv1.weight"].double() / torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1)
    return {**weights, "conv1.weight": first.flip(1).float().contiguous()}


def write(source: Source, folder: Path) -> None:
    facts = source.backbone.facts
    name = f"{facts.file_name('bgr')}.pkl"
    (folder / name).write_bytes(pickled(folded(source.backbone.projected(), facts.std)))
    mean = list(reversed(facts.mean))
    (folder / SNIPPET).write_text(yaml_of(facts, name, order="BGR", mean=mean, std=[1.0, 1.0, 1.0]))


def usage(facts: Facts, file: str) -> str:
    if facts.is_v1 and facts.depth == 50 and facts.mean == IMAGENET.mean:
        place = "For detectron2's default configuration: a drop-in for its `R-50.pkl`."
    else:
        place = f"For detectron2 with its default input, BGR without a standard deviation, and what `{SNIPPET}` says."
    return f"""{place} Put the path of the weights into it.

    cfg.merge_from_file("detectron2-msra/{SNIPPET}")
"""


FORMAT = Format("detectron2-msra", refuse_unlike("detectron2"), write, check, usage, logits=False)
