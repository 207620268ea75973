"""The folder that holds one copy, and who uses it: that is told by locks on the folder itself.

Who makes, or removes, a copy locks it exclusively; who uses it has a share of the lock. The kernel lets go of the lock
of a process that is gone, however it ended, so nothing is to be mended after a crash: what nobody has locked is unused.
These are locks of flock(2), which hold among the processes of one node: the folder is to be on a local file system.

The command that uses a copy inherits the open folder, and the lock with it: should only the process above it be killed,
the copy is still in use.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trainer.files import sync
from trainer.staging.source import Source

PARTIAL: Final = ".partial"
"""The name of a beton in its folder until all of it is there, and all that lies beside it, too."""

_NOBODY_ELSES: Final = 0o700
"""Whoever can write here can change what others train on."""


def _prefix() -> str:
    return f"staged-beton-{os.geteuid()}-"


def _path(source: Source, folder: Path) -> Path:
    return folder / f"{_prefix()}{source.key}"


def copied_so_far(source: Source, folder: Path) -> int:
    """Bytes of `source` that another process has copied into `folder`."""
    with contextlib.suppress(OSError):
        return (_path(source, folder) / PARTIAL).stat().st_size
    return 0


class CopyFolder:
    """One folder, open, locked or not. The lock ends with `close`.

    Attributes:
        path: where it is; the beton in it has the name of the original.
        descriptor: of the open folder, which has the lock.

    Raises:
        OSError: it cannot be made or opened, is a link, or is another user's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if os.fstat(self.descriptor).st_uid != os.geteuid():
            self.close()
            raise PermissionError(errno.EPERM, "belongs to another user", str(path))

    @staticmethod
    def of(source: Source, folder: Path) -> CopyFolder:
        """The one for a copy of `source` in `folder`; made if it is not there."""
        path = _path(source, folder)
        while True:
            with contextlib.suppress(FileExistsError):
                path.mkdir(_NOBODY_ELSES)
            with contextlib.suppress(FileNotFoundError):  # it was removed at this moment
                return CopyFolder(path)

    def lock(self, *, exclusive: bool) -> bool:
        """Whether the lock could be had at once. Another kind of lock that it had before is lost if not.

        Raises:
            OSError: this file system has no locks.
        """
        try:
            fcntl.flock(self.descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self._is_in_place()

    def is_whole(self, source: Source) -> bool:
        """Whether it holds a complete copy of `source`: nothing gets the final name before it is."""
        try:
            if set(os.listdir(self.path)) != {source.path.name, *source.side_cars}:
                return False
            same = all((self.path / name).read_bytes() == content for name, content in source.side_cars.items())
            return same and (self.path / source.path.name).stat().st_size == source.length
        except FileNotFoundError:
            return False

    def finish(self, source: Source) -> None:
        """Put what lies beside the beton in its place, then the beton, which was copied as `PARTIAL`."""
        for name, content in source.side_cars.items():
            (self.path / name).write_bytes(content)
            sync(self.path / name)
        os.replace(self.path / PARTIAL, self.path / source.path.name)
        sync(self.path)

    def is_partial(self) -> bool:
        """Whether what it holds was not finished."""
        names = os.listdir(self.path)
        return not names or PARTIAL in names

    def clear(self) -> None:
        """Remove what is in it; for who has it exclusively."""
        for entry in os.scandir(self.path):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)

    def remove(self) -> None:
        """Remove the folder, and close it; for who has it exclusively."""
        try:
            self.clear()
            self.path.rmdir()
        finally:
            self.close()

    def leave(self) -> None:
        """Use it no longer: the last to leave removes it."""
        with contextlib.suppress(OSError):  # whoever comes next finds it unused
            if self.lock(exclusive=True):
                self.remove()
        self.close()

    def close(self) -> None:
        """Let go of it. The command that inherited the lock has it still, if it lives."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _is_in_place(self) -> bool:
        """Whether this folder has the name still: it may have been removed before the lock was had."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self.descriptor))


def unused_copies(folder: Path) -> Iterator[CopyFolder]:
    """The copies in `folder` that nobody uses, locked exclusively, the oldest first. Each is closed when the next one
    is asked for, unless it was removed."""
    found = [entry for entry in os.scandir(folder) if entry.name.startswith(_prefix())]
    for entry in sorted(found, key=lambda entry: (_modified(entry), entry.name)):
        try:
            copy = CopyFolder(Path(entry.path))
        except OSError:  # gone meanwhile, or no folder of ours
            continue
        try:
            if copy.lock(exclusive=True):
                yield copy
        finally:
            copy.close()


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0
