"""One trainer to a run folder. The lock is the kernel's, so that of a process that died is gone with it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Final

from trainer.errors import UsageError

NAME: Final = ".lock"


class RunLock:
    """Held from its making until `release`, or the end of this process, however it ends.

    A POSIX record lock: it works on NFS and Lustre between nodes, too.

    Attributes:
        note: what has to be said, "" if nothing.

    Raises:
        UsageError: another process holds it.
        OSError: the folder cannot be written.
    """

    def __init__(self, run_dir: Path) -> None:
        self.note = ""
        path = run_dir / NAME
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _describe_holder(self._file)
            self.release()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UsageError(
                    f"{run_dir}: another trainer is at work in this run folder ({holder}); wait for it, stop it, or "
                    "give this run another name="
                ) from None
            self.note = f"{run_dir}: no locks on this file system ({error.strerror}): let no other trainer work here"
            return
        content = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(content).encode(), 0)

    def release(self) -> None:
        """Let others in."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _describe_holder(file: int) -> str:
    try:
        content = json.loads(os.pread(file, 4096, 0))
        return f"process {content['pid']} on {content['host']}, since {content['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "it has not said who it is"
