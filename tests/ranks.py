"""Functions called in several processes at once, which are the ranks of a group as a launcher's would be."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.faults.trainers import CONTEXT

ANSWER_SECONDS = 60


def on_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)` returns on each rank, None for one that died. What a rank raises is raised.

    Args:
        function: of a module that can be imported.
    """
    processes, answers = [], []
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(world_size):
            mine, its = CONTEXT.Pipe(duplex=False)
            store = Path(folder) / "store"
            process = CONTEXT.Process(target=_work, args=(its, rank, world_size, store, function, arguments))
            process.start()
            its.close()
            processes.append(process)
            answers.append(mine)
        try:
            found = [_receive(answer) for answer in answers]
        finally:
            for process in processes:
                process.kill()
                process.join()
    for value in found:
        if isinstance(value, BaseException):
            raise value
    return found


def _receive(answer: Connection) -> Any:
    if not answer.poll(ANSWER_SECONDS):
        return TimeoutError("a rank does not answer")
    try:
        return pickle.loads(answer.recv_bytes())
    except EOFError:
        return None


def _work(
    answer: Connection, rank: int, world_size: int, store: Path, function: Callable[..., Any], arguments: Any
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    try:
        found = function(rank, *arguments)
    except Exception as error:
        answer.send_bytes(pickle.dumps(error))
        raise
    answer.send_bytes(pickle.dumps(found))  # not send(), which passes tensors on in memory shared with this process
    parent = parent_process()
    assert parent is not None
    parent.join()  # it kills this process; leaving before the others would break their connections
