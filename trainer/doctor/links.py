"""What is between the processes of a run: their clocks, and how fast they sum up gradients.

Both are measured by all processes together, with the devices and the backend that training uses.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist

from trainer.agreement import Agreement
from trainer.doctor.check import Check, fail, ok, reason, warn

RESNET50_PARAMETERS: Final = 25_557_032
"""One gradient of ResNet-50 in float32 is 102 MB; DDP sums it up in every optimizer step, in parts and partly while the
backward pass still computes."""

MEASURED_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 60.0
"""Links that do not carry one such gradient in this time are not there, or as good as."""

CLOCK_ROUNDS: Final = 10
MOST_SKEW: Final = 1.0
"""Seconds. Times of files, lines of logs and deadlines of the rendezvous are compared between nodes."""

FLOORS: Final = {"one node": 4.0, "several nodes": 1.25, "cpu": 0.1}
"""Bus bandwidth, GB/s, below which something is set up wrongly: four lanes of PCIe 3.0 (3.94 GB/s), where a GPU has
sixteen; 10 Gbit/s Ethernet, the slowest that GPU nodes are built with; and most of 1 Gbit/s Ethernet (0.125 GB/s)."""


@dataclass(frozen=True)
class Links:
    """What one process measured."""

    clock: list[tuple[float, float]]
    """Its time, in s since the epoch, when it came to each barrier and when it left it."""
    seconds: float
    """A sum of one gradient over all processes."""


def measure_links(device: torch.device, world_size: int) -> Links:
    """Called by all processes together. Ends with an error, not with a hang, when the links do not work.

    Raises:
        Exception: whatever the backend says, or that it did not answer in time. Then processes may be stuck inside of
            the backend, and must be ended without its leave (os._exit).
    """

    def measure() -> Links:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
        _sum_up(device, world_size)
        Agreement(world_size, PATIENCE_SECONDS).wait()  # the hosts' own connections, by which ranks agree to stop
        return Links(_read_clocks(device), _time_sums(device))

    return within(PATIENCE_SECONDS, measure)


def within(seconds: float, work: Callable[[], Links]) -> Links:
    """`work` in a thread, which is left behind when it takes longer. Errors in it are raised here."""
    results: list[Links] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="links", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer from the other processes in {seconds:g} s")
    return results[0]


def judge_clocks(clocks: list[list[tuple[float, float]]], hosts: list[str]) -> Check:
    """The largest difference between the clocks of any two `hosts` that the barriers prove.

    At some moment all processes were inside of a barrier, so at that moment each clock showed a time between its own
    coming and leaving. What those spans leave open, mostly the time of a round trip, is not counted as a difference.
    """
    worst, pair, most = 0.0, (0, 0), 0.0
    for a in range(len(clocks)):
        for b in range(a):
            low = max(first[0] - second[1] for first, second in zip(clocks[a], clocks[b], strict=True))
            high = min(first[1] - second[0] for first, second in zip(clocks[a], clocks[b], strict=True))
            most = max(most, abs(low), abs(high))
            if max(low, -high) > worst:
                worst, pair = max(low, -high), (a, b)
    if worst <= MOST_SKEW:
        return ok("clocks", f"at most {most * 1000:,.1f} ms apart")
    between = f"{hosts[pair[1]]} and {hosts[pair[0]]}"
    return warn(
        "clocks",
        f"{between}: {worst:,.1f} s apart",
        "synchronise them (chrony, ntp): times of files and logs mislead, and the rendezvous may time out",
    )


def judge_sums(seconds: float, world_size: int, nodes: int, device: str, backend: str) -> Check:
    """The bus bandwidth of an all-reduce, 2 (n-1)/n of its bytes over its time, as nccl-tests defines it
    (doc/PERFORMANCE.md): what one link carries, whatever the number of processes."""
    kind = "cpu" if device == "cpu" else "one node" if nodes == 1 else "several nodes"
    taken = 4 * RESNET50_PARAMETERS
    bandwidth = 2 * (world_size - 1) / world_size * taken / seconds / 1e9
    found = (
        f"{bandwidth:,.2f} GB/s bus bandwidth ({backend}, {world_size} processes); "
        f"{seconds * 1000:,.1f} ms for a gradient of ResNet-50 ({taken / 1e6:.0f} MB)"
    )
    if bandwidth >= FLOORS[kind]:
        return ok("all-reduce", found)
    advice = {
        "one node": "see the links with `nvidia-smi topo -m`, and with NCCL_DEBUG=INFO which of them NCCL takes",
        "several nodes": "name the fast interface in NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO shows which one is taken",
        "cpu": "name the fast interface in GLOO_SOCKET_IFNAME",
    }[kind]
    return warn("all-reduce", f"{found}; expected {FLOORS[kind]:g} GB/s or more", advice)


def broken(error: str) -> Check:
    """The line for links that did not work."""
    return fail(
        "all-reduce",
        error,
        "see that the nodes reach each other on all ports, name their interface in NCCL_SOCKET_IFNAME and "
        "GLOO_SOCKET_IFNAME, and read what NCCL_DEBUG=INFO says",
    )


def error_text(error: Exception) -> str:
    """An error of a backend, without its C++ frames."""
    return reason(error).split(" Exception raised from")[0][:300]


def _sum_up(device: torch.device, world_size: int) -> None:
    """The first all-reduce, which makes the connections; and whether its sum is right."""
    ones = torch.ones(RESNET50_PARAMETERS, device=device)
    dist.all_reduce(ones)
    if not bool((ones == world_size).all()):
        raise RuntimeError("the processes' sum is wrong: memory, PCIe or network damage data (try NCCL_P2P_DISABLE=1)")


def _read_clocks(device: torch.device) -> list[tuple[float, float]]:
    clock = []
    for _ in range(CLOCK_ROUNDS):
        came = time.time()
        _barrier(device)
        clock.append((came, time.time()))
    return clock


def _time_sums(device: torch.device) -> float:
    """Seconds that one all-reduce of the gradient takes, of about two seconds of them."""
    gradient = torch.zeros(RESNET50_PARAMETERS, device=device)
    count = 1
    for _ in range(2):  # once to see how many go into the time
        _barrier(device)
        began = time.perf_counter()
        for _ in range(count):
            dist.all_reduce(gradient)
        _barrier(device)
        seconds = torch.tensor([(time.perf_counter() - began) / count], device=device)
        dist.all_reduce(seconds, dist.ReduceOp.MAX)  # so that all agree on the count
        count = max(1, min(1000, int(MEASURED_SECONDS / seconds.item())))
    return float(seconds.item())


def _barrier(device: torch.device) -> None:
    """All have come here, and all that they gave their devices to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        dist.barrier(device_ids=[device.index])
        torch.cuda.synchronize(device)
    else:
        dist.barrier()
