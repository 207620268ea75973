"""What would help: changes are tried in the model, and those that gain something are told, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from trainer.plan.curve import part_of, with_batches
from trainer.plan.model import Estimate
from trainer.plan.saved import Saved, find_device
from trainer.plan.speed import speed_of
from trainer.recipe import Precision

LEAST_GAIN: Final = 0.03
NEARLY_ALL: Final = 0.97
"""Of what the largest change of a kind gains, the smallest that does is told."""

MOST_TOLD: Final = 4

FREE, FEWER, OTHER_DATA, OTHER_TRAINING, HARDWARE = range(5)
"""Effort: a setting that changes no result; fewer devices for the same rate; data converted anew; a setting that
changes the experiment; hardware."""


@dataclass(frozen=True)
class Change:
    """One thing done otherwise, and the run with it."""

    effort: int
    what: str
    estimate: Estimate
    gain: float
    """Of images/s: 0.5 is half as much again."""

    @property
    def text(self) -> str:
        """`what: 1,234 images/s (+50 %)`."""
        return f"{self.what}: {self.estimate.images_per_s:,.0f} images/s ({self.gain:+.0%})"


def helpful_changes(planned: Estimate, device: str, saved: Saved) -> list[Change]:
    """At most `MOST_TOLD`, the cheapest first, and of those as cheap the one that gains most."""
    kinds = [
        _read_ahead(planned),
        _fewer(planned),
        _smaller_images(planned),
        _precision(planned, device, saved),
        _micro_batches(planned),
        _larger_batches(planned),
        _cores(planned),
        _memory(planned),
        _storage(planned),
        _network(planned),
    ]
    found = [change for kind in kinds if (change := _smallest_that_does(planned, list(kind))) is not None]
    return sorted(found, key=lambda change: (change.effort, -change.gain))[:MOST_TOLD]


Tried = tuple[int, str, Estimate]


def _smallest_that_does(planned: Estimate, tried: list[Tried]) -> Change | None:
    """Of changes of one kind, given from the smallest to the largest."""
    rates = [estimate.images_per_s for _, _, estimate in tried]
    for (effort, what, estimate), rate in zip(tried, rates, strict=True):
        gain = rate / planned.images_per_s - 1
        saves = effort == FEWER and gain > -LEAST_GAIN
        if saves or (gain >= LEAST_GAIN and rate >= NEARLY_ALL * max(rates)):
            return Change(effort, what, estimate, gain)
    return None


def _read_ahead(planned: Estimate) -> Iterator[Tried]:
    recipe = planned.work.recipe
    if recipe.data.read_ahead == 0:
        changed = replace(recipe, data=replace(recipe.data, read_ahead=8))
        yield FREE, "data.read_ahead=8", replace(planned, work=replace(planned.work, recipe=changed))


def _fewer(planned: Estimate) -> Iterator[Tried]:
    """A quarter or half of the devices with larger micro-batches: where launching limits, more devices do not help."""
    world, optimizer = planned.cluster.world, planned.work.recipe.optimizer
    for factor in (4, 2):
        fewer, micro_batch = world // factor, optimizer.micro_batch * factor
        if world % factor == 0 and _fits(planned, fewer, optimizer.global_batch, micro_batch):
            work = with_batches(planned.work, optimizer.global_batch, micro_batch)
            what = f"{fewer} in place of {world}, with optimizer.micro_batch={micro_batch} (batch norm's, too)"
            yield FEWER, what, replace(planned, work=work, cluster=part_of(planned.cluster, fewer))


def _fits(planned: Estimate, world: int, global_batch: int, micro_batch: int) -> bool:
    per_node = planned.cluster.gpus_per_node
    whole_nodes = world % per_node == 0 or world < per_node
    return whole_nodes and global_batch % micro_batch == 0 and global_batch // micro_batch % world == 0


def _smaller_images(planned: Estimate) -> Iterator[Tried]:
    data = planned.work.recipe.data
    for side in (480, 400, 320):
        if not planned.work.train.raw and side >= data.size:
            work = replace(planned.work, train=planned.work.train.shrunk(side), val=planned.work.val.shrunk(side))
            yield OTHER_DATA, f"data converted with --max-short-side {side}", replace(planned, work=work)


def _precision(planned: Estimate, device: str, saved: Saved) -> Iterator[Tried]:
    if planned.work.recipe.precision == "fp32" and not planned.speed.is_cpu:
        precision: Precision = "bf16" if find_device(device, saved).bf16 else "fp16"
        speed = speed_of(device, planned.work.network, precision, saved)
        work = replace(planned.work, recipe=replace(planned.work.recipe, precision=precision))
        yield OTHER_TRAINING, f"precision={precision}", replace(planned, work=work, speed=speed)


def _micro_batches(planned: Estimate) -> Iterator[Tried]:
    optimizer = planned.work.recipe.optimizer
    for factor in (2, 4, 8):
        if planned.micro_batches % factor == 0:
            work = with_batches(planned.work, optimizer.global_batch, factor * optimizer.micro_batch)
            what = f"optimizer.micro_batch={factor * optimizer.micro_batch} (batch norm's, too)"
            yield OTHER_TRAINING, what, replace(planned, work=work)


def _larger_batches(planned: Estimate) -> Iterator[Tried]:
    optimizer = planned.work.recipe.optimizer
    for factor in (2, 4, 8):
        whole, micro = factor * optimizer.global_batch, factor * optimizer.micro_batch
        what = f"optimizer.global_batch={whole} and micro_batch={micro} (other learning rates, batch norm's batch)"
        yield OTHER_TRAINING, what, replace(planned, work=with_batches(planned.work, whole, micro))


def _cores(planned: Estimate) -> Iterator[Tried]:
    for more in (4, 8, 16, 32, 64, 128):
        cluster = replace(planned.cluster, cores=planned.cluster.cores + more)
        yield HARDWARE, f"{more} more cores a node", replace(planned, cluster=cluster)


def _memory(planned: Estimate) -> Iterator[Tried]:
    sizes = [size for size in (128, 256, 512, 1024, 2048) if size * 1e9 > planned.cluster.memory]
    return _hardware(planned, "memory", sizes, 1e9, "{:,} GB of memory a node")


def _storage(planned: Estimate) -> Iterator[Tried]:
    now = planned.cluster.storage
    sizes = [rate for rate in (10, 25, 50, 100, 200, 400, 800) if now is not None and rate * 1e9 / 8 > now]
    return _hardware(planned, "storage", sizes, 1e9 / 8, "storage of {} Gbit/s")


def _network(planned: Estimate) -> Iterator[Tried]:
    rates = (10, 25, 50, 100, 200, 400, 800, 1600, 3200)
    sizes = [rate for rate in rates if rate * 1e9 / 8 > planned.cluster.network]
    return _hardware(planned, "network", sizes, 1e9 / 8, "a network of {:,} Gbit/s a node")


def _hardware(planned: Estimate, key: str, sizes: Sequence[int], unit: float, what: str) -> Iterator[Tried]:
    for size in sizes:
        changed: dict[str, Any] = {key: size * unit}
        cluster = replace(planned.cluster, **changed)
        yield HARDWARE, what.format(size), replace(planned, cluster=cluster)
