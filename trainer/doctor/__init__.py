"""`python -m trainer doctor`: what this machine, these data and this launch are fit for, before a run is begun on them.

Each check is a line with what was found and, if it is not well, what to do. Under `accelerate launch` one process a
node looks at its node, all of them measure what is between them, and the first one prints one report of it all.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.doctor.check import Check, fail, guarded, ok, warn
from trainer.doctor.report import Found, agree, host_names, merge, silent
from trainer.doctor.software import missing_packages, software_checks, software_facts

if TYPE_CHECKING:  # what these import may be missing, which is a line of the report
    from trainer.doctor.links import Links
    from trainer.doctor.meeting import Meeting
    from trainer.recipe import Recipe

__all__ = ["Check", "doctor"]


def doctor(recipe_path: str | None, overrides: Sequence[str] = (), betons: Sequence[Path] = ()) -> int:
    """Look at everything, print it from the first process; returns the exit status: 1 if a check failed.

    Raises:
        UsageError: there is no such recipe, or it is wrong.
    """
    if missing := missing_packages():
        for check in missing:  # rich may be among them
            print(f"{check.status} {check.name}  {check.found} — {check.advice}")
        return 1
    from rich.console import Console

    from trainer.doctor.table import looking, print_report
    from trainer.recipe import load_recipe

    recipe = load_recipe(recipe_path, list(overrides)) if recipe_path else None
    console = Console()
    with looking(console):
        meeting, checks = _examine(recipe, betons)
    if checks:
        print_report(checks, console)
    status = int(any(check.status == "fail" for check in checks))
    _leave(meeting, status)
    return status


def _examine(recipe: Recipe | None, betons: Sequence[Path]) -> tuple[Meeting, list[Check]]:
    """What all processes found, in the first one; no checks in the others."""
    from trainer.doctor.meeting import join

    meeting, troubles = join(recipe)
    meeting.tell("found", asdict(_look(recipe, betons, meeting, troubles)))
    said = [content and Found.from_json(content) for content in meeting.hear_all("found")] if meeting.rank == 0 else []
    links = _measure(meeting, said)
    return meeting, _report(recipe, meeting, said, links) if meeting.rank == 0 else []


def _look(recipe: Recipe | None, betons: Sequence[Path], meeting: Meeting, troubles: list[Check]) -> Found:
    """What this process can say of its node, if it leads it, and of its own start."""
    host = socket.gethostname()
    if not meeting.leads_node:
        return Found(host, meeting.node, troubles, [], {})
    facts = software_facts()
    checks = [
        *software_checks(recipe),
        *guarded("gpu", lambda: _look_at_gpus(recipe, facts)),
        *guarded("machine", lambda: _look_at_machine(recipe, betons)),
        *guarded("data", lambda: _look_at_data(recipe, betons, facts)),
        *guarded("run folder", lambda: _look_at_run_folder(recipe)),
    ]
    return Found(host, meeting.node, troubles, checks, facts)


def _look_at_gpus(recipe: Recipe | None, facts: dict[str, str]) -> list[Check]:
    from trainer.doctor.gpus import gpu_checks, gpu_facts

    facts.update(gpu_facts())
    return gpu_checks(recipe)


def _look_at_machine(recipe: Recipe | None, betons: Sequence[Path]) -> list[Check]:
    from trainer.doctor.machine import data_bytes, machine_checks

    return machine_checks(recipe, data_bytes(recipe, betons))


def _look_at_data(recipe: Recipe | None, betons: Sequence[Path], facts: dict[str, str]) -> list[Check]:
    if recipe is None and not betons:
        return []
    from trainer.doctor.data import data_checks, open_data
    from trainer.doctor.machine import data_bytes

    data = open_data(recipe, betons)
    facts.update(data.facts)
    return [*data.checks, *guarded("data", lambda: data_checks(recipe, data, data_bytes(recipe, betons)))]


def _look_at_run_folder(recipe: Recipe | None) -> list[Check]:
    if recipe is None:
        return []
    from trainer.doctor.run_folder import run_folder_checks

    return run_folder_checks(recipe)


def _measure(meeting: Meeting, said: Sequence[Found | None]) -> list[Links | str | None]:
    """All processes together, if all of them could start: what each measured, or its error; in the first process,
    elsewhere an empty list. Whether they may leave in peace is told to all."""
    if meeting.world_size == 1:
        return []
    from trainer.doctor.links import Links, error_text, measure_links
    from trainer.doctor.meeting import WAIT_SECONDS

    if meeting.rank == 0:
        meeting.tell("go", all(found is not None and not found.launch for found in said))
    if not meeting.hear("go", 0, 3 * WAIT_SECONDS):
        meeting.tell("end", False)
        return []
    try:
        meeting.tell("links", asdict(measure_links(meeting.device, meeting.world_size)))
    except Exception as error:
        meeting.tell("links", error_text(error))
    if meeting.rank > 0:
        return []
    measured = meeting.hear_all("links")
    meeting.tell("end", all(isinstance(one, dict) for one in measured))
    return [Links(**one) if isinstance(one, dict) else one for one in measured]


def _report(
    recipe: Recipe | None, meeting: Meeting, said: Sequence[Found | None], links: Sequence[Links | str | None]
) -> list[Check]:
    """Everything that is to be printed."""
    hosts = host_names(said)
    present = [(rank, found) for rank, found in enumerate(said) if found is not None]
    leaders = {found.node: rank for rank, found in reversed(present) if found.checks}
    speak = [(hosts[rank], found) for rank, found in present if rank in leaders.values()]
    checks = merge([(host, found.checks) for host, found in speak])
    troubles = [*merge([(f"rank {rank}", found.launch) for rank, found in present]), *silent(said, "launch")]
    checks += troubles or [_launch(meeting, len(leaders))]
    if recipe is not None:
        checks += guarded("global batch", lambda: _global_batch(recipe, meeting.world_size))
    if len(speak) > 1:
        checks.append(agree([(host, found.facts) for host, found in speak]))
    if meeting.world_size > 1:
        checks += _links(meeting, sorted(leaders.values()), hosts, links)
    return checks


def _launch(meeting: Meeting, nodes: int) -> Check:
    if meeting.world_size == 1:
        return ok("launch", f"1 process on {meeting.device}; `accelerate launch -m trainer doctor` measures several")
    return ok("launch", f"{meeting.world_size} processes on {nodes} node(s), {meeting.device.type}, {meeting.backend}")


def _global_batch(recipe: Recipe, world_size: int) -> Check:
    from trainer.errors import UsageError
    from trainer.processes import check_world_size

    optimizer = recipe.optimizer
    try:
        check_world_size(recipe, world_size)
    except UsageError as error:
        return fail("global batch", str(error))
    parts = optimizer.global_batch // world_size // optimizer.micro_batch
    found = f"{optimizer.global_batch} = {world_size} process(es) x {parts} micro-batch(es) of {optimizer.micro_batch}"
    return ok("global batch", found)


def _links(
    meeting: Meeting, leaders: Sequence[int], hosts: Sequence[str], links: Sequence[Links | str | None]
) -> list[Check]:
    from trainer.doctor.links import Links, broken, judge_clocks, judge_sums

    if not links:
        return [warn("all-reduce", "not measured: not all processes could start", "mend the launch first")]
    measured = [one for one in links if isinstance(one, Links)]
    if len(measured) < len(links):
        errors = [(f"rank {rank}", [broken(one)] if isinstance(one, str) else []) for rank, one in enumerate(links)]
        return [*merge(errors), *silent(links, "all-reduce")]
    slowest, nodes = max(one.seconds for one in measured), len(leaders)
    clocks = [measured[rank].clock for rank in leaders]
    return [
        *([judge_clocks(clocks, [hosts[rank] for rank in leaders])] if nodes > 1 else []),
        judge_sums(slowest, meeting.world_size, nodes, meeting.device.type, meeting.backend),
    ]


def _leave(meeting: Meeting, status: int) -> None:
    """Leave the process group if all can. One that is broken is not waited for: the process ends here."""
    if meeting.world_size == 1:
        return
    import torch.distributed as dist

    if meeting.hear("end", 0):
        dist.destroy_process_group()
    else:
        sys.stdout.flush()
        os._exit(status)
