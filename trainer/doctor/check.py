"""One line of the doctor's report, and how a look that fails becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Status: TypeAlias = Literal["ok", "warn", "fail"]

GIB: Final = 2**30
MIB: Final = 2**20


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and what to do about it."""

    status: Status
    """`fail`: training would not work, or not as asked. `warn`: it would, but slower or at a risk."""
    name: str
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Check:
    return Check("ok", name, found)


def warn(name: str, found: str, advice: str = "") -> Check:
    return Check("warn", name, found, advice)


def fail(name: str, found: str, advice: str = "") -> Check:
    return Check("fail", name, found, advice)


def guarded(name: str, look: Callable[[], Check | Iterable[Check]]) -> list[Check]:
    """The checks that `look` makes; a warning that says why when it cannot look."""
    try:
        found = look()
        return [found] if isinstance(found, Check) else list(found)
    except Exception as error:  # whatever is wrong with this machine, the other checks are still worth making
        return [unseen(name, error)]


def unseen(name: str, error: Exception) -> Check:
    """What could not be looked at, and why."""
    return warn(name, f"could not look: {reason(error)}")


def reason(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if text else type(error).__name__


def size(count: float) -> str:
    """Bytes as a person reads them: `512 MiB`, `137.4 GiB`."""
    if count >= GIB:
        return f"{count / GIB:,.1f} GiB"
    return f"{count / MIB:,.0f} MiB" if count >= MIB else f"{count / 1024:,.1f} KiB"
