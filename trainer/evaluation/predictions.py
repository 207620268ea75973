"""The scores of every image, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from trainer.data.dataset import Dataset
from trainer.evaluation.evaluate import Predictions
from trainer.evaluation.protocols import Protocol
from trainer.files import replacing


def write_predictions(
    path: Path,
    predictions: Predictions,
    protocols: Sequence[Protocol],
    data: Dataset,
    classes: list[str],
    accelerator: Accelerator,
) -> None:
    """Write all ranks' predictions to one .npz file, in the order of the beton, from the main process.

    It holds `labels` int64 [N], `classes` [C], and by the name of each protocol the averaged scores, float32 [N, C].

    Raises:
        RunError: it cannot be written.
    """
    count = len(data.beton)
    ids = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *predictions.ids]))
    arrays = {}
    for protocol in protocols:
        mine = torch.cat([torch.empty(0, len(classes)), *predictions.scores.get(protocol.name, [])])
        arrays[protocol.name] = _gather(ids, mine, count, accelerator)
    if accelerator.is_main_process:
        content = {"labels": data.beton.labels, "classes": np.array(classes), **arrays}
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **content)  # type: ignore[arg-type]


def _gather(ids: Tensor, scores: Tensor, count: int, accelerator: Accelerator) -> np.ndarray:
    """float32 [count, C] on the main process, of every rank's rows `ids`."""
    whole = torch.zeros((count, scores.shape[1]) if accelerator.is_main_process else (0, 0))
    if not dist.is_initialized():
        whole[ids] = scores
        return whole.numpy()
    for rank in range(accelerator.num_processes):  # one at a time: nobody but the main process needs room for all
        sizes = torch.tensor([len(ids)], device=accelerator.device)
        dist.broadcast(sizes, rank)
        rows = _broadcast(ids, (int(sizes),), rank, accelerator)
        values = _broadcast(scores, (int(sizes), scores.shape[1]), rank, accelerator)
        if accelerator.is_main_process:
            whole[rows] = values
    return whole.numpy()


def _broadcast(mine: Tensor, shape: tuple[int, ...], rank: int, accelerator: Accelerator) -> Tensor:
    own = rank == accelerator.process_index
    sent = mine.to(accelerator.device) if own else torch.empty(shape, dtype=mine.dtype, device=accelerator.device)
    dist.broadcast(sent, rank)
    return sent.cpu()
