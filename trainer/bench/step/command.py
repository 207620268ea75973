"""The command: contests of all networks and batches, one after the other."""

from __future__ import annotations

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
    bench, console = _Bench(options, recipe, accelerator), table_console()
    bench.measure()
    print_table(bench.results, bench.contests, bench.peak, bench.machine, options.repeats, console)
    for text in bench.profiles:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    bench.write(console)
    if options.save is not None:
        if bench.results[0].failed:
            raise RunError("our step has no figures to save")
        _save(bench.contests[-1], options, console)
    return 1 if any(result.failed for result in bench.results) else 0


class _Bench:
    """Contests of all networks and batches, one after the other, and what came of them."""

    def __init__(self, options: Options, recipe: Recipe, accelerator: Accelerator) -> None:
        self.options, self.recipe, self.accelerator = options, recipe, accelerator
        self.progress = Console(stderr=True, highlight=False)
        notice = notice_of(accelerator.device, recipe.precision)
        if notice is not None:
            self.progress.print(notice, markup=False, soft_wrap=True)
        self.machine = describe_machine()
        self.machine |= describe_device(accelerator.device, self.machine["cpu"])
        self.peak = peak_of(accelerator.device, recipe.precision)
        self.contests: list[Contest] = []
        self.results: list[Result] = []
        self.profiles: list[str] = []
        self.searches: dict[str, dict[int, float]] = {}
        """Of the best batch: images/s by batch, by network."""

    def measure(self) -> None:
        profile = self.profile if self.options.profile is not None else None
        for recipe in recipes_of(self.recipe, self.options.depths):
            for batch in self.batches(recipe):
                contest = make_contest(recipe, batch, self.accelerator, self.options)
                self.contests.append(contest)
                self.results += measure(contest, self.options.repeats, self.progress, profile)
                self.write(None)  # what took an hour is not lost with what comes after it

    def batches(self, recipe: Recipe) -> list[int]:
        """Numbers of images, each once; the best batch is looked for."""
        first, found = recipe.optimizer.micro_batch, []
        for batch in self.options.batches or (first,):
            if batch == BEST:
                best, tried = find_best_batch(
                    lambda images: make_contest(recipe, images, self.accelerator, self.options), first, self.progress
                )
                self.searches[recipe.model.name] = tried
                found.append(best)
            else:
                found.append(int(batch))
        return list(dict.fromkeys(found))

    def profile(self, contest: Contest, ours: Ours) -> None:
        assert self.options.profile is not None
        try:
            text, files = record(contest, ours, self.options.profile)
        except (RuntimeError, OSError) as error:  # what was measured is not lost for it
            self.profiles.append(f"\nno profile of {contest.network}, batch {contest.batch}: {error}")
        else:
            self.profiles.append(f"\n{text}written: {', '.join(map(str, files))}")

    def write(self, console: Console | None) -> None:
        """The JSON and the chart, if they were asked for."""
        if self.options.json is not None:
            content = to_json(self.results, self.peak, self._about())
            write_outputs(self.options.json, content, draw_chart(self.results, self.contests, self.machine), console)

    def _about(self) -> dict[str, Any]:
        options, recipe = self.options, self.contests[-1].recipe
        return {
            "recipe": options.recipe,
            "overrides": list(options.overrides),
            "precision": recipe.precision,
            "size": recipe.data.size,
            "classes": self.contests[-1].classes,
            "data": str(options.data) if options.data is not None else None,
            "striding_changed_from": self.contests[-1].striding_in,
            "best_batch_images_per_s": self.searches,
            "machine": self.machine,
        }


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


def _save(contest: Contest, options: Options, console: Console) -> None:
    assert options.save is not None
    key, figure = figure_of(contest, measure_parts(contest, options.repeats))
    save_step(options.save, key, contest.recipe.precision, figure)
    text = f"saved: {options.save}; `trainer plan --gpu {key}` computes with it"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
