"""`python -m trainer plan`: on paper, what limits a run, how long it takes, and what would help."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import UsageError

if TYPE_CHECKING:  # torch comes with it
    from trainer.plan.model import Cluster

__all__ = ["Options", "plan"]


@dataclass(frozen=True)
class Options:
    """Of the command line. None: not given."""

    nodes: int
    gpus_per_node: int
    gpu: str
    cores: int | None = None
    """Of a node."""
    storage_gbps: float | None = None
    """Gbit/s that all nodes together read."""
    network_gbps: float | None = None
    """Gbit/s of a node to the others."""
    memory_gb: float | None = None
    """Of a node, 10^9 bytes."""
    constants: Path | None = None
    out: Path | None = None
    as_json: bool = False


def plan(recipe_path: str, overrides: Sequence[str], options: Options) -> None:
    """Print the plan; draw the scaling curve to `options.out`.

    Raises:
        UsageError: the recipe, the data that are there or an option is wrong, the device is unknown, or so many
            devices cannot share the recipe's batch.
    """
    _check(options)
    from trainer.files import check_output, write_atomically
    from trainer.plan.saved import find_device, load_saved
    from trainer.recipe import load_recipe

    if options.out is not None:
        check_output(options.out, "--out")
    saved = load_saved(options.constants)
    find_device(options.gpu, saved)
    recipe = load_recipe(recipe_path, list(overrides))
    from trainer.console import table_console  # what needs torch, when all that does not is in order
    from trainer.plan.changes import helpful_changes
    from trainer.plan.curve import scaling_curve
    from trainer.plan.model import Estimate
    from trainer.plan.speed import speed_of
    from trainer.plan.table import plan_notes, print_plan, to_json
    from trainer.plan.work import work_of
    from trainer.processes import check_world_size

    check_world_size(recipe, options.nodes * options.gpus_per_node)
    work = work_of(recipe, saved)
    cluster, assumed = _cluster(options)
    estimate = Estimate(work, speed_of(options.gpu, work.network, recipe.precision, saved), cluster)
    changes, curve = helpful_changes(estimate, options.gpu, saved), scaling_curve(estimate)
    notes = plan_notes(estimate, assumed, options.gpu, saved)
    if options.as_json:
        print(json.dumps(to_json(estimate, changes, notes, curve), indent=1))
    else:
        print_plan(estimate, changes, notes, options.gpu, table_console())
    if options.out is not None:
        from trainer.plan.chart import draw_curve

        write_atomically(options.out, draw_curve(curve, estimate, options.gpu))


def _check(options: Options) -> None:
    numbers = {
        "--nodes": options.nodes,
        "--gpus-per-node": options.gpus_per_node,
        "--cores": options.cores,
        "--storage-gbps": options.storage_gbps,
        "--network-gbps": options.network_gbps,
        "--memory-gb": options.memory_gb,
    }
    for option, value in numbers.items():
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{option} {value}: must be a number above 0")
    if options.out is not None and options.out.suffix != ".png":
        raise UsageError(f"--out {options.out}: must end in .png")


def _cluster(options: Options) -> tuple[Cluster, list[str]]:
    """The nodes, and what had to be assumed of them."""
    from trainer.plan.constants import CORES_PER_GPU, MEMORY_BYTES, NETWORK_BYTES
    from trainer.plan.model import Cluster

    cores = options.cores or CORES_PER_GPU * options.gpus_per_node
    memory = options.memory_gb * 1e9 if options.memory_gb else MEMORY_BYTES
    network = options.network_gbps * 1e9 / 8 if options.network_gbps else NETWORK_BYTES
    assumptions = [
        (options.cores, f"{cores} cores a node"),
        (options.memory_gb, f"{memory / 1e9:,.0f} GB of memory a node"),
        (options.network_gbps, f"{8e-9 * network:,.0f} Gbit/s between nodes"),
    ]
    storage = options.storage_gbps * 1e9 / 8 if options.storage_gbps else None
    cluster = Cluster(options.nodes, options.gpus_per_node, cores, memory, network, storage)
    return cluster, [text for given, text in assumptions if given is None]
