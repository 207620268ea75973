"""Files that are whole or not there (law 4): written beside their final name, made durable, renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import RunError, UsageError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which takes the place of `path` at the end; after a crash that holds either the old
    content or the new, never a part.

    Raises:
        RunError: it cannot be written; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise RunError(f"{path}: cannot write it: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # it is not there, or that was told
            temporary.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`.

    Raises:
        RunError: it cannot be written; `path` is as it was.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def append(path: Path, content: bytes) -> None:
    """Append `content` to a file that other processes may append to, too.

    Raises:
        RunError: it cannot be written; nothing of it was appended.
    """
    try:
        with open(path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                while content:
                    content = content[file.write(content) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise RunError(f"{path}: cannot write it: {error.strerror or error}") from error


def check_output(path: Path, option: str, *, size: int = 0, with_parents: bool = False) -> None:
    """Refuse at once a file that could not be written at the end of long work.

    Args:
        option: what it is given with.
        size: bytes that it will have, if that is known.
        with_parents: the folders above it will be made.

    Raises:
        UsageError: there is no place for it.
        RunError: the disk has no room for it.
    """
    folder = path.absolute().parent
    try:
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; give the name of a file with {option}")
        if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null
            raise UsageError(f"{path}: is not a regular file; give another name with {option}")
        while with_parents and not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not say it: NFS has the last word
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UsageError(
            f"{path}: cannot write into {folder}: {error.strerror or error}; give another place with {option}"
        ) from error
    if free < size:
        raise RunError(
            f"{path}: it takes {size:,} bytes, and {free:,} are free on this disk; give another one with {option}"
        )


def sync(path: Path) -> None:
    """Make a file's content, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
