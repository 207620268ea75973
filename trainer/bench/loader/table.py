"""The benchmark's results as a person reads them: a table of at most 100 columns, and what it means below."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from trainer.bench.loader.results import BASELINE, Result, find, ours_times, ratio
from trainer.bench.loader.work import Work
from trainer.bench.resources import MIB, machine_lines
from trainer.bench.spread import Spread, spread


def print_table(results: list[Result], work: Work, machine: dict[str, Any], repeats: int, console: Console) -> None:
    """Print the table, its legend and the machine to `console`."""
    title = f"{work.beton.name}: {work.crop} crops of {work.size} px, batch {work.batch}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("loader", no_wrap=True)
    for name in ("workers", "images/s", "min-max", "per CPU-s", f"x {BASELINE}", "ours x", "MiB", "pixels"):
        table.add_column(name, justify="right", no_wrap=True)
    for previous, result in zip([None, *results], results, strict=False):
        if previous is not None and previous.workers != result.workers:
            table.add_row()
        table.add_row(*_cells(result, results), style="bold" if result.name == "ours" else "")
    console.print(table)
    for line in _problems(results):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n{_legend(work, repeats)}\n{machine_lines(machine)}", markup=False, highlight=False)


def _cells(result: Result, results: list[Result]) -> list[str]:
    name = [result.name, str(result.workers)]
    rate, per_cpu = spread(result.rates), spread(result.cpu_rates)
    if rate is None or per_cpu is None:
        return [*name, "failed" if result.failed else "-"]
    base = find(results, BASELINE, result.workers)
    return [
        *name,
        f"{rate.median:,.0f}",
        f"{rate.min:,.0f}-{rate.max:,.0f}",
        f"{per_cpu.median:,.0f}",
        _times(ratio(result, base)),
        _times(ours_times(result, results)),
        f"{result.memory / MIB:,.0f}" if result.memory else "?",
        _pixels(result),
    ]


def _times(value: Spread | None) -> str:
    return f"{value.median:.2f}" if value else "-"


def _pixels(result: Result) -> str:
    if result.check is None:
        return "?"
    return "own crops" if result.check.difference is None else f"{result.check.difference:.2f}"


def _problems(results: list[Result]) -> list[str]:
    """Why loaders have no figures, once for all numbers of workers that it holds for."""
    workers: dict[str, list[str]] = {}
    for result in results:
        if result.failed:
            workers.setdefault(f"{result.name} failed: {result.problem}", []).append(str(result.workers))
        elif result.problem:
            workers.setdefault(f"{result.name}: {result.problem}", [])
    return [f"{line} (workers: {', '.join(counts)})" if counts else line for line, counts in workers.items()]


def _legend(work: Work, repeats: int) -> str:
    return (
        f"Median and min-max of {repeats} epochs of {work.images:,} images, in turn with the others; "
        "ratios pair by pair.\n"
        "MiB: highest anonymous and shared memory, without pages of files.\n"
        "pixels: mean absolute difference to ours for the same crops, in levels of 0-255."
    )
