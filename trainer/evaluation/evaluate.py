"""The error of networks over a data set, by several protocols in one pass over its images."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from trainer.data.crops import resized_sides
from trainer.data.cut_loader import CutLoader
from trainer.data.order import Ints, Request, evaluation_ids
from trainer.data.readahead import ReadAhead, reading_ahead
from trainer.errors import RunError
from trainer.evaluation.network import Network
from trainer.evaluation.protocols import Protocol, Score
from trainer.evaluation.scorer import Scorer

SCORES_BYTES: Final = 256 << 20
"""Of scores on the device at a time: they are kept by view until an image has all of them."""


@dataclass(frozen=True)
class Result:
    """Integer counts over all ranks, and the mean loss."""

    images: int
    top1_correct: int
    top5_correct: int
    loss: float
    """Mean of -log of the score of the label; of averaged logits: cross entropy."""
    seconds: float
    """Of all protocols of the pass."""

    @property
    def top1_error(self) -> float:
        """Fraction of images whose label is not the best score."""
        return 1.0 - self.top1_correct / self.images

    @property
    def top5_error(self) -> float:
        """Fraction of images whose label is not among the five best scores."""
        return 1.0 - self.top5_correct / self.images

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % interval of the top-1 error, see `error_interval`."""
        return error_interval(self.images - self.top1_correct, self.images)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """95 % interval of the top-5 error, see `error_interval`."""
        return error_interval(self.images - self.top5_correct, self.images)


def error_interval(errors: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a binomial proportion: what the images' number alone leaves open.

    The p with |errors/n - p| <= z sqrt(p (1 - p) / n), which is a quadratic inequality (Wilson 1927).
    """
    z_squared = NormalDist().inv_cdf(0.975) ** 2
    middle = (errors + z_squared / 2) / (images + z_squared)
    half = math.sqrt(z_squared * (errors * (images - errors) / images + z_squared / 4)) / (images + z_squared)
    return max(middle - half, 0.0), min(middle + half, 1.0)


@dataclass
class Predictions:
    """This rank's images and their scores."""

    ids: list[Ints] = field(default_factory=list)
    scores: dict[str, list[Tensor]] = field(default_factory=dict)
    """By protocol: float32 [n, classes], on the host."""


@dataclass(frozen=True)
class Share:
    """This rank's part of the work."""

    rank: int = 0
    world_size: int = 1

    def ids(self, count: int) -> Ints:
        """Of `count` samples, see `evaluation_ids`."""
        return evaluation_ids(count, self.rank, self.world_size)


@torch.no_grad()
def evaluate(
    networks: Sequence[Network],
    protocols: Sequence[Protocol],
    loader: CutLoader,
    *,
    classes: int,
    batch: int,
    share: Share = Share(),
    score: Score = "softmax",
    images: int | None = None,
    read_ahead: ReadAhead | None = None,
    predictions: Predictions | None = None,
    after_request: Callable[[int, int], None] = lambda requests, images: None,
) -> dict[str, Result]:
    """Evaluate this rank's share of the loader's beton and sum over all ranks: results by the protocols' names.

    The networks are left in the mode they were in. Nothing waits for the device but at the end of a window of images.

    Args:
        loader: of `all_cuts(protocols)`, for crops of the networks' size.
        batch: crops in one forward pass.
        images: of the beton, the first so many; None: all.
        predictions: where to keep the scores of all images.
        after_request: called with the numbers of requests and of images loaded so far, every `batch` images or fewer;
            it may raise.

    Raises:
        RunError: the ranks together did not see each image of the beton once.
    """
    began = time.perf_counter()
    training = [network.module.training for network in networks]
    for network in networks:
        network.module.eval()
    device = loader.device
    sums = {protocol.name: torch.zeros(3, dtype=torch.float64, device=device) for protocol in protocols}
    count = len(loader.beton) if images is None else images
    requests_done = images_done = 0
    windows = plan(loader, share.ids(count), batch, classes)
    flat = [request for window in windows for request in window]
    with (
        reading_ahead(read_ahead, flat) as requests,
        contextlib.closing(loader.load(requests)) as batches,  # before the requests are, if something is raised
    ):
        for window in windows:
            rows = sum(len(request.ids) for request in window)
            scorer = Scorer(
                networks, protocols, loader.cuts, rows=rows, classes=classes, batch=batch, score=score, device=device
            )
            seen, labels = 0, []
            for made in itertools.islice(batches, len(window)):
                for block in made.blocks:
                    scorer.add(block, seen)
                seen += len(made.ids)
                labels.append(made.labels)
                if predictions is not None:
                    predictions.ids.append(made.ids)
                requests_done += 1
                after_request(requests_done, images_done + seen)
            images_done += seen
            targets = torch.from_numpy(np.concatenate(labels)).to(device)
            for name, scores in scorer.finish().items():
                sums[name] += _counts(scores, targets, score)
                if predictions is not None:
                    kept = scores.exp() if score == "softmax" else scores
                    predictions.scores.setdefault(name, []).append(kept.cpu())
    for network, mode in zip(networks, training, strict=True):
        network.module.train(mode)
    return _combine(sums, images_done, count, loader, began)


def plan(loader: CutLoader, ids: Ints, batch: int, classes: int) -> list[list[Request]]:
    """Requests for `ids`, in windows whose scores fit on the device.

    Where whole images are among the cuts, images that have one shape when resized follow each other, to fill batches.
    """
    if any(cut.place == "whole" for cut in loader.cuts):
        largest = max(cut.resize for cut in loader.cuts)
        widths, heights = (sides[ids].astype(np.int64) for sides in (loader.beton.widths, loader.beton.heights))
        ids = ids[np.lexsort(resized_sides(largest, widths, heights))]
    most = max(batch, SCORES_BYTES // (2 * 4 * classes * len(loader.cuts)))
    windows: list[list[Request]] = []
    room = 0
    for request in loader.requests(ids, batch):
        if len(request.ids) > room:
            windows.append([])
            room = most
        windows[-1].append(request)
        room -= len(request.ids)
    return windows


def _counts(scores: Tensor, labels: Tensor, score: Score) -> Tensor:
    """float64 [3]: right ones among the best and the five best, exact to 2**53, and the sum of the losses."""
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    logs = scores if score == "softmax" else scores.log_softmax(1)
    loss = F.nll_loss(logs, labels, reduction="sum")
    return torch.stack([value.double() for value in (best[:, 0].sum(), best.sum(), loss)])


def _combine(sums: dict[str, Tensor], images: int, expected: int, loader: CutLoader, began: float) -> dict[str, Result]:
    counts = torch.cat([*sums.values(), torch.tensor([images], dtype=torch.float64, device=loader.device)])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
    *values, total = counts.tolist()
    if int(total) != expected:
        raise RunError(f"{loader.beton.path}: {int(total)} images were evaluated, it has {expected}")
    seconds = time.perf_counter() - began
    found = {}
    for number, name in enumerate(sums):
        top1, top5, loss = values[3 * number : 3 * number + 3]
        found[name] = Result(int(total), int(top1), int(top5), loss / total, seconds)
    return found
