"""Writes checkpoints behind the loop's back: it goes on as soon as the state is copied."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.operations import recursively_apply

from trainer import checkpoint


class Saver:
    """One checkpoint at a time is written by a thread; the next one waits for it.

    Args:
        keep: how many of the newest checkpoints stay.
    """

    def __init__(self, run_dir: Path, keep: int) -> None:
        self._run_dir = run_dir
        self._keep = keep
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.ended = time.monotonic()
        """When the last checkpoint was complete, or this began."""

    def save(self, state: dict[str, Any]) -> None:
        """Begin to write `state`; it may change as soon as this returns.

        Raises:
            RunError: the checkpoint before could not be written.
        """
        self.wait()
        copied = _Copy(state)
        self._thread = threading.Thread(target=self._write, args=(copied,), name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what went wrong, if anything did. Costs nothing."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Until what was asked for is on the disk, or raise why it is not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def settle(self, seconds: float) -> None:
        """Give a checkpoint that is being written this long; whatever becomes of it, something else is wrong."""
        if self._thread is not None:
            self._thread.join(seconds)

    @property
    def is_idle(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def _write(self, copied: _Copy) -> None:
        try:
            checkpoint.save(self._run_dir, copied.on_cpu(), keep=self._keep)
            self.ended = time.monotonic()
        except Exception as error:  # the loop raises it
            self._error = error


class _Copy:
    """A state whose tensors are copied on their device, which is fast, and fetched to the CPU by another thread."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._device: torch.device | None = None
        self._state = recursively_apply(self._clone, state)
        self._copied: torch.cuda.Event | None = None
        if self._device is not None:
            self._copied = torch.cuda.current_stream(self._device).record_event()

    def _clone(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_cuda:
            self._device = tensor.device
        return tensor.detach().clone()

    def on_cpu(self) -> dict[str, Any]:
        """The state, all on the CPU."""
        if self._device is None or self._copied is None:
            return dict(self._state)
        with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.Stream()):  # not behind the training steps
            torch.cuda.current_stream().wait_event(self._copied)
            return dict(recursively_apply(torch.Tensor.cpu, self._state))
