"""Where a step's time goes: the kernels that take most of it, and the gaps in which nothing runs.

On a GPU kernels are what the device runs (copies included), and a gap is the time between the end of one and the
begin of the next. On a CPU they are operators by the time that they take themselves, and a gap is time that the main
thread spends outside of any. Recording takes time of the host: gaps are shorter without it.
"""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from trainer.bench.step.clock import wait_for
from trainer.bench.step.contest import Contest
from trainer.bench.step.ours import Ours
from trainer.files import write_atomically

STEPS: Final = 3
LARGEST: Final = 10
MARK: Final = "bench step"
NAME_WIDTH: Final = 60


@dataclass(frozen=True)
class Span:
    """Something that ran, in microseconds of one clock."""

    name: str
    start: float
    end: float
    own: float
    """Of it, without what it called."""


@dataclass(frozen=True)
class Kernel:
    """All runs of one kernel."""

    name: str
    runs: int
    microseconds: float


@dataclass(frozen=True)
class Gap:
    """Time in which nothing ran."""

    after: str
    before: str
    microseconds: float


@dataclass(frozen=True)
class Profile:
    """Of a piece of training."""

    microseconds: float
    """From the first begin to the last end."""
    idle: float
    """Of these, in gaps."""
    kernels: list[Kernel]
    """The largest first."""
    gaps: list[Gap]
    """The largest first."""


def summarise(kernels: Sequence[Span], busy: Sequence[Span]) -> Profile:
    """Add up.

    Args:
        kernels: whose own times count; they may lie within one another.
        busy: spans between which there are gaps; they may overlap.
    """
    totals: dict[str, Kernel] = {}
    for span in kernels:
        known = totals.get(span.name, Kernel(span.name, 0, 0.0))
        totals[span.name] = Kernel(span.name, known.runs + 1, known.microseconds + span.own)
    ordered = sorted(busy, key=lambda span: span.start)
    gaps = []
    last = ordered[0] if ordered else None
    for span in ordered[1:]:
        assert last is not None
        if span.start > last.end:
            gaps.append(Gap(last.name, span.name, span.start - last.end))
        last = span if span.end > last.end else last
    return Profile(
        microseconds=last.end - ordered[0].start if last else 0.0,
        idle=sum(gap.microseconds for gap in gaps),
        kernels=sorted(totals.values(), key=lambda kernel: -kernel.microseconds),
        gaps=sorted(gaps, key=lambda gap: -gap.microseconds),
    )


def profile_of(events: Sequence[Any], on_gpu: bool) -> Profile:
    """Of the events of torch's profiler, in which steps are marked `MARK`."""
    if on_gpu:
        kernels = [_span(event) for event in events if _is_kernel(event)]
        return summarise(kernels, kernels)
    marks = {id(event) for event in events if event.name == MARK}
    threads = {event.thread for event in events if id(event) in marks}
    operators = [event for event in events if id(event) not in marks]
    outermost = [e for e in operators if e.thread in threads and (e.cpu_parent is None or id(e.cpu_parent) in marks)]
    return summarise([_span(event) for event in operators], [_span(event) for event in outermost])


def _is_kernel(event: Any) -> bool:
    annotates = event.name == MARK or getattr(event, "is_user_annotation", False)  # of which older torch has no word
    return event.device_type == DeviceType.CUDA and not annotates


def _span(event: Any) -> Span:
    times = event.time_range
    on_cpu = event.device_type == DeviceType.CPU
    return Span(event.name, times.start, times.end, event.self_cpu_time_total if on_cpu else times.end - times.start)


def format_profile(found: Profile, what: str) -> str:
    """A table of at most 100 columns."""
    total = found.microseconds or 1.0
    lines = [
        f"{what}: {found.microseconds / 1e3:,.1f} ms, idle {found.idle / total:.1%}",
        "",
        f"{'largest kernels':{NAME_WIDTH}} {'runs':>7} {'ms':>10} {'share':>7}",
    ]
    for kernel in found.kernels[:LARGEST]:
        share = kernel.microseconds / total
        lines.append(
            f"{_short(kernel.name):{NAME_WIDTH}} {kernel.runs:7,} {kernel.microseconds / 1e3:10,.2f} {share:7.1%}"
        )
    half = NAME_WIDTH // 2 + 5
    lines += ["", f"{'largest gaps, after':{half}} {'before':{half}} {'ms':>9} {'share':>7}"]
    for gap in found.gaps[:LARGEST]:
        names = f"{_short(gap.after, half):{half}} {_short(gap.before, half):{half}}"
        lines.append(f"{names} {gap.microseconds / 1e3:9,.3f} {gap.microseconds / total:7.2%}")
    return "\n".join(lines) + "\n"


def _short(name: str, width: int = NAME_WIDTH) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def record(contest: Contest, ours: Ours, folder: Path) -> tuple[str, list[Path]]:
    """Profile `STEPS` of our steps.

    Returns:
        The table, and what was written into `folder`: it, and a Chrome trace (chrome://tracing, ui.perfetto.dev).
    """
    on_gpu = contest.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    wait_for(contest.device)
    with profile(activities=activities) as recorded:
        for _ in range(STEPS):
            with record_function(MARK):
                ours.run(1)
        wait_for(contest.device)
    what = f"{STEPS} steps of {contest.network}, batch {contest.batch}, {contest.recipe.precision}"
    text = format_profile(profile_of(list(recorded.events()), on_gpu), what)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{contest.network}-{contest.batch}"
    trace, table = folder / f"{stem}.trace.json.gz", folder / f"{stem}.txt"
    write_atomically(trace, _trace_of(recorded))
    write_atomically(table, text.encode())
    return text, [trace, table]


def _trace_of(recorded: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = os.path.join(folder, "trace.json")
        recorded.export_chrome_trace(path)
        return gzip.compress(Path(path).read_bytes())
