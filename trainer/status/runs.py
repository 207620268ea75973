"""Which runs there are, and what state each is in: what it says itself, and whether anybody is still at work in it."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from trainer.errors import UsageError, did_you_mean
from trainer.lock import is_held
from trainer.record import METRICS
from trainer.run_status import AT_WORK, ENDED, STARTING, STATUS, UNKNOWN, RunStatus, read_status, status_of_record

KILLED: Final = "killed"
"""It says that it is at work, and nobody is."""
LOST: Final = "lost"
"""It says that it is at work, nothing was heard of it for long, and from here its process cannot be seen."""

LOST_SECONDS: Final = 60.0
"""Twelve times what a trainer lets pass between two words."""

OF_A_RUN: Final = (STATUS, METRICS, "recipe.yaml")
"""A folder with any of these is a run's."""


@dataclass(frozen=True)
class Look:
    """A run, looked at."""

    path: Path
    state: str
    """Of `run_status.AT_WORK` or `ENDED`, or `KILLED`, `LOST`, `UNKNOWN`."""
    status: RunStatus

    @property
    def at_work(self) -> bool:
        return self.state in AT_WORK

    def to_json(self) -> dict[str, Any]:
        """The path, then the keys of `RunStatus`, with the state as it is seen from here."""
        return {"run": str(self.path), **asdict(self.status), "state": self.state}


def find_runs(paths: list[Path]) -> list[Path]:
    """The run folders among `paths` and, sorted, in those of them that are folders of runs; each once.

    Raises:
        UsageError: there is none at one of the paths.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        runs = [path] if _is_run(path) else sorted(filter(_is_run, _folders(path)))
        if not runs:
            raise UsageError(f"{path}: no runs in it; give run folders, or a folder of run folders")
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def look(run_dir: Path) -> Look:
    """What is known of a run."""
    status, held = read_status(run_dir), is_held(run_dir)
    if not held:  # it may have ended meanwhile, and has said so
        status = read_status(run_dir)
    if status is None:
        return Look(run_dir, "training" if held else UNKNOWN, status_of_record(run_dir))
    return Look(run_dir, _state(status, held), status)


def _state(status: RunStatus, held: bool | None) -> str:
    """As the run says, unless it says that it is at work and is not.

    Some file systems have locks between the processes of a node only: there only this host's can be told to be free.
    """
    if held and status.state in ENDED:
        return STARTING  # again: its last word is that of an attempt before
    if status.state not in AT_WORK or held:
        return status.state
    if held is False and status.host == socket.gethostname():
        return KILLED
    return LOST if status.age > LOST_SECONDS else status.state


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in OF_A_RUN)


def _folders(path: Path) -> list[Path]:
    try:
        return [folder for folder in path.iterdir() if folder.is_dir()]
    except FileNotFoundError as error:
        beside = [other.name for other in path.parent.iterdir() if other.is_dir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, beside)
        hint = near if "did you mean" in near else "; give run folders, or a folder of run folders"
        raise UsageError(f"{path}: no such folder{hint}") from error
    except OSError as error:
        raise UsageError(f"{path}: not a run folder, nor a folder of them: {error.strerror}") from error
