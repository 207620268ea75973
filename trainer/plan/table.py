"""A plan as a person reads it, and as a program does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from trainer.console import duration
from trainer.plan.changes import Change
from trainer.plan.constants import DEVICES
from trainer.plan.curve import Point
from trainer.plan.model import Estimate
from trainer.plan.saved import Saved

WHAT: Final = {
    "compute": "the network's arithmetic and memory",
    "launching": "the host tells the GPU what to do, a micro-batch at a time",
    "all-reduce": "gradients between devices, if nothing hid it",
    "optimizer": "one update of the weights a step",
    "decoding": "crops out of JPEGs, by the cores",
    "storage": "reading what the page cache does not hold",
}
"""By the names of `Estimate.ceilings`."""


def print_plan(
    estimate: Estimate, changes: Sequence[Change], notes: Sequence[str], device: str, console: Console
) -> None:
    """The resources, the limit, the time, and what would help."""
    console.print(_title(estimate, device), style="bold", markup=False, soft_wrap=True)
    console.print(_resources(estimate))
    for line in _summary(estimate):
        console.print(line, markup=False, soft_wrap=True)
    console.print("What would help, the cheapest first:" if changes else "Nothing that was tried would help.")
    for change in changes:
        console.print(f"  {change.text}", markup=False, soft_wrap=True)
    for note in notes:
        console.print(f"note: {note}", markup=False, style="dim", soft_wrap=True)


def plan_notes(estimate: Estimate, assumed: Sequence[str], device: str, saved: Saved) -> list[str]:
    """What the figures rest on."""
    work, measured = estimate.work, saved.step(device, estimate.work.recipe.precision)
    notes = [f"compute: {estimate.speed.source}"]
    if work.recipe.data.first_size:
        sizes = ", ".join(f"{size} px {share:.0%}" for size, share in work.sizes.items())
        notes.append(f"the crops grow ({sizes} of the run): compute is their mean, decoding that of the largest")
    if measured is None and not estimate.speed.is_cpu:
        notes.append(
            "this project has measured nothing on a GPU; time a step on yours: trainer bench step RECIPE --save"
        )
        notes.append("launching: published for a host of 2020, so newer ones are faster; `bench step` measures it, too")
    elif measured is not None and not estimate.speed.is_cpu and measured.seconds < 1.1 * measured.seconds_of_one:
        notes.append("launching limited what was measured: compute may be faster, measure larger micro-batches")
    if saved.path is not None:
        what = ["a step" * (measured is not None), "decoding" * (saved.loader is not None)]
        used = " and ".join(filter(None, what)) or f"nothing for {device} in {work.recipe.precision}"
        notes.append(f"your figures from {saved.path}: {used}")
    if not (work.train.found and work.val.found):
        notes.append("the recipe's data are not here: taken for " + ("CIFAR-10" if work.train.raw else "ImageNet"))
    if assumed:
        notes.append(f"not given, so assumed: {', '.join(assumed)}")
    notes.append(_reading(estimate))
    if estimate.cluster.world > 1 and not estimate.all_reduce_seconds:
        notes.append("all-reduce between processes of a CPU node is not known, and not counted")
    notes.append(
        "on paper: no stragglers, latency of messages, copies to the device, start or checkpoints; "
        f"of {1e3 * estimate.all_reduce_seconds:.1f} ms of all-reduce, backward leaves "
        f"{1e3 * estimate.exposed_seconds:.1f} ms unhidden"
    )
    return notes


def to_json(
    estimate: Estimate, changes: Sequence[Change], notes: Sequence[str], curve: Sequence[Point]
) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "on_paper": True,
        "limit": estimate.limit,
        "images_per_s": round(estimate.images_per_s, 2),
        "ceilings_images_per_s": {name: round(rate, 2) for name, rate in estimate.ceilings.items()},
        "step_seconds": estimate.step_seconds,
        "all_reduce_seconds": estimate.all_reduce_seconds,
        "all_reduce_exposed_seconds": estimate.exposed_seconds,
        "training_seconds": round(estimate.training_seconds, 1),
        "validation_seconds": round(estimate.validation_seconds, 1),
        "gpu_hours": round(estimate.gpu_hours, 3),
        "network": vars(estimate.work.network),
        "changes": [
            {"what": change.what, "images_per_s": round(change.estimate.images_per_s, 2)} for change in changes
        ],
        "notes": list(notes),
        "curve": [
            {
                "gpus": point.world,
                "global_batch": point.global_batch,
                "recipe_allows": point.fits,
                "images_per_s": round(point.estimate.images_per_s, 2),
                "limit": point.estimate.limit,
            }
            for point in curve
        ],
    }


def _title(estimate: Estimate, device: str) -> str:
    recipe, cluster = estimate.work.recipe, estimate.cluster
    kind = "process(es) on CPUs" if estimate.speed.is_cpu else DEVICES[device].title if device in DEVICES else device
    return (
        f"On paper: {recipe.model.name} at {recipe.crop_sizes} px, {recipe.precision}, on {cluster.nodes} node(s) x "
        f"{cluster.gpus_per_node} {kind}; global batch {recipe.optimizer.global_batch} = {cluster.world} x "
        f"{estimate.micro_batches} x {recipe.optimizer.micro_batch}"
    )


def _resources(estimate: Estimate) -> Table:
    table = Table()
    table.add_column("resource", no_wrap=True)
    table.add_column("allows, images/s", justify="right", no_wrap=True)
    table.add_column("busy", justify="right", no_wrap=True)
    table.add_column("what it is", style="dim")
    for name, rate in sorted(estimate.ceilings.items(), key=lambda item: item[1]):
        style = "bold" if name == estimate.limit else ""
        table.add_row(name, f"{rate:,.0f}", f"{estimate.images_per_s / rate:.0%}", WHAT[name], style=style)
    return table


def _summary(estimate: Estimate) -> list[str]:
    unit = "process-hours" if estimate.speed.is_cpu else "GPU-hours"
    return [
        f"The limit is {estimate.limit}. {estimate.images_per_s:,.0f} images/s, "
        f"{estimate.images_per_s / estimate.cluster.world:,.0f} a device",
        f"{estimate.work.samples:,} samples in {duration(estimate.training_seconds)}, validation "
        f"{duration(estimate.validation_seconds)}: {duration(estimate.seconds)}, {estimate.gpu_hours:,.1f} {unit}",
    ]


def _reading(estimate: Estimate) -> str:
    work, cluster = estimate.work, estimate.cluster
    size = f"{work.cached_bytes / 1e9:,.1f} GB of data"
    if estimate.in_page_cache:
        return f"{size} fit into a node's memory ({cluster.memory / 1e9:,.0f} GB), so storage is read once"
    needed = 8e-9 * estimate.images_per_s * work.read_bytes
    told = "not given, so not counted: give --storage-gbps" if cluster.storage is None else "given"
    return (
        f"{size} do not fit into a node's memory ({cluster.memory / 1e9:,.0f} GB), so they are read in every epoch, "
        f"{work.recipe.data.order}: {needed:,.1f} Gbit/s from storage ({told})"
    )
