"""The same run on 1 to 1024 devices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from trainer.plan.model import Cluster, Estimate
from trainer.plan.work import Work

MOST: Final = 1024


@dataclass(frozen=True)
class Point:
    """So many devices, each with the share of a batch that it has in the plan."""

    estimate: Estimate
    fits: bool
    """The recipe's own global batch can be shared among so many. Else they take another, which trains otherwise."""

    @property
    def world(self) -> int:
        return self.estimate.cluster.world

    @property
    def global_batch(self) -> int:
        return self.estimate.work.recipe.optimizer.global_batch


def scaling_curve(planned: Estimate) -> list[Point]:
    """With as much work for each device as in `planned`; a part of a node has that part of its cores."""
    per_node = planned.cluster.gpus_per_node
    worlds = [2**power for power in range(11) if 2**power < per_node]
    worlds += [per_node * 2**power for power in range(11) if per_node * 2**power <= MOST]
    return [_point(planned, world) for world in worlds]


def with_batches(work: Work, global_batch: int, micro_batch: int) -> Work:
    """The same recipe with other batches."""
    optimizer = replace(work.recipe.optimizer, global_batch=global_batch, micro_batch=micro_batch)
    return replace(work, recipe=replace(work.recipe, optimizer=optimizer))


def _point(planned: Estimate, world: int) -> Point:
    optimizer = planned.work.recipe.optimizer
    work = with_batches(planned.work, world * planned.share, optimizer.micro_batch)
    fits = optimizer.global_batch // optimizer.micro_batch % world == 0
    return Point(Estimate(work, planned.speed, part_of(planned.cluster, world)), fits)


def part_of(cluster: Cluster, world: int) -> Cluster:
    """So many devices of such nodes."""
    per_node = min(world, cluster.gpus_per_node)
    cores = cluster.cores * per_node / cluster.gpus_per_node
    memory = cluster.memory * per_node / cluster.gpus_per_node
    return replace(cluster, nodes=world // per_node, gpus_per_node=per_node, cores=cores, memory=memory)
