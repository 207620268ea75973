"""Several runs, one after another, and one table of what they have reached.

Each run is a process of its own: what `trainer train` does, as its recipe says, in its own run folder. The sweep keeps
nothing of its own, so it can be stopped, killed and started again, and several machines that share the run folders can
work through one file: each takes the next run that is neither done nor in use.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from rich.console import Console
from rich.text import Text

from trainer.errors import INTERRUPTED, Interrupted, Preempted, RunError, UsageError
from trainer.files import check_output
from trainer.launcher import Launcher, check_command, describe_status
from trainer.sweep.plan import Entry, load_plan
from trainer.sweep.progress import Progress, check_begun, look
from trainer.sweep.table import write_table

INTERRUPTS = (INTERRUPTED, -signal.SIGINT)


def sweep(file: Path, overrides: list[str], out: Path | None = None) -> None:
    """Train what is not done of the runs of `file`, then print the table of all, and write it to `out` as Markdown.

    Everything is looked at before the first run starts. A run that fails is told of, and the next one starts.

    Args:
        overrides: `key=value` for all runs; they have the last word.

    Raises:
        UsageError: file, recipes, data, begun runs or launch command are wrong.
        RunError: runs failed; the others were trained all the same.
        Preempted: it was asked to stop, or the run was, which has saved.
        Interrupted: so was the run, twice.
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise UsageError(
            "a sweep is started once, not by accelerate launch; how each run is started is said in the file, e.g. "
            "launch: accelerate launch --num_processes 8 -m trainer train"
        )
    if out is not None:
        check_output(out, "--out")
    console = Console(highlight=False, soft_wrap=True)
    entries = _load(file, overrides)
    check_command(file, entries[0].command)
    waiting = [entry for entry in entries if not look(entry.recipe).done]
    if waiting:
        from trainer.sweep.inputs import check_inputs  # waits for torch

        console.print(f"looking at the data and networks of {len(waiting)} run(s)")
        check_inputs(waiting)
    failed = _train_all(entries, out, console)
    collect(entries, failed, out)
    if failed:
        told = ", ".join(f"{name} ({describe_status(status)})" for name, status in failed.items())
        raise RunError(f"{len(failed)} of {len(entries)} runs failed: {told}; the same command tries them again")


def print_launch_lines(file: Path, overrides: list[str]) -> None:
    """Print the command of each run that is not done, one a line, quoted for a shell; of the others a comment.

    Raises:
        UsageError: file, recipes or begun runs are wrong. Data are not looked at: they may be on other machines.
    """
    for entry in _load(file, overrides):
        progress = look(entry.recipe)
        print(f"# {entry.name}: {progress.why_not_now}" if progress.why_not_now else entry.shell_line, flush=True)


def print_table(file: Path, overrides: list[str], out: Path | None = None) -> None:
    """Print the table of the runs of `file` as they are now, and write it to `out` as Markdown.

    Raises:
        UsageError: file, recipes or begun runs are wrong.
    """
    if out is not None:
        check_output(out, "--out")
    collect(_load(file, overrides), {}, out)


def collect(
    entries: list[Entry], failed: dict[str, int], out: Path | None = None, console: Console | None = None
) -> None:
    """Print the table, and write it to `out` as Markdown; `failed` has the exit statuses of the runs that failed."""
    write_table([(entry.recipe, look(entry.recipe), failed.get(entry.name)) for entry in entries], out, console)


def _load(file: Path, overrides: list[str]) -> list[Entry]:
    entries = load_plan(file, overrides)
    for entry in entries:
        with entry.blamed():
            check_begun(entry.recipe)
    return entries


def _train_all(entries: list[Entry], out: Path | None, console: Console) -> dict[str, int]:
    """The exit statuses of the runs that failed, by name."""
    failed: dict[str, int] = {}
    with Launcher() as launcher:
        for number, entry in enumerate(entries, start=1):
            try:
                status = _train_one(entry, f"{number} of {len(entries)}, {entry.name}", launcher, console)
                if status:
                    failed[entry.name] = status
            finally:
                _write_meanwhile(entries, failed, out, console)
    return failed


def _write_meanwhile(entries: list[Entry], failed: dict[str, int], out: Path | None, console: Console) -> None:
    """Write the table, if it is wanted. The runs that wait do not depend on it."""
    if out is None:
        return
    try:
        collect(entries, failed, out, Console(quiet=True))
    except RunError as error:
        console.print(f"note: {error}", markup=False)


def _train_one(entry: Entry, title: str, launcher: Launcher, console: Console) -> int:
    """The exit status of a run that failed, else 0."""
    before = look(entry.recipe)
    if before.why_not_now:
        console.print(f"{title}: {before.why_not_now}, skipped", markup=False)
        return 0
    if launcher.signal:
        raise Preempted(_stopped(launcher, f"before {title}"))
    _announce(entry, title, console)
    status = launcher.run(entry.command)
    console.show_cursor()  # a live view that was killed has left it hidden
    after = look(entry.recipe)
    if status:
        _stop_if_asked(launcher, status, before, after, title)
    if status > 0 and after.holder:  # another sweep was faster
        console.print(f"{title}: {after.why_not_now}, skipped", markup=False)
        return 0
    if status:
        console.print(f"{title}: failed, {describe_status(status)}", style="red", markup=False)
    elif not after.done:
        console.print(f"{title}: its command has ended, its run is not done", style="red", markup=False)
    return status


def _announce(entry: Entry, title: str, console: Console) -> None:
    if console.is_terminal:
        console.print()
        console.rule(Text(title, style="bold"), align="left")
        console.print(entry.shell_line, style="dim", markup=False)
    else:
        console.print(f"{title}: {entry.shell_line}", markup=False)


def _stop_if_asked(launcher: Launcher, status: int, before: Progress, after: Progress, title: str) -> None:
    """End the sweep as the run was ended, which somebody wanted.

    Accelerate's launcher makes one status of all: then it is in the run's record whether it stopped or failed.
    """
    if status in INTERRUPTS:
        raise Interrupted(_stopped(launcher, f"at {title}"))
    said_so = after.stopped and after.lines[-1] not in before.lines[-1:]
    if launcher.signal or status == Preempted.exit_code or said_so:
        raise Preempted(_stopped(launcher, f"at {title}"))


def _stopped(launcher: Launcher, where: str) -> str:
    by = f" by {signal.Signals(launcher.signal).name}" if launcher.signal else ""
    return f"sweep stopped{by} {where}; the same command goes on"
