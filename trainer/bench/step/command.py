"""The command: contests of all networks and batches, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from trainer.bench.outputs import write_outputs
from trainer.bench.resources import describe_machine
from trainer.bench.step.chart import draw_chart
from trainer.bench.step.contest import Contest, make_contest, recipes_of
from trainer.bench.step.measure import find_best_batch, measure
from trainer.bench.step.options import BEST, Options, check_options
from trainer.bench.step.ours import Ours
from trainer.bench.step.parts import figure_of, measure_parts
from trainer.bench.step.peak import peak_of
from trainer.bench.step.profile import record
from trainer.bench.step.results import Result, to_json
from trainer.bench.step.table import print_table
from trainer.console import table_console
from trainer.data.dataset import open_dataset
from trainer.errors import RunError, UsageError
from trainer.plan.saved import save_step
from trainer.precision import notice_of
from trainer.processes import start_accelerator
from trainer.recipe import Recipe, load_recipe


def bench_step(options: Options) -> int:
    """Measure, print the table, write what was asked for. Returns 1 if a contestant failed, else 0.

    Raises:
        UsageError: an option, the recipe or the data are wrong, or this is run under a launcher.
        RunError: our step failed, and its figures were to be saved.
    """
    check_options(options)
    recipe = load_recipe(options.recipe, list(options.overrides))
    if options.data is not None:
        open_dataset(options.data)  # or what is wrong with it would be said late
    accelerator = start_accelerator(recipe)
    if accelerator.num_processes > 1:
        raise UsageError("bench step times one device: run it without accelerate launch")
    progress, console = Console(stderr=True, highlight=False), table_console()
    notice = notice_of(accelerator.device, recipe.precision)
    if notice is not None:
        progress.print(notice, markup=False, soft_wrap=True)
    machine = describe_machine()
    machine |= describe_device(accelerator.device, machine["cpu"])
    profiles: list[str] = []

    def profile(contest: Contest, ours: Ours) -> None:
        assert options.profile is not None
        text, files = record(contest, ours, options.profile)
        profiles.append(f"\n{text}written: {', '.join(map(str, files))}")

    results: list[Result] = []
    searches: dict[str, dict[int, float]] = {}
    contests = []
    for one in recipes_of(recipe, options.depths):
        for batch in _batches(one, options, accelerator, searches, progress):
            contests.append(make_contest(one, batch, accelerator, options))
            results += measure(contests[-1], options.repeats, progress, profile if options.profile else None)
    peak = peak_of(accelerator.device, recipe.precision)
    print_table(results, contests, peak, machine, options.repeats, console)
    for text in profiles:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if options.json is not None:
        content = to_json(results, peak, _about(contests, options, searches, machine))
        write_outputs(options.json, content, draw_chart(results, contests, machine), console)
    if options.save is not None:
        if results[0].failed:
            raise RunError("our step has no figures to save")
        _save(contests[-1], options, console)
    return 1 if any(result.failed for result in results) else 0


def _batches(
    recipe: Recipe,
    options: Options,
    accelerator: Accelerator,
    searches: dict[str, dict[int, float]],
    progress: Console,
) -> list[int]:
    """Numbers of images, each once; the best batch is looked for, and how goes into `searches`."""
    found = []
    for batch in options.batches or (recipe.optimizer.micro_batch,):
        if batch == BEST:
            first = recipe.optimizer.micro_batch
            best, tried = find_best_batch(lambda n: make_contest(recipe, n, accelerator, options), first, progress)
            searches[recipe.model.name] = tried
            found.append(best)
        else:
            found.append(int(batch))
    return list(dict.fromkeys(found))


def describe_device(device: torch.device, cpu: str) -> dict[str, Any]:
    """What computes, and the software below torch."""
    if device.type != "cuda":
        threads = torch.get_num_threads()
        return {"device": f"{cpu}, {threads} threads", "threads": threads}
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "device": torch.cuda.get_device_name(device),
        "gpu_memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1),
        "compute_capability": f"{major}.{minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _about(
    contests: Sequence[Contest], options: Options, searches: dict[str, dict[int, float]], machine: dict[str, Any]
) -> dict[str, Any]:
    recipe = contests[0].recipe
    return {
        "recipe": options.recipe,
        "overrides": list(options.overrides),
        "precision": recipe.precision,
        "size": recipe.data.size,
        "classes": contests[0].classes,
        "data": str(options.data) if options.data is not None else None,
        "striding_changed_from": contests[-1].striding_in,
        "best_batch": {
            network: {"images_per_s_by_batch": {str(batch): rate for batch, rate in tried.items()}}
            for network, tried in searches.items()
        },
        "machine": machine,
    }


def _save(contest: Contest, options: Options, console: Console) -> None:
    assert options.save is not None
    key, figure = figure_of(contest, measure_parts(contest, options.repeats))
    save_step(options.save, key, contest.recipe.precision, figure)
    text = f"saved: {options.save}; `trainer plan --gpu {key}` computes with it"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
