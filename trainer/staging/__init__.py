"""`python -m trainer stage FILE.beton ... --to FOLDER -- COMMAND ...`: COMMAND, with its betons on this node.

It holds verified copies in a folder of the node's own disk or memory for as long as COMMAND lives. Jobs of one user on
one node share them: there is no registry and no server, only locks of the kernel (`folder`). What cannot be copied for
want of room or by a failure is read where it is; what is damaged is refused. Needs no torch.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from trainer.data.staged import STAGED, as_variable
from trainer.errors import Preempted, UsageError, did_you_mean
from trainer.launcher import Launcher
from trainer.staging.folder import CopyFolder
from trainer.staging.holding import NotStaged, hold
from trainer.staging.progress import say
from trainer.staging.room import is_memory
from trainer.staging.source import Source
from trainer.stops import SIGNALS, describe

SHARED_MEMORY: Final = Path("/dev/shm")

WAYS: Final = ("copy", "mmap-shared")

_PLACEHOLDER: Final = re.compile(r"(?<!\$)\{(\d+)\}")
"""`{0}`, but not the `${0}` of a shell."""


def stage(files: Sequence[Path], to: Path | None, how: str, command: Sequence[str]) -> int:
    """Run `command` with copies of the betons `files`; they are removed behind it, unless others use them still.

    The command is started by `trainer.launcher`: it reads nothing from the terminal, gets the signals of
    `trainer.stops` and SIGHUP, and is asked to stop if this process is killed. Signals that come while copies are made
    end that.

    Args:
        to: a folder of a local file system; None for shared memory, where that is asked for.
        how: "copy", or "mmap-shared" for a folder in memory, whose one copy all processes of the node map.
        command: one of the trainer reads the copies under the files' own names, see `trainer.data.staged`; for others
            `{0}` in its words stands for the first file's copy, `{1}` for the second's, and so on.

    Returns:
        Its exit status, or 128 + n if signal n ended it.

    Raises:
        UsageError: an option, a file or the command is wrong, or a file is damaged.
        RunError: a file changed meanwhile, or the command cannot be started.
        Preempted: a signal came before the command began.
    """
    folder = _folder(to, how)
    _check_command(command, files)
    sources = [Source.of(path) for path in files]
    hangup = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)  # as nohup has it
    with Launcher([*SIGNALS, *hangup]) as launcher, contextlib.ExitStack() as held:
        with _stopped_by([*SIGNALS, *hangup]):
            copies = [_hold_if_possible(source, folder, held) for source in sources]
        both = zip(copies, sources, strict=True)
        places = {source.path: copy.path / source.path.name for copy, source in both if copy}
        words = fill_in(command, [places.get(source.path, source.path) for source in sources])
        status = launcher.run(words, [copy.descriptor for copy in copies if copy], {STAGED: as_variable(places)})
    return 128 - status if status < 0 else status


def fill_in(command: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """The words of `command` with `{0}`, `{1}`, ... replaced by `paths`."""
    return [_PLACEHOLDER.sub(lambda found: str(paths[int(found[1])]), word) for word in command]


def _folder(to: Path | None, how: str) -> Path:
    if how not in WAYS:
        raise UsageError(f"--how: '{how}' is not a way to stage{did_you_mean(how, WAYS)}")
    if to is None and how == "copy":
        raise UsageError("give a folder on a disk of this node: --to FOLDER; or --how mmap-shared for its memory")
    folder = (to or SHARED_MEMORY).absolute()
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; make it, or give another one of this node with --to")
    if how == "mmap-shared" and not is_memory(folder):
        raise UsageError(f"{folder}: not in memory (a tmpfs), as --how mmap-shared wants it; use --how copy")
    return folder


def _check_command(command: Sequence[str], files: Sequence[Path]) -> None:
    """Refuse what would not start."""
    if not command:
        raise UsageError("give the command to run after --")
    if shutil.which(command[0]) is None:
        raise UsageError(f"no program '{command[0]}' here, which was to run after --")
    used = {int(number) for word in command for number in _PLACEHOLDER.findall(word)}
    if max(used, default=0) >= len(files):
        raise UsageError(f"{{{max(used)}}} in the command stands for no file: {len(files)} given, counted from {{0}}")


def _hold_if_possible(source: Source, folder: Path, held: contextlib.ExitStack) -> CopyFolder | None:
    """A copy that is left when `held` ends; None, with a line that says why, if the original is to be read."""
    try:
        copy = hold(source, folder)
    except NotStaged as reason:
        say(f"{source.path.name}: not staged: {reason}; reading from {source.path} instead")
        return None
    held.callback(copy.leave)
    return copy


@contextlib.contextmanager
def _stopped_by(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """The first of `signals` ends the block; those after it do not disturb the tidying up."""
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise Preempted(f"stopped by {describe(number)} while staging; the same command begins again")

    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
