"""What both engines share: waiting for a thread that may have died, and copying batches to the device."""

from __future__ import annotations

import queue
import threading
from typing import Final, TypeVar

import torch

Item = TypeVar("Item")

POLL_SECONDS: Final = 5.0
"""How often a waiting consumer makes sure that the thread it waits for is alive."""


class ThreadDied(Exception):
    """The thread that was to deliver is gone, without having said why."""


def next_from(items: queue.SimpleQueue[Item], thread: threading.Thread) -> Item:
    """The next of the `items` that `thread` puts.

    Raises:
        ThreadDied: there will be none.
    """
    while True:
        try:
            return items.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if not thread.is_alive() and items.empty():
                raise ThreadDied from None


class Transfer:
    """Copies to `device` on a stream of their own: on that of the network they would wait for the step before.

    On the CPU nothing is copied.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda" and device.index is None:  # Accelerate's, of a single process
            device = torch.device("cuda", torch.cuda.current_device())
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def enter_thread(self) -> None:
        """Make the device the current one of this thread: pinning memory would go through GPU 0."""
        if self._stream is not None:
            torch.cuda.set_device(self.device)

    def __call__(self, tensors: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.cuda.Event | None]:
        """The tensors on the device, for its current stream, and the event after which their memory is free again."""
        if self._stream is None:
            return tensors, None
        copied = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            tensors = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
            copied.record(self._stream)
        network = torch.cuda.current_stream(self.device)
        network.wait_event(copied)
        for tensor in tensors:
            tensor.record_stream(network)
        return tensors, copied
