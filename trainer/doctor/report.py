"""What all processes found, as one list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from trainer.doctor.check import Check, fail, ok

NAMED: Final = 4
"""So many hosts are named in a line; the others are counted."""


@dataclass(frozen=True)
class Found:
    """What one process has to say, before the links are measured."""

    host: str
    node: int
    launch: list[Check]
    """Why training would not start in this process; empty if it would."""
    checks: list[Check]
    """Of its node; empty but for the process that leads it."""
    facts: dict[str, str]
    """What has to be the same on all nodes."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Found:
        """From `dataclasses.asdict`, through JSON."""
        lists = {name: [Check(**check) for check in content[name]] for name in ("launch", "checks")}
        return cls(content["host"], content["node"], facts=content["facts"], **lists)


def host_names(found: Sequence[Found | None]) -> list[str]:
    """What to call each process's host: its own name, with the node's number where several nodes have it."""
    nodes: dict[str, set[int]] = {}
    for process in found:
        if process is not None:
            nodes.setdefault(process.host, set()).add(process.node)
    return [
        "?" if process is None else process.host if len(nodes[process.host]) == 1 else f"{process.host}#{process.node}"
        for process in found
    ]


def merge(said: Iterable[tuple[str, Sequence[Check]]]) -> list[Check]:
    """Checks of several speakers: lines that all of them say once, others with who says them; in the first one's order.

    Args:
        said: who, and what.
    """
    speakers: dict[Check, list[str]] = {}
    everyone = []
    for speaker, checks in said:
        everyone.append(speaker)
        for check in checks:
            speakers.setdefault(check, []).append(speaker)
    order = list(dict.fromkeys(check.name for check in speakers))
    return [
        check if len(who) == len(everyone) else replace(check, found=f"{listed(who)}: {check.found}")
        for check, who in sorted(speakers.items(), key=lambda item: order.index(item[0].name))
    ]


def listed(names: Sequence[str]) -> str:
    """`a, b`, or `a, b, c, d and 60 more`."""
    rest = len(names) - NAMED
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:NAMED])} and {rest} more"


def agree(facts: Sequence[tuple[str, dict[str, str]]]) -> Check:
    """Whether all nodes have the same packages and data.

    Args:
        facts: host, and what it has.
    """
    differences = []
    for name in dict.fromkeys(name for _, known in facts for name in known):
        hosts: dict[str, list[str]] = {}
        for host, known in facts:
            hosts.setdefault(known.get(name, "none"), []).append(host)
        if len(hosts) > 1:
            differences.append(f"{name} is " + ", ".join(f"{what} on {listed(who)}" for what, who in hosts.items()))
    if differences:
        return fail("nodes agree", "; ".join(differences), "give all nodes the same environment and the same data")
    return ok("nodes agree", f"the same versions and data on {len(facts)} nodes")


def silent(found: Sequence[object | None], what: str) -> list[Check]:
    """A failed check for the processes that did not answer."""
    ranks = [str(rank) for rank, content in enumerate(found) if content is None]
    return [fail(what, f"rank {listed(ranks)} did not answer", "see what it wrote, and on its node")] if ranks else []
