"""How the processes tell the first one what they found: through the store that they were started with.

The store is what has worked for sure when the processes are up. A gather over the links would fail with the links, and
it is then that a report is wanted.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch.distributed.distributed_c10d import Store, _get_default_store

from trainer.doctor.check import Check, fail, reason
from trainer.errors import RunError
from trainer.processes import start_accelerator
from trainer.recipe import Recipe
from trainer.stops import end_with_launcher

WAIT_SECONDS: Final = 120.0
"""How long the first process waits for what another one says, once it is ready itself."""


class Meeting:
    """The processes of this launch, or the only one.

    Attributes:
        rank, world_size: as in torch.distributed.
        leads_node: whether this process looks at its node for all of them.
        node: the number of its node.
        device: what training computes on.
        backend: what sums up gradients, e.g. `nccl`; empty alone.
    """

    def __init__(self, store: Store, rank: int, world_size: int, device: torch.device, backend: str) -> None:
        self._store = store
        self.rank, self.world_size = rank, world_size
        self.device, self.backend = device, backend
        self.leads_node = int(os.environ.get("LOCAL_RANK", "0")) <= 0
        self.node = int(os.environ.get("GROUP_RANK", "0"))  # torchrun's number of the node

    def tell(self, topic: str, content: Any) -> None:
        """Something that is JSON, for all processes to `hear`; once for each topic."""
        self._store.set(_key(topic, self.rank), json.dumps(content))

    def hear(self, topic: str, rank: int, seconds: float = WAIT_SECONDS) -> Any:
        """What a process tells, once it does; None if it does not in time."""
        try:
            self._store.wait([_key(topic, rank)], timedelta(seconds=seconds))
        except RuntimeError:
            return None
        return json.loads(self._store.get(_key(topic, rank)))

    def hear_all(self, topic: str) -> list[Any]:
        """What all processes tell, by rank; None for those that told nothing in time."""
        deadline = time.monotonic() + WAIT_SECONDS
        return [self.hear(topic, rank, max(1.0, deadline - time.monotonic())) for rank in range(self.world_size)]


def join(recipe: Recipe | None) -> tuple[Meeting, list[Check]]:
    """Start as training does; with a failed check when training would refuse.

    Raises:
        RunError: this is not the first process, and it cannot reach the others.
    """
    if "ACCELERATE_MIXED_PRECISION" not in os.environ and "RANK" not in os.environ:
        return _alone(recipe)
    end_with_launcher()
    troubles = []
    try:
        start_accelerator(recipe or Recipe())
    except Exception as error:
        troubles.append(fail("launch", reason(error)))
    device = torch.device("cpu")
    try:
        device = PartialState().device  # joins the others, too, if the recipe was refused before
    except Exception as error:
        if not troubles:
            troubles.append(fail("launch", reason(error)))
    if dist.is_initialized():
        backend = str(dist.get_backend())
        return Meeting(_get_default_store(), dist.get_rank(), dist.get_world_size(), device, backend), troubles
    if int(os.environ.get("RANK", "0")) > 0:
        raise RunError(f"rank {os.environ['RANK']} cannot reach the other processes: {troubles[0].found}")
    return _meeting_of_one(device), troubles


def _alone(recipe: Recipe | None) -> tuple[Meeting, list[Check]]:
    """Nobody launched this. Accelerate takes seconds to start, and could only refuse a precision."""
    troubles = []
    if recipe is not None and recipe.precision != Recipe.precision:
        try:
            start_accelerator(recipe)
        except Exception as error:
            troubles.append(fail("launch", reason(error)))
    return _meeting_of_one(torch.device("cuda" if torch.cuda.is_available() else "cpu")), troubles


def _meeting_of_one(device: torch.device) -> Meeting:
    return Meeting(dist.HashStore(), 0, 1, device, "")  # type: ignore[attr-defined]  # in its documentation


def _key(topic: str, rank: int) -> str:
    return f"doctor/{topic}/{rank}"
