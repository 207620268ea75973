"""The model: what each resource would sustain, what the run gets of them together, and how long it takes.

A step of a device is its micro-batches one after the other, what of the all-reduce the backward pass does not hide, and
the optimizer. Data are made ahead, so that decoding and reading go on at the same time, and the slowest of the three
sets the pace; on CPUs decoding takes its time from the same cores.

Not in it: the latency of messages, stragglers, other users of a link, copies to the device, and clocks that sink under
load. On many nodes it is what could be had at best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from trainer.plan.constants import (
    BACKWARD_SHARE,
    BUCKET_BYTES,
    FORWARD_AND_BACKWARD,
    LINK_EFFICIENCY,
    PROCESS_BYTES,
)
from trainer.plan.speed import Speed
from trainer.plan.work import Work


@dataclass(frozen=True)
class Cluster:
    """Nodes that are alike. Bytes and bytes/s."""

    nodes: int
    gpus_per_node: int
    """On CPUs: processes."""
    cores: float
    """Of a node."""
    memory: float
    """Of a node."""
    network: float
    """Of a node to the others, one way."""
    storage: float | None = None
    """That all nodes together read; None: not known, so not counted."""

    @property
    def world(self) -> int:
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True)
class Estimate:
    """What comes of a run on paper. Rates are images/s of all devices together."""

    work: Work
    speed: Speed
    cluster: Cluster

    @property
    def share(self) -> int:
        """Images of a global batch on each device."""
        return self.work.recipe.optimizer.global_batch // self.cluster.world

    @property
    def micro_batches(self) -> int:
        return self.share // self.work.recipe.optimizer.micro_batch

    @property
    def cores_per_device(self) -> float:
        return self.cluster.cores / self.cluster.gpus_per_node if self.speed.is_cpu else 1.0

    @property
    def compute_seconds(self) -> float:
        """Of a device, an image of a training step."""
        return self.speed.image / self.cores_per_device

    @property
    def micro_batch_seconds(self) -> float:
        """A GPU computes while the host launches what comes next: the slower of the two."""
        return max(self.work.recipe.optimizer.micro_batch * self.compute_seconds, self.speed.launch)

    @property
    def all_reduce_seconds(self) -> float:
        """Of a step's gradients, if nothing hid it."""
        return all_reduce_seconds(self.work.gradient_bytes, self.cluster, self.speed.link)

    @property
    def exposed_seconds(self) -> float:
        """Of the all-reduce, after the backward pass of the last micro-batch: at least the last bucket's."""
        whole = self.all_reduce_seconds
        if self.work.recipe.trainer.deterministic:  # done in one piece after it
            return whole
        last = whole * min(1.0, BUCKET_BYTES / self.work.gradient_bytes)
        return max(last, whole - BACKWARD_SHARE * self.micro_batch_seconds)

    @property
    def step_seconds(self) -> float:
        """Of a step, if data are always there."""
        return self.micro_batches * self.micro_batch_seconds + self.exposed_seconds + self.speed.optimizer

    @property
    def in_page_cache(self) -> bool:
        """Whether a node's memory holds the data, so that they are read from storage once."""
        room = self.cluster.memory - self.cluster.gpus_per_node * PROCESS_BYTES
        return self.work.cached_bytes <= room

    @cached_property
    def ceilings(self) -> dict[str, float]:
        """What each resource alone would sustain. Only those that can limit this run."""
        cluster, batch = self.cluster, self.work.recipe.optimizer.global_batch
        rates = {"compute": cluster.world / self.compute_seconds}
        if self.speed.launch:
            rates["launching"] = cluster.world * self.work.recipe.optimizer.micro_batch / self.speed.launch
        if self.all_reduce_seconds:
            rates["all-reduce"] = batch / self.all_reduce_seconds
        rates["optimizer"] = batch / self.speed.optimizer
        rates["decoding"] = cluster.nodes * cluster.cores / self.work.decoding
        if not self.in_page_cache and cluster.storage is not None:
            rates["storage"] = cluster.storage / self.work.read_bytes
        return rates

    @property
    def limit(self) -> str:
        """The resource with the lowest ceiling."""
        return min(self.ceilings, key=self.ceilings.__getitem__)

    @cached_property
    def images_per_s(self) -> float:
        """While training."""
        stepping = self.work.recipe.optimizer.global_batch / self.step_seconds
        if self.speed.is_cpu:
            stepping = 1 / (1 / stepping + 1 / self.ceilings["decoding"])
        return min(stepping, self.ceilings["decoding"], self.ceilings.get("storage", math.inf))

    @property
    def training_seconds(self) -> float:
        return self.work.samples / self.images_per_s

    @property
    def validation_seconds(self) -> float:
        """Of all validations, and the recalibration of batch norm: forward passes, by their multiply-adds."""
        forward = self.cluster.world * FORWARD_AND_BACKWARD / self.compute_seconds
        validating = forward * self.work.network.macs / self.work.validation_network.macs
        decoding = self.cluster.nodes * self.cluster.cores / self.work.validation_decoding
        together = 1 / (1 / validating + 1 / decoding) if self.speed.is_cpu else min(validating, decoding)
        recalibration = self.work.recalibration_images / min(forward, self.ceilings["decoding"])
        return self.work.validation_images / together + recalibration

    @property
    def seconds(self) -> float:
        """Of the whole run, without its start and its checkpoints."""
        return self.training_seconds + self.validation_seconds

    @property
    def gpu_hours(self) -> float:
        return self.cluster.world * self.seconds / 3600


def all_reduce_seconds(size: float, cluster: Cluster, link: float | None) -> float:
    """Of `size` bytes over all devices, by rings: each device sends and receives 2 (W - 1) / W of them.

    Between nodes all rings of a node share its network. Between the processes of a CPU node it is not known, and not
    counted.
    """
    bandwidth = math.inf if link is None else link
    if cluster.nodes > 1:
        bandwidth = min(bandwidth, cluster.network)
    return 2 * (cluster.world - 1) / cluster.world * size / (LINK_EFFICIENCY * bandwidth)
