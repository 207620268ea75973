"""The results as a person reads them: a table of at most 100 columns, and what it means below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from trainer.bench.resources import MIB, machine_lines
from trainer.bench.spread import Spread, spread
from trainer.bench.step.contest import Contest
from trainer.bench.step.peak import Peak
from trainer.bench.step.results import OURS, Result, find, ours_times, share_of_synthetic

COLUMNS: Final = ("batch", "images/s", "min-max", "ms/step", "ours x", "min-max")
TERA: Final = 1e12


def print_table(
    results: Sequence[Result],
    contests: Sequence[Contest],
    peak: Peak,
    machine: dict[str, Any],
    repeats: int,
    console: Console,
) -> None:
    """Print the table, its legend and the machine to `console`."""
    recipe = contests[0].recipe
    title = f"Training steps at {recipe.data.size} px, {recipe.precision}, on {machine['device']}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("contestant", no_wrap=True)
    for name in (*COLUMNS, unit_of(peak)[0], "% peak", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for result in results:
        if (result.network, result.batch) != previous:
            table.add_row(*([""] if previous else []), end_section=False)
            table.add_row(result.network, style="dim")
            previous = result.network, result.batch
        table.add_row(*_cells(result, results, peak), style="bold" if result.name == OURS else "")
    console.print(table)
    for line in remarks(results, contests):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n{_legend(peak, repeats)}\n{machine_lines(machine)}", markup=False, highlight=False)


def _cells(result: Result, results: Sequence[Result], peak: Peak) -> list[str]:
    name = [f"  {result.name}", str(result.batch)]
    rate, milliseconds, flops = spread(result.rates), spread(result.milliseconds), result.flops()
    if rate is None or milliseconds is None or flops is None:
        return [*name, "failed" if result.failed else "-"]
    times = ours_times(result, results) if result.name != OURS else None
    return [
        *name,
        number(rate.median),
        f"{number(rate.min)}-{number(rate.max)}",
        number(milliseconds.median),
        f"{times.median:.2f}" if times else "-",
        f"{times.min:.2f}-{times.max:.2f}" if times else "",
        number(flops / unit_of(peak)[1]),
        f"{100 * flops / peak.flops:.0f}",
        f"{result.memory / MIB:,.0f}" if result.memory is not None else "-",
    ]


def unit_of(peak: Peak) -> tuple[str, float]:
    """What FLOP/s are shown in: its name and size."""
    return ("TFLOP/s", TERA) if peak.flops >= TERA else ("GFLOP/s", 1e9)


def number(value: float) -> str:
    """Three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def remarks(results: Sequence[Result], contests: Sequence[Contest]) -> list[str]:
    """What the figures alone do not say, each once."""
    lines = [_striding(contest) for contest in contests if contest.striding_in is not None][:1]
    compiled = list(dict.fromkeys(result.name for result in results if result.compiled))
    lines += [f"compiled: {'; '.join(compiled)}"] if compiled else []
    for result in results:
        where = f"{result.network}, batch {result.batch}"
        if result.failed:
            lines.append(f"{result.name} failed: {result.problem} ({where})")
        elif result.problem:
            lines.append(f"{result.name}: {result.problem}")
        lines += [f"{result.name}: {note}" for note in result.notes]
        share = share_of_synthetic(result, results)
        if share is not None:
            lines.append(f"real data: {_percent(share)} of the images/s without them ({where})")
        ours = find(results, result, OURS)
        if ours and result.macs and ours.macs and result.macs != ours.macs:
            lines.append(
                f"{result.name}: another network, of {result.macs / 1e9:.2f} G multiply-adds an image, "
                f"ours {ours.macs / 1e9:.2f} ({result.network})"
            )
    return list(dict.fromkeys(lines))


def _striding(contest: Contest) -> str:
    return (
        f"ours: bottlenecks stride in the 3x3 convolution as the peers' do (v1.5), not in the {contest.striding_in} "
        "as in the recipe"
    )


def _percent(share: Spread) -> str:
    return f"{100 * share.median:.1f} % ({100 * share.min:.1f}-{100 * share.max:.1f})"


def _legend(peak: Peak, repeats: int) -> str:
    unit, size = unit_of(peak)
    return (
        f"Median and min-max of {repeats} repetitions, in turn with the others; ours x: our images/s by theirs, pair "
        "by pair.\n"
        f"{unit}: 6 x multiply-adds of a forward pass x images/s. MiB: highest on the GPU, weights included.\n"
        f"100 % of peak: {number(peak.flops / size)} {unit} ({peak.origin})."
    )
