"""`trainer bench loader`: how fast images come out of a beton, beside other loaders that do the same work.

Every loader has a process of its own. One epoch of each is run in turn while the others rest, and that is repeated
with another one first: what changes on the machine meanwhile reaches all of them, and ratios are taken pair by pair.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from rich.console import Console

from trainer.bench.loader.chart import draw_chart
from trainer.bench.loader.messages import Task
from trainer.bench.loader.peers import OURS, PEERS, Peer
from trainer.bench.loader.process import LoaderProcess
from trainer.bench.loader.results import Result, find, other_work, to_json
from trainer.bench.loader.table import print_table
from trainer.bench.loader.work import CROPS, CropKind, Work
from trainer.bench.outputs import check_outputs, write_outputs
from trainer.bench.resources import describe_machine
from trainer.bench.spread import spread
from trainer.console import table_console
from trainer.data.beton import MODE_JPEG, Beton
from trainer.data.dataset import open_dataset
from trainer.errors import RunError, UsageError, did_you_mean
from trainer.files import check_output
from trainer.plan.saved import LoaderFigure, save_loader
from trainer.plan.work import images_of, table_rate


@dataclass(frozen=True)
class Options:
    """What to measure. `images`: at least so many an epoch; it is rounded up to whole batches."""

    beton: Path
    crop: CropKind = "scale"
    workers: tuple[int, ...] = (1, 2)
    batch: int = 256
    size: int = 224
    images: int = 4000
    repeats: int = 5
    peers: tuple[str, ...] = tuple(peer.name for peer in PEERS)
    json: Path | None = None
    save: Path | None = None
    """Where our rate goes, for `trainer plan`."""


def parse_workers(text: str) -> tuple[int, ...]:
    """`"1,2"` -> (1, 2).

    Raises:
        UsageError: something in it is no positive number.
    """
    for item in text.split(","):
        if not item.strip().isdecimal() or int(item) == 0:
            raise UsageError(f"--workers: '{item}' is no positive number of workers; write e.g. 1,2")
    return tuple(dict.fromkeys(int(item) for item in text.split(",")))


def parse_peers(text: str | None) -> tuple[str, ...]:
    """`"ffcv,dali"` -> ("ffcv", "dali"); None: all that there are; an empty text: none.

    Raises:
        UsageError: there is no such peer; with the nearest name.
    """
    known = [peer.name for peer in PEERS]
    names = known if text is None else [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UsageError(f"--peers: no loader is named '{name}'{did_you_mean(name, known)}")
    return tuple(dict.fromkeys(names))


def bench_loader(options: Options) -> int:
    """Measure, print the table, write the JSON and the chart beside it. Returns 1 if a loader failed, else 0.

    Raises:
        UsageError: a value is wrong, or the beton cannot be used.
    """
    _check(options)
    batches = -(-options.images // options.batch)
    work = Work(options.beton, options.crop, options.size, options.batch, batches)
    machine = describe_machine()
    results = measure(options, work, Console(stderr=True, highlight=False))
    console = table_console()
    print_table(results, work, machine, options.repeats, console)
    if options.json is not None:
        chart = draw_chart(results, work, machine)
        write_outputs(options.json, to_json(results, work, machine), chart, console)
    if options.save is not None:
        save_rate(options.save, results, work, machine["cpu"])
        console.print(f"saved: {options.save}", markup=False, highlight=False, soft_wrap=True)
    return 1 if any(result.failed for result in results) else 0


def save_rate(path: Path, results: list[Result], work: Work, cpu: str) -> None:
    """Keep what our loader made of a core, with the fewest workers measured.

    Raises:
        RunError: it has no figures.
    """
    ours = next((result for result in results if result.peer is OURS and result.epochs), None)
    rate = spread(ours.cpu_rates) if ours else None
    if rate is None:
        raise RunError("our loader has no figures to save")
    expected = table_rate(images_of(open_dataset(work.beton)), work.policy())
    save_loader(path, LoaderFigure(cpu, date.today().isoformat(), work.crop, work.size, rate.median, expected))


def measure(options: Options, work: Work, console: Console) -> list[Result]:
    """Results by number of workers, ours first, then the peers in their order. One line an item to `console`."""
    peers = [OURS, *(peer for peer in PEERS if peer.name in options.peers)]
    results = [_result(peer, workers) for workers in options.workers for peer in peers]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        running = []
        for result in results:
            if not result.problem:
                console.print(f"warming up: {result.name}, workers: {result.workers}", markup=False)
                process = _start(result, work, folder, stack, find(results, OURS.name, result.workers))
                running += [(result, process)] if process else []
        for repetition in range(1, options.repeats + 1):
            console.print(f"repetition {repetition} of {options.repeats}")
            for result, process in _turns(running, repetition - 1):
                _run(result, process, repetition)
    return results


def _result(peer: Peer, workers: int) -> Result:
    result = Result(peer, workers)
    if not peer.installed():
        result.problem = f"not installed: {peer.install}"
    return result


def _start(result: Result, work: Work, folder: Path, stack: ExitStack, ours: Result | None) -> LoaderProcess | None:
    """A process that is ready to be timed; None if the loader failed, which its result says."""
    try:
        process = stack.enter_context(LoaderProcess(Task(result.peer, work, result.workers), folder))
        result.memory = process.warm_up()
        result.check = process.check()
    except RunError as error:
        result.fail(str(error))
        return None
    if problem := other_work(result, ours, work.images):
        process.close()
        result.fail(problem)
        return None
    return process


def _run(result: Result, process: LoaderProcess, repetition: int) -> None:
    if result.failed:
        return
    try:
        result.epochs.append(process.epoch(repetition))
    except RunError as error:
        process.close()
        result.fail(str(error))


def _turns(running: Sequence[tuple[Result, LoaderProcess]], repetition: int) -> list[tuple[Result, LoaderProcess]]:
    """Loaders with the same workers follow each other, since they are compared; each repetition begins with another."""
    turns = []
    for workers in dict.fromkeys(result.workers for result, _ in running):
        group = [pair for pair in running if pair[0].workers == workers]
        first = repetition % len(group)
        turns += group[first:] + group[:first]
    return turns


def _check(options: Options) -> None:
    numbers = {name: getattr(options, name) for name in ("batch", "size", "images", "repeats")}
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"--{name} {value}: must be 1 or more")
    if options.crop not in CROPS:
        raise UsageError(f"--crop: no crop is named '{options.crop}'{did_you_mean(options.crop, CROPS)}")
    check_outputs(options.json)
    if options.save is not None:
        check_output(options.save, "--save")
    beton = Beton(options.beton)
    pixels = int(np.count_nonzero(beton.modes != MODE_JPEG))
    if pixels:
        raise UsageError(
            f"{options.beton}: {pixels} of {len(beton)} images are stored as pixels, and this compares decoders; "
            "take a beton of JPEGs alone"
        )
