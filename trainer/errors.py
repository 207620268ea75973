"""The errors that a person sees, and how they end a command.

An input that is wrong (`UsageError`) exits with 2, a run that failed (`RunError`) with 1, one that was asked to stop
and saved (`Preempted`) with 85; each is one line on stderr. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Final

RANKS_WAIT_SECONDS: Final = 10.0
"""What is wrong is mostly wrong on every rank. The others give rank 0 this long to say it and the launcher to end them,
so that it is said once; what only one rank met is said all the same."""


INTERRUPTED: Final = 130
"""Exit status of Ctrl-C, as shells have it: 128 + SIGINT."""

ENVIRONMENT_ERRORS: Final = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.EIO, errno.ESTALE),
)
"""Full, read-only and broken disks, limits: no bug of ours wherever they are met."""


class UsageError(Exception):
    """The command, recipe or data given is wrong. The message says what, where and what to do."""

    exit_code = 2


class NotBuilt(ImportError):
    """The C library is not there, or is none of this version. The message says how to build it."""

    exit_code = 2


class RunError(Exception):
    """Work that was begun correctly could not be finished. The message ends with the reason."""

    exit_code = 1


class LostContact(RunError):
    """Another process of the run is gone, or does not answer."""


class Preempted(Exception):
    """Asked to stop, and stopped. All that matters is saved; the message says where it goes on."""

    exit_code = 85


class NotBegun(Preempted):
    """Asked to stop before the first step: by whom, and whether all processes were, is not known."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, again, while a run was stopping. The message says where it was and how to go on."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the nearest of `known`, or the list of all when none is near."""
    names = [str(candidate) for candidate in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else f" (known: {', '.join(names)})"


def run_command(main: Callable[[], int]) -> int:
    """Call `main` and turn the errors meant for people into one line on stderr and an exit status."""
    try:
        return _interruptible(main)
    except (UsageError, NotBuilt, RunError) as error:
        # Each rank says that it lost contact: the one to say it for all may be the dead one.
        if int(os.environ.get("RANK", "0")) > 0 and not isinstance(error, LostContact):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(RANKS_WAIT_SECONDS)
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except Preempted as stop:
        if int(os.environ.get("RANK", "0")) == 0:
            print(stop, file=sys.stderr, flush=True)
        return stop.exit_code
    except OSError as error:
        if error.errno not in ENVIRONMENT_ERRORS:
            raise
        print(f"error: {error.filename or 'the output'}: {error.strerror}", file=sys.stderr, flush=True)
        return RunError.exit_code
    except KeyboardInterrupt as interrupt:
        print(f"error: {str(interrupt) or 'interrupted'}", file=sys.stderr, flush=True)
        return INTERRUPTED


def _interruptible(main: Callable[[], int]) -> int:
    """Call `main`; whatever error a Ctrl-C ends it with, it is a `KeyboardInterrupt`.

    A library that it meets half-way may make an error of its own of it: OmegaConf does, and drops where it came from.
    """
    pressed = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        return main()
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
