"""`trainer evaluate`: checkpoints, alone or as an ensemble, on a beton."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from trainer.agreement import lost_contact
from trainer.console import duration, table_console
from trainer.data.cut_loader import CutLoader
from trainer.data.dataset import Dataset, check_same_classes, open_dataset, read_ahead
from trainer.errors import RunError, UsageError
from trainer.evaluation.evaluate import Predictions, Result, Share, evaluate
from trainer.evaluation.network import Network
from trainer.evaluation.options import Options
from trainer.evaluation.predictions import write_predictions
from trainer.evaluation.protocols import CENTER, TITLES, Protocol, all_cuts
from trainer.files import append, check_output
from trainer.processes import start_accelerator_in_fp32
from trainer.record import EVALUATIONS
from trainer.report.comparison import Measured, evaluated
from trainer.report.runs import Line
from trainer.trained import Trained, load_trained

LINE_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Pass:
    """One way through the data, with crops of one size."""

    size: int
    """Side of the crops in pixels."""
    protocols: list[Protocol]


def evaluate_checkpoints(paths: Sequence[str], data_path: str, options: Options) -> dict[int, dict[str, Result]]:
    """Evaluate the networks of checkpoints on a beton, and print the results from the main process.

    Several are an ensemble: their scores are averaged. One that lies in a run folder leaves its results there. Every
    size of the crops is a pass over the data of its own.

    Args:
        paths: of each a run folder, a checkpoint's folder or its state file.

    Returns:
        By the size of the crops, results by the protocols' names.

    Raises:
        UsageError: checkpoints or data cannot be read, or do not go together, or the predictions have no place.
        RunError: what is left cannot be written; the results are printed all the same.
    """
    trained = [load_trained(path, ema=options.ema) for path in paths]
    data = open_dataset(data_path)
    _check_together(trained, data, options.sizes)
    first = trained[0]
    passes = _passes(first, options)
    if options.predictions is not None:  # now that their size is known
        scores = 4 * len(data.beton) * len(first.classes) * len(passes[0].protocols)  # bytes of float32
        check_output(options.predictions, "--predictions", size=scores)
    torch.backends.cudnn.allow_tf32 = False  # what is reported is computed in fp32, whatever it was trained in
    accelerator = start_accelerator_in_fp32()
    share = Share(accelerator.process_index, accelerator.num_processes)
    kept = Predictions() if options.predictions is not None else None
    main = accelerator.is_main_process
    results: dict[int, dict[str, Result]] = {}
    with _explained(options), _Progress(len(passes) * len(share.ids(len(data.beton))), shown=main) as progress:
        for one in passes:
            results[one.size] = _evaluate(one, trained, data, options, accelerator.device, share, kept, progress.show)
            progress.end_pass()
    lines = {
        (one.size, protocol.name): _line(first, data, one.size, protocol, results[one.size][protocol.name], options)
        for one in passes
        for protocol in one.protocols
    }
    with contextlib.ExitStack() as then:  # from the last up, each whatever becomes of the others
        if main and len(trained) == 1:
            then.callback(_keep, first, list(lines.values()))
        if kept is not None and options.predictions is not None:
            protocols = passes[0].protocols
            then.callback(write_predictions, options.predictions, kept, protocols, data, first.classes, accelerator)
        if main:
            beside = {key: evaluated(first.recipe, line) for key, line in lines.items()} if len(trained) == 1 else {}
            _print(trained, data, passes, results, beside, options)
    accelerator.end_training()
    return results


def _passes(trained: Trained, options: Options) -> list[Pass]:
    recipe = trained.recipe
    validated = recipe.validation_size, recipe.evaluation.resize
    sizes = options.sizes or (recipe.validation_size,)
    return [Pass(size, options.views(size, validated)) for size in sizes]


def _evaluate(
    one: Pass,
    trained: Sequence[Trained],
    data: Dataset,
    options: Options,
    device: torch.device,
    share: Share,
    kept: Predictions | None,
    after_request: Callable[[int, int], None],
) -> dict[str, Result]:
    """One pass over the data: results by the protocols' names."""
    recipe = trained[0].recipe
    return evaluate(
        [_on_device(network, one.size, device) for network in trained],
        one.protocols,
        CutLoader(data.beton, all_cuts(one.protocols), one.size, device, threads=recipe.data.threads),
        classes=len(trained[0].classes),
        batch=options.batch,
        share=share,
        score=options.score,
        read_ahead=read_ahead(recipe, data),
        predictions=kept,
        after_request=after_request,
    )


def _notes(data: Dataset, protocols: Sequence[Protocol], options: Options) -> list[str]:
    """What should be known of the data. That the recipe's own view enlarges a few of them is the paper's way."""
    notes = [] if data.notice is None else [data.notice]
    largest = max(scale for protocol in protocols for scale in protocol.scales)
    smaller = int((np.minimum(data.beton.widths, data.beton.heights) < largest).sum())
    asked = options.resize or options.sizes or options.scales or len(protocols[-1].scales) > 1
    if smaller and asked:
        cap = None if data.manifest is None else data.manifest.options.get("max_short_side")
        capped = isinstance(cap, int) and 0 < cap < largest
        advice = f"; they were converted with a cap of {cap} pixels (--max-short-side 0 has none)" if capped else ""
        notes.append(
            f"{data.beton.path}: {smaller:,} of {len(data.beton):,} images have a shorter side below {largest} and "
            f"were enlarged{advice}"
        )
    return notes


def _check_together(trained: Sequence[Trained], data: Dataset, sizes: tuple[int, ...] | None) -> None:
    first = trained[0]
    size = first.recipe.validation_size
    for one in trained:
        if sum(one.file == other.file and one.ema == other.ema for other in trained) > 1:
            raise UsageError(f"{one.file}: given more than once; an ensemble has every network once")
        if one.classes != first.classes:
            raise UsageError(f"{one.file}: its classes are not those of {first.file}; an ensemble needs the same ones")
        if sizes is None and one.recipe.validation_size != size:
            raise UsageError(
                f"{one.file}: was validated on crops of {one.recipe.validation_size} pixels, {first.file} on {size}; "
                "an ensemble needs the same size: give it with --size"
            )
        if one.mean_image is not None and (other := set(sizes or ()) - {len(one.mean_image)}):
            raise UsageError(
                f"--size {min(other)}: {one.file} subtracts a mean image, which fits crops of {len(one.mean_image)} "
                "pixels only; leave --size out"
            )
        check_same_classes(data, one.classes, str(one.file))


def _on_device(trained: Trained, size: int, device: torch.device) -> Network:
    return Network(trained.on(device), size, trained.statistics, trained.mean_image, device)


@contextlib.contextmanager
def _explained(options: Options) -> Iterator[None]:
    try:
        with lost_contact("Start again"):
            yield
    except torch.OutOfMemoryError as error:
        raise RunError(f"out of GPU memory with batches of {options.batch} crops; give a lower --batch") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise RunError(
            f"out of memory with batches of {options.batch} crops; give a lower --batch, or smaller --scales or --size"
        ) from error


class _Progress:
    """Of the main process: a bar on a terminal, elsewhere a line at most every `LINE_SECONDS`."""

    def __init__(self, images: int, *, shown: bool) -> None:
        console = Console(stderr=True)
        self._lines = shown and not console.is_terminal
        self._images, self._began = images, time.monotonic()
        self._told = self._began
        self._before = self._done = 0
        columns = TextColumn("evaluating"), BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f}")
        self._bar = Progress(
            *columns,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task("", total=images)

    def show(self, requests: int, images_of_pass: int) -> None:
        self._done = images = self._before + images_of_pass
        self._bar.update(self._task, completed=images)
        now = time.monotonic()
        if self._lines and now - self._told >= LINE_SECONDS and 0 < images < self._images:
            self._told = now
            left = (now - self._began) * (self._images - images) / images
            print(f"{images:,} of {self._images:,} images | ETA {duration(left)}", file=sys.stderr, flush=True)

    def end_pass(self) -> None:
        self._before = self._done

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _print(
    trained: Sequence[Trained],
    data: Dataset,
    passes: Sequence[Pass],
    results: dict[int, dict[str, Result]],
    beside: dict[tuple[int, str], Measured],
    options: Options,
) -> None:
    """`beside`: of one network, by size and protocol, what stands beside the paper's."""
    table = Table()
    table.add_column("protocol")
    for name in ("top-1 error", "95 %", "top-5 error", "95 %", "the paper's (%)", "loss"):
        table.add_column(name, justify="right")
    for size, protocol in ((one.size, protocol) for one in passes for protocol in one.protocols):
        result = results[size][protocol.name]
        table.add_row(
            _describe(protocol, size),
            f"[bold]{result.top1_error:.2%}[/]",
            _interval(result.top1_interval),
            f"{result.top5_error:.2%}",
            _interval(result.top5_interval),
            _papers(beside.get((size, protocol.name))),
            f"{result.loss:.4f}",
        )
    firsts = [results[one.size][one.protocols[0].name] for one in passes]
    images, seconds = firsts[0].images, sum(result.seconds for result in firsts)
    console = table_console()
    names = trained[0].title if len(trained) == 1 else f"ensemble of {'; '.join(one.title for one in trained)}"
    console.print(
        f"{names}, on {data.beton.path}: {options.score} averaged, fp32", style="bold", markup=False, soft_wrap=True
    )
    console.print(table)
    for note in _notes(data, [protocol for one in passes for protocol in one.protocols], options):
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for found in beside.values():
        if found.paper is not None and found.of_view:
            text = f"note: {found.view}, unlike the paper's: {'; '.join(found.of_view)}"
            console.print(text, markup=False, soft_wrap=True)
    for of_run in {"; ".join(found.of_run): None for found in beside.values() if found.of_run}:
        console.print(f"note: the run, unlike the paper's: {of_run}", markup=False, soft_wrap=True)
    times = "" if len(passes) == 1 else f", {len(passes)} times"
    rate = len(passes) * images / seconds
    console.print(f"{images:,} images{times} in {duration(seconds)}, {rate:,.1f} images/s", highlight=False)


def _describe(protocol: Protocol, size: int) -> str:
    scales = ", ".join(map(str, protocol.scales))
    title = TITLES[protocol.name]
    if protocol.pool is not None:
        flips = ", mirrored too" if protocol.flip else ""
        return f"{title}\n(pool {protocol.pool}) of {scales}{flips}"
    flips = "" if protocol.flip == (protocol.name != CENTER) else ", mirrored too" if protocol.flip else ", no flips"
    return f"{title} {size}\nof {scales}{flips}"


def _interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2%}\nto {interval[1]:.2%}"


def _papers(beside: Measured | None) -> str:
    paper = beside.paper if beside is not None and beside.comparable else None
    if paper is None:
        return "–"
    return " / ".join(filter(None, (paper.top1_text, paper.top5_text))) + f"\n{paper.source}"


def _keep(trained: Trained, lines: Sequence[Line]) -> None:
    if trained.run_dir is None:
        return
    path = trained.run_dir / EVALUATIONS
    try:
        append(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
    except RunError as error:
        raise RunError(f"{error}; the results are above") from error


def _line(trained: Trained, data: Dataset, size: int, protocol: Protocol, result: Result, options: Options) -> Line:
    return {
        "protocol": protocol.name,
        "size": size,
        "scales": protocol.scales,
        "score": options.score,
        "pool": protocol.pool,
        "flip": protocol.flip,
        "ema": trained.ema,
        "recalibrated": trained.recalibrated,
        "top1_error": result.top1_error,
        "top5_error": result.top5_error,
        "top1_interval": result.top1_interval,
        "top5_interval": result.top5_interval,
        "images": result.images,
        "loss": result.loss,
        "seconds": round(result.seconds, 3),
        "step": trained.step,
        "samples": trained.samples,
        "checkpoint": trained.file.parent.name,
        "data": str(data.beton.path),
        "data_digest": data.digest,
        "time": round(time.time(), 3),
    }
