"""Checkpoints: `checkpoints/step-NNNNNNNN/state.pt` with everything a run needs to go on, and links `last` and `best`.

A checkpoint is written under a temporary name, made durable and renamed (law 4), so a name that exists is complete.
The file holds tensors and plain Python values only: `torch.load(weights_only=True)` reads it.
"""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any, Final

import torch

from trainer.errors import RunError, UsageError
from trainer.files import sync

FORMAT: Final = 1
STATE: Final = "state.pt"
PARTIAL: Final = ".partial-"


def checkpoints_dir(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def save(run_dir: Path, state: dict[str, Any], *, keep: int, best: bool) -> Path:
    """Write `state` as the run's newest checkpoint, point `last` (and `best`) to it, drop all but the `keep` newest.

    Args:
        state: holds `step`, the number of optimizer steps done, which names the checkpoint.

    Raises:
        RunError: it could not be written; earlier checkpoints are untouched.
    """
    folder = checkpoints_dir(run_dir)
    final = folder / f"step-{state['step']:08d}"
    partial = folder / f"{PARTIAL}{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left_over)
        partial.mkdir()
        with open(partial / STATE, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.rename(partial, final)
        sync(folder)
        # `last` comes last: a run that is killed before it does this step again, and so links `best` again.
        for name in ("best", "last") if best else ("last",):
            _link(folder / name, final.name)
        sync(folder)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(f"{final}: cannot write the checkpoint: {error}") from error
    _rotate(folder, keep)
    return final


def find(path: str | Path) -> Path:
    """The state file that `path` means: a state file, a checkpoint's folder, or a run folder (its last checkpoint).

    Raises:
        UsageError: there is none.
    """
    path = Path(path)
    for candidate in (path, path / STATE, checkpoints_dir(path) / "last" / STATE):
        if candidate.is_file():
            return candidate
    if not path.exists():
        raise UsageError(f"{path}: no such checkpoint or run folder")
    raise UsageError(f"{path}: no checkpoint here (expected a run folder, a checkpoint's folder or a {STATE})")


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        UsageError: it is missing, damaged, or no checkpoint of this project.
    """
    file = find(path)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UsageError(f"{file}: cannot read the checkpoint: {str(error).splitlines()[0]}") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise UsageError(f"{file}: not a checkpoint of this project (format {found}, expected {FORMAT})")
    return dict(state)


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _rotate(folder: Path, keep: int) -> None:
    linked = {os.readlink(link) for link in (folder / "last", folder / "best") if link.is_symlink()}
    checkpoints = sorted(path for path in folder.glob("step-*") if path.is_dir())
    for path in checkpoints[:-keep]:
        if path.name not in linked:
            shutil.rmtree(path)
