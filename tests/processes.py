"""The processes that come from a launcher, found by a variable that all of them inherit."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MARK: Final = "RUNS_OF_TEST"


def mark(runs: Path) -> dict[str, str]:
    """For the environment of a launcher, by the folder of its runs."""
    return {MARK: str(runs)}


def members(runs: Path) -> dict[int, list[bytes]]:
    """Of the processes that come from a launcher, in whatever session, those that are alive, with their variables."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")  # empty for those that are dead but not buried
        except OSError:
            continue
        if f"{MARK}={runs}".encode() in variables:
            found[int(folder.name)] = variables
    return found


def pid_of(runs: Path, rank: int) -> int:
    """Of a launcher's processes the one that trains as this rank."""
    return next(pid for pid, variables in members(runs).items() if f"RANK={rank}".encode() in variables)
