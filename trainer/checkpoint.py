"""Checkpoints: `checkpoints/step-NNNNNNNN/` with everything a run needs to go on, and links `last` and `best`.

`state.pt` holds tensors and plain Python values only: `torch.load(weights_only=True)` reads it. `checkpoint.json`
beside it has its length, its checksum and how far the run was. A checkpoint is written under a temporary name, made
durable and renamed (law 4), so a name that exists is complete; the checksum is for what disks and copies do to it
afterwards. torch is imported by those functions that need it: to ask how far a run is takes no seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from xxhash import xxh3_128

from trainer.errors import RunError, UsageError
from trainer.files import sync

FORMAT: Final = 2
CHECKPOINTS: Final = "checkpoints"
STATE: Final = "state.pt"
DESCRIPTION: Final = "checkpoint.json"
PARTIAL: Final = ".partial-"
REPLACED: Final = ".replaced-"
DAMAGED: Final = "damaged-"
RECALIBRATED: Final = "recalibrated-"
_READ_BYTES: Final = 1 << 20

KEYS: Final = frozenset(
    [
        "step",
        "samples",
        "model",
        "batch_norm_of_ranks",
        "optimizer",
        "scaler",
        "schedule",
        "validated",
        "best",
        "skipped",
        "nonfinite",
        "recipe",
        "classes",
        "colour",
        "mean_image",
        "data_digest",
        "val_digest",
        "world_size",
        "versions",
    ]
)
"""What a checkpoint holds (see `run_state.state_of`)."""

LATER_KEYS: Final = frozenset(["ema", "recalibrated"])
"""What it holds besides: None where there is nothing of the kind; lacking in checkpoints that are older than they."""


class Damaged(UsageError):
    """It is not what was written."""


def checkpoints_dir(run_dir: Path) -> Path:
    return run_dir / CHECKPOINTS


def name_of(step: int) -> str:
    """The folder's name after `step` optimizer steps."""
    return f"step-{step:08d}"


def save(run_dir: Path, state: dict[str, Any], *, keep: int) -> Path:
    """Write `state` as the run's newest checkpoint, point `last` and `best` to theirs, drop all but the `keep` newest.

    Args:
        state: holds `step`, the number of optimizer steps done, which names the checkpoint.

    Raises:
        RunError: it could not be written; earlier checkpoints are untouched.
    """

    folder = checkpoints_dir(run_dir)
    final = folder / name_of(state["step"])
    partial = folder / f"{PARTIAL}{final.name}"
    with _whole_or_not_at_all(partial, final):
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left_over, ignore_errors=True)
        _write(partial, state)
        replaced = _set_aside(final)
        os.rename(partial, final)
        sync(folder)
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)
        link(run_dir, state)
    _rotate(folder, keep)
    return final


def write(final: Path, state: dict[str, Any]) -> None:
    """Write `state` as the checkpoint's folder `final`, which must not exist: one that no run goes on from.

    Raises:
        RunError: it could not be written; there is nothing of it.
    """
    partial = final.with_name(f".{final.name}.partial")  # not PARTIAL, which a run at work in this folder would remove
    with _whole_or_not_at_all(partial, final):
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        _write(partial, state)
        os.rename(partial, final)
        sync(final.parent)


def link(run_dir: Path, state: dict[str, Any]) -> None:
    """Point `last` to the checkpoint of `state`, and `best` to the best it knows of."""
    folder = checkpoints_dir(run_dir)
    _link(folder / "last", name_of(state["step"]))
    if state["best"] is not None and (folder / name_of(state["best"]["step"])).exists():
        _link(folder / "best", name_of(state["best"]["step"]))
    sync(folder)


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
    raise Damaged(f"{path}: no checkpoint here (expected a run folder, a checkpoint's folder or a {STATE})")


def run_dir_of(file: Path) -> Path | None:
    """The run folder that a state file lies in, whatever link led to it; None if it lies somewhere else."""
    checkpoints = file.resolve().parent.parent
    run_dir = checkpoints.parent
    return run_dir if checkpoints == checkpoints_dir(run_dir) and (run_dir / "recipe.yaml").is_file() else None


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Its checksum is compared where `checkpoint.json` is beside it.

    Raises:
        Damaged: it is not what was written.
        UsageError: it is missing, cannot be read, or no checkpoint of this project.
    """
    import torch

    file = find(path)
    verified = _verify(file)
    try:
        # Not mapped: a run rotates its own checkpoints away, and NFS keeps what is mapped.
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"{file}: cannot read the checkpoint: {error.strerror or error}") from error
    except Exception as error:  # on damaged bytes, the unpickler may raise anything
        if not zipfile.is_zipfile(file):
            raise Damaged(f"{file}: not a checkpoint, or not a whole one; give a run folder or a {STATE}") from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        # What is as it was written is not damaged: memory may be short.
        kind = UsageError if verified else Damaged
        raise kind(f"{file}: cannot read the checkpoint: {reason}") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise UsageError(f"{file}: not a checkpoint of this project (format {found}, expected {FORMAT})")
    missing = sorted(KEYS - state.keys())
    if missing:
        raise UsageError(f"{file}: not a whole checkpoint: {', '.join(missing)} missing")
    return {**dict.fromkeys(LATER_KEYS), **state}


def saved_samples(run_dir: Path) -> int | None:
    """Samples that the run's last checkpoint has seen, by its description alone; None if there is none to be read."""
    try:
        return int(json.loads((checkpoints_dir(run_dir) / "last" / DESCRIPTION).read_text())["samples"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def newest_intact(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be read, and what has to be said of those that cannot.

    Raises:
        UsageError: there are checkpoints and none is intact, or one cannot be read, which says nothing of its content.
    """
    notes: list[str] = []
    folder = checkpoints_dir(run_dir)
    _put_back(folder)
    for path in _by_step(folder):
        try:
            step = load(path)["step"]
            if step != int(path.name.removeprefix("step-")):
                raise Damaged(f"{path}: damaged: it holds step {step}")
        except Damaged as error:
            notes.append(f"{error}; kept as {DAMAGED}{path.name}")
            continue
        return path, [f"{note}, going on from {path.name}" for note in notes]
    if notes:
        raise UsageError(
            f"{folder}: no checkpoint is intact ({'; '.join(notes)}); put back a copy, or give a new run another name="
        )
    return None, []


def go_on_from(run_dir: Path, state: dict[str, Any]) -> None:
    """Make the checkpoint of `state`, which `newest_intact` found, the run's last.

    Newer ones are damaged: they are renamed, so that they are neither taken for newer ones later on nor lost.
    """
    folder = checkpoints_dir(run_dir)
    for path in _by_step(folder):
        if path.name == name_of(state["step"]):
            break
        kept = path.with_name(f"{DAMAGED}{path.name}")
        shutil.rmtree(kept, ignore_errors=True)
        os.rename(path, kept)
    link(run_dir, state)


def _by_step(folder: Path) -> list[Path]:
    """The checkpoints, the newest first."""
    steps = [int(path.name[5:]) for path in folder.glob("step-*") if path.is_dir() and path.name[5:].isdecimal()]
    return [folder / name_of(step) for step in sorted(set(steps), reverse=True) if (folder / name_of(step)).is_dir()]


@contextlib.contextmanager
def _whole_or_not_at_all(partial: Path, final: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise RunError(f"{final}: cannot write the checkpoint: {_reason(error, final.parent)}") from error
    finally:  # there is nothing left of it but after an error, or a Ctrl-C
        shutil.rmtree(partial, ignore_errors=True)


def _write(partial: Path, state: dict[str, Any]) -> None:
    import torch

    partial.mkdir()
    torch.save({**state, "format": FORMAT}, partial / STATE)
    _describe(partial, state)
    for path in (partial / STATE, partial / DESCRIPTION, partial):
        sync(path)


def _describe(folder: Path, state: dict[str, Any]) -> None:
    file = folder / STATE
    content = {
        "format": FORMAT,
        "step": state["step"],
        "samples": state["samples"],
        "bytes": file.stat().st_size,
        "xxh3_128": _checksum(file),
    }
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n")


def _verify(file: Path) -> bool:
    """Whether it is what was written; False if nothing beside it says."""
    path = file.with_name(DESCRIPTION)
    if file.name != STATE or not path.exists():
        return False
    try:
        expected = json.loads(path.read_text())
        length, summed = int(expected["bytes"]), str(expected["xxh3_128"])
    except OSError as error:
        raise UsageError(f"{path}: cannot read what describes the checkpoint: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise Damaged(f"{path}: cannot read what describes the checkpoint: {error}") from error
    try:
        found = file.stat().st_size
        if found != length:
            raise Damaged(f"{file}: damaged: it has {found} bytes instead of {length}")
        if _checksum(file) != summed:
            raise Damaged(f"{file}: damaged: its checksum is not the one it was written with")
    except OSError as error:
        raise UsageError(f"{file}: cannot read the checkpoint: {error.strerror}") from error
    return True


def _checksum(file: Path) -> str:
    summed = xxh3_128()
    with open(file, "rb", buffering=0) as opened:
        while part := opened.read(_READ_BYTES):
            summed.update(part)
    return summed.hexdigest()


def _reason(error: Exception, folder: Path) -> str:
    """torch's writer says where in its code it failed to write, not why: mostly since the disk is full."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    return f"{str(error).splitlines()[0]} ({free:,} bytes are free on this disk)"


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _rotate(folder: Path, keep: int) -> None:
    linked = {os.readlink(link) for link in (folder / "last", folder / "best") if link.is_symlink()}
    for path in _by_step(folder)[keep:]:
        if path.name not in linked:
            doomed = path.with_name(f"{PARTIAL}{path.name}")
            with contextlib.suppress(OSError):  # no reason to end a run; what is left goes with the next
                os.rename(path, doomed)  # a kill in the middle must not leave half of it under its name
                shutil.rmtree(doomed)


def _set_aside(final: Path) -> Path | None:
    """Make room for a checkpoint of the same step, which a run may be killed before it is in its place."""
    if not final.exists():
        return None
    replaced = final.with_name(f"{REPLACED}{final.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    os.rename(final, replaced)
    return replaced


def _put_back(folder: Path) -> None:
    for replaced in folder.glob(f"{REPLACED}*"):
        final = replaced.with_name(replaced.name.removeprefix(REPLACED))
        if final.exists():
            shutil.rmtree(replaced)
        else:
            os.rename(replaced, final)
