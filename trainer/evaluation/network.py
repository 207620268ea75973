"""A trained network with what its input needs, as evaluation calls it: bytes in, scores out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data.colour import ColourStatistics, Preprocess
from trainer.evaluation.protocols import Pool, Score
from trainer.models.resnet import StagedNetwork


class Network:
    """A network and its preprocessing, on one device.

    Args:
        module: on the device.
        size: side in pixels of the crops that it looks at.
        mean_image: float32 [size, size, 3]; its average colour stands for it in whole images, which have other sizes
            (trap T10).
    """

    def __init__(
        self,
        module: StagedNetwork,
        size: int,
        statistics: ColourStatistics,
        mean_image: Tensor | None,
        device: torch.device,
    ) -> None:
        self.module = module
        self.size = size
        mean_colour = None if mean_image is None else mean_image.mean((0, 1), keepdim=True)
        self._of_crops = Preprocess(statistics, mean_image=mean_image).to(device)
        self._of_whole = Preprocess(statistics, mean_image=mean_colour).to(device)
        self._no_colour = torch.zeros((1, 3), device=device)

    def score_crops(self, images: Tensor, score: Score) -> Tensor:
        """uint8 [b, size, size, 3] -> float32 [b, classes]."""
        return _scores(self.module(self._of_crops(images, self._no_colour)), score)

    def score_whole(self, images: Tensor, score: Score, pool: Pool) -> Tensor:
        """uint8 [b, h, w, 3], no side below `size` -> float32 [b, classes].

        `dense` slides the classifier, with the average pooling before it, over the features: at every place of the map
        that comes out stands the score of a crop. "The fully-convolutional form" of Sermanet et al. 2014.
        """
        pixels = self._of_whole(images, self._no_colour)
        if pool == "global":
            return _scores(self.module(pixels), score)
        features = self.module.forward_features(pixels)
        window = -(-self.size // self.module.feature_info[-1]["reduction"])
        pooled = F.avg_pool2d(features, window, stride=1).permute(0, 2, 3, 1)
        return average(_scores(self.module.fc(pooled), score).flatten(1, 2), 1, score)


def _scores(logits: Tensor, score: Score) -> Tensor:
    # Of softmax the logarithm is kept, which neither underflows nor ties.
    return logits.float().log_softmax(-1) if score == "softmax" else logits.float()


def average(scores: Tensor, dimension: int, score: Score) -> Tensor:
    """The average of logits, or the logarithm of the average of what `scores` are the logarithms of."""
    if score == "logits":
        return scores.mean(dimension)
    return scores.logsumexp(dimension) - math.log(scores.shape[dimension])
