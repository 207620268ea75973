"""One attempt at a run: the main process of `trainer train`, from its start to its end, however it ends.

It keeps `status.json` (see `trainer.run_status`), which never ends a run nor holds it up. Imports nothing heavy.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from trainer.console import Status, duration
from trainer.errors import INTERRUPTED, LostContact, NotBegun, Preempted, RunError, UsageError
from trainer.lock import RunLock
from trainer.recipe import IMAGENET_SAMPLES
from trainer.record import count_starts
from trainer.run_status import LAUNCH, RunStatus, now, read_status, status_of_record, write_status

SECONDS: Final = 5.0
"""Between two writes of a run that goes on."""

LAST_WRITE_SECONDS: Final = 10.0
"""What a write that is under way is given at the end; a file system may hang."""


class Attempt:
    """Tells of the attempt in the run folder. A context manager; in all processes but the main one it does nothing.

    A thread writes every `SECONDS`, so that a file which is older tells of a process that is gone, also in the middle
    of a long step. What cannot be written is told of once.

    What went wrong before the run folder was entered reaches it, too, if the folder is there. Under a launch script it
    is: whoever sees to the job looks there, and so does the next attempt (`repeat_end`).
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._main = os.environ.get("RANK", "0") == "0"
        self._status: Status | None = None
        self._facts: dict[str, Any] = {}
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._told = False

    def __enter__(self) -> Attempt:
        if self._main and LAUNCH in os.environ:
            try:
                self._run_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self._tell(f"{self._run_dir}: cannot be made: {error.strerror}")
        return self

    def begin(self, status: Status, world_size: int, device: str) -> None:
        """The run folder is entered: from now on tell how far it is, as `status` has it."""
        if not self._main:
            return
        self._status = status
        self._facts = {"restarts": count_starts(self._run_dir), "world_size": world_size, "device": device}
        self._thread = threading.Thread(target=self._keep_writing, name="status", daemon=True)
        self._thread.start()

    def end(self, error: BaseException | None = None) -> None:
        """The last word: how it ended. Not where another trainer is at work."""
        if not self._main or self._over.is_set():
            return
        self._over.set()
        if self._thread is not None:
            self._thread.join(LAST_WRITE_SECONDS)
        if not self._run_dir.is_dir():
            return
        try:
            lock = RunLock(self._run_dir)
        except UsageError:
            return
        except OSError as refused:
            self._tell(f"{self._run_dir}: cannot write its status: {refused.strerror}")
            return
        try:
            self._write(replace(self._now(), **_how_it_ended(error, self._run_dir)))
        finally:
            lock.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)

    def _keep_writing(self) -> None:
        while True:
            self._write(self._now())
            if self._over.wait(SECONDS):
                return

    def _now(self) -> RunStatus:
        if self._status is not None:
            return RunStatus(**_progress(self._status), **self._facts)
        # It did not come to a first step: what was known of the run is still so.
        known = read_status(self._run_dir) or status_of_record(self._run_dir)
        own = RunStatus()
        return replace(known, host=own.host, pid=own.pid, slurm_job=own.slurm_job, launch=own.launch, updated=now())

    def _write(self, status: RunStatus) -> None:
        try:
            write_status(self._run_dir, status)
        except RunError as error:
            self._tell(str(error))

    def _tell(self, what: str) -> None:
        if not self._told:
            print(f"note: {what}; `trainer status` will not know of this", file=sys.stderr, flush=True)
        self._told = True


def refuse(recipe: str, error: UsageError) -> None:
    """The recipe could not be read: the last word on the run folder, if it is of one that is there."""
    if (Path(recipe) / "recipe.yaml").is_file():
        Attempt(Path(recipe)).end(error)


def repeat_end(run_dir: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """End as the last attempt of this launch did, if that was final: torchrun starts its processes again after any
    error, and would three times wait for torch to be told the same.

    Returns:
        Whether the run is finished, which is said.

    Raises:
        UsageError, RunError, Preempted: what the last attempt ended with.
    """
    launch, restarts = environment.get(LAUNCH), environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    if not launch or restarts == "0":
        return False
    last = read_status(run_dir)
    if last is None or last.launch != launch or not last.final:
        return False
    if last.exit_status:
        kinds = {kind.exit_code: kind for kind in (UsageError, Preempted)}
        raise kinds.get(last.exit_status, RunError)(last.error or last.message)
    print(last.message, flush=True)
    return True


def _how_it_ended(error: BaseException | None, run_dir: Path) -> dict[str, Any]:
    """The keys that say so. What another attempt may cure is not final: another process that is gone, a crash."""
    line = " ".join(str(error).split())
    left = {"eta_seconds": None, "eta": None}
    if error is None:
        said = {"state": "finished", "error": None, "message": f"finished: {run_dir}", "final": True, "exit_status": 0}
        return left | said
    if isinstance(error, Preempted):  # one before the first step may be torchrun's, because of another process
        final = not isinstance(error, NotBegun)
        said = {"state": "stopped", "error": None, "message": line, "final": final, "exit_status": error.exit_code}
        return left | said
    final = isinstance(error, UsageError | RunError) and not isinstance(error, LostContact)
    status = error.exit_code if isinstance(error, UsageError | RunError) else RunError.exit_code
    if isinstance(error, KeyboardInterrupt):
        line, status = line or "interrupted", INTERRUPTED
    elif not isinstance(error, UsageError | RunError):
        line = f"{type(error).__name__}: {line}"
    return left | {"state": "failed", "error": line, "message": None, "final": final, "exit_status": status}


def _progress(status: Status) -> dict[str, Any]:
    """What the console knows, in the numbers of digits that people read."""
    eta = status.eta_seconds
    return {
        "state": status.activity,
        "step": status.samples // status.global_batch,
        "steps": status.budget // status.global_batch,
        "epoch_equivalent": round(status.epoch, 5),
        "epoch_equivalents": round(status.budget / IMAGENET_SAMPLES, 5),
        "images_per_s": _rounded(status.images_per_s or None, 1),
        "data_wait": _rounded(status.wait_share if status.images_per_s else None, 4),
        "lr": status.lr or None,
        "loss": _rounded(status.loss, 5),
        "top1_error_training": _rounded(status.train_error, 5),
        "top1_error_validation": _rounded(status.val_error, 5),
        "top1_error_best": _rounded(status.best_error, 5),
        "eta_seconds": None if eta is None else round(eta),
        "eta": None if eta is None else duration(eta),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    """Without NaN and infinity, which JSON has no numbers for."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
