"""A copy to be used: one that is there, one that another process is making, or a new one."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

from trainer.staging.copying import copy_beton
from trainer.staging.folder import PARTIAL, CopyFolder, copied_so_far, unused_copies
from trainer.staging.progress import CopyProgress, say, size
from trainer.staging.room import room
from trainer.staging.source import Source

POLL_SECONDS: Final = 0.2

PATIENCE_SECONDS: Final = 300.0
"""A copy of another process that does not grow for so long is not waited for."""


class NotStaged(Exception):
    """The original is to be read. The message says why."""


def hold(source: Source, folder: Path) -> CopyFolder:
    """A whole copy of `source` in `folder`, with a share of its lock: it stays until `leave`.

    Raises:
        NotStaged: there is no room, or the copy failed; nothing of it is left.
        UsageError: the source is damaged.
        RunError: the source changed meanwhile.
    """
    with contextlib.ExitStack() as shown:
        waiting = _Waiting(source, shown)
        while True:
            try:
                copy = _try_to_hold(source, folder)
            except OSError as error:
                raise NotStaged(f"{error.filename or folder}: {error.strerror or error}") from error
            if copy is not None:
                return copy
            waiting.look(folder)


def _try_to_hold(source: Source, folder: Path) -> CopyFolder | None:
    """A whole copy that nobody removes any more; None where another process is making it, or was quicker."""
    copy = CopyFolder.of(source, folder)
    held = False
    try:
        if copy.lock(exclusive=True):
            if copy.is_whole(source):
                say(f"{source.path.name}: found whole and unused: {copy.path}")
            else:
                _make(copy, source, folder)
            # A process that looks for unused copies may be in between, and then remove it.
            held = copy.lock(exclusive=False)
        else:
            held = copy.lock(exclusive=False) and copy.is_whole(source)
            if held:
                say(f"{source.path.name}: shared with other processes: {copy.path}")
        return copy if held else None
    finally:
        if not held:
            copy.close()


def _make(copy: CopyFolder, source: Source, folder: Path) -> None:
    """Fill the folder, which nobody else uses; where that fails it is removed."""
    began = time.monotonic()
    try:
        copy.clear()
        _make_room(folder, source.size)
        with CopyProgress(f"copying {source.path.name}", source.length) as progress:
            copy_beton(source, copy.path / PARTIAL, progress.update)
        copy.finish(source)
    except BaseException:
        with contextlib.suppress(OSError):  # why it failed matters more; what is left is found later
            copy.remove()
        raise
    seconds = time.monotonic() - began
    rate = f"{source.length / seconds / 1e9:.2f} GB/s"
    say(f"{source.path.name}: copied and verified, {size(source.length)} in {seconds:,.1f} s ({rate}): {copy.path}")


def _make_room(folder: Path, wanted: int) -> None:
    """Remove what was left unfinished, and as much of what nobody uses as takes the room that is wanted.

    Raises:
        NotStaged: there is too little all the same.
    """
    for unused in unused_copies(folder):
        with contextlib.suppress(OSError):  # what cannot be removed takes its room
            if unused.is_partial() or room(folder) < wanted:
                unused.remove()
                say(f"removed {unused.path}, which nobody used")
    if (free := room(folder)) < wanted:
        raise NotStaged(f"it takes {size(wanted)}, and {folder} has room for {size(max(free, 0))}")


class _Waiting:
    """Waits a moment for another process's copy, and shows how far that is."""

    def __init__(self, source: Source, shown: contextlib.ExitStack) -> None:
        self._source, self._shown = source, shown
        self._progress: CopyProgress | None = None
        self._copied = 0
        self._grew = time.monotonic()

    def look(self, folder: Path) -> None:
        """
        Raises:
            NotStaged: the copy has not grown for too long.
        """
        copied = copied_so_far(self._source, folder)
        now = time.monotonic()
        if copied != self._copied:
            self._copied, self._grew = copied, now
        if now - self._grew > PATIENCE_SECONDS:
            raise NotStaged(f"the process that copies it has not got further for {PATIENCE_SECONDS:g} s")
        if self._progress is None:
            name = self._source.path.name
            say(f"{name}: another process is at work on its copy; waiting for it")
            self._progress = CopyProgress(f"waiting for {name}", self._source.length)
            self._shown.enter_context(self._progress)
        self._progress.update(copied)
        time.sleep(POLL_SECONDS)
