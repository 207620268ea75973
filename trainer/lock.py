"""One trainer to a run folder. The lock is the kernel's, so that of a process that died is gone with it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import time
from pathlib import Path
from typing import Final

from trainer.errors import UsageError

NAME: Final = ".lock"

_FLOCK: Final = "hhqqi4x"
"""`struct flock` of 64-bit Linux: type, whence, start, length, process."""


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


def holder_of(run_dir: Path) -> str | None:
    """Who works in this run folder, on whatever node, for people; None if nobody does, or the file system cannot tell.

    See `is_held` for how it is asked.
    """
    return _ask(run_dir)[1]


def is_held(run_dir: Path) -> bool | None:
    """Whether somebody works in this run folder, on whatever node; None if the file system cannot tell.

    Nothing is locked meanwhile, so no trainer that starts is refused for it. Not for a process that holds the lock: it
    would let go of it.
    """
    return _ask(run_dir)[0]


def _ask(run_dir: Path) -> tuple[bool | None, str | None]:
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        file = os.open(run_dir / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False, None
    except OSError:  # another user's
        return None, None
    try:
        in_its_way = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, wanted))[0]
        return (False, None) if in_its_way == fcntl.F_UNLCK else (True, _describe_holder(file))
    except OSError:
        return None, None
    finally:
        os.close(file)


def _describe_holder(file: int) -> str:
    try:
        content = json.loads(os.pread(file, 4096, 0))
        return f"process {content['pid']} on {content['host']}, since {content['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "it has not said who it is"
