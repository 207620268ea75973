"""How fast a device computes a network, from its data sheet and what it reached with ResNet-50.

An image takes the time of its arithmetic and that of its activations' way through the memory, one after the other, at
the same share of the data sheet's FLOP/s and bytes/s as ResNet-50. By FLOPs alone a ResNet-34 would be a third slower
than it is. `tests/plan` holds this against published figures of other depths.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.errors import UsageError
from trainer.plan.constants import (
    DEVICES,
    FORWARD_AND_BACKWARD,
    FORWARD_LAUNCH_SECONDS,
    OPTIMIZER_BYTES,
    PASSES,
    SINGLE_LIKE,
    Device,
    Kind,
)
from trainer.plan.cost import NetworkCost
from trainer.plan.network import network_cost
from trainer.plan.saved import Saved, StepFigure, find_device
from trainer.recipe import ModelRecipe, Precision


@dataclass(frozen=True)
class Speed:
    """Of one device (of one core, on a CPU) with one network."""

    image: float
    """Seconds of a training step's arithmetic and memory an image."""
    launch: float
    """Seconds that the host takes to launch a micro-batch's work; 0 on a CPU, which does it itself."""
    optimizer: float
    """Seconds of the optimizer a step."""
    link: float | None
    """Bytes/s one way to another device of the node."""
    is_cpu: bool
    source: str


def speed_of(name: str, network: NetworkCost, precision: Precision, saved: Saved) -> Speed:
    """What device `name` does with `network`.

    Raises:
        UsageError: it is not known, or does not compute in that precision.
    """
    device = find_device(name, saved)
    measured = saved.step(name, precision)
    kind: Kind = "half" if precision in ("bf16", "fp16") else "single"
    if measured is None:
        if precision == "tf32":
            raise UsageError(
                f"--gpu {name}: there is no figure of it in tf32; give precision=fp32 or bf16, or measure one: "
                "trainer bench step --save"
            )
        if precision == "bf16" and not device.bf16:
            raise UsageError(f"--gpu {name}: there is no figure of it in bf16; give precision=fp16 or precision=fp32")
        if device.half is None and kind == "half":
            raise UsageError(f"--gpu {name}: there is no figure of it in {precision}; give precision=fp32")
    share = _share(device, kind) if measured is None else _measured_share(device, kind, measured)
    return Speed(
        image=ideal_seconds(device, kind, network) / share,
        launch=_launch_seconds(device, kind, network, measured),
        optimizer=_optimizer_seconds(device, share, network, measured),
        link=device.link,
        is_cpu=device.is_cpu,
        source=device.source if measured is None else measured.origin,
    )


def ideal_seconds(device: Device, kind: Kind, network: NetworkCost) -> float:
    """Of a training step, an image, at the data sheet's figures."""
    rate = device.half if kind == "half" and device.half is not None else device.single
    flops = 2 * FORWARD_AND_BACKWARD * network.macs
    moved = PASSES * network.activations * (2 if kind == "half" else 4)
    return flops / rate + moved / device.bandwidth


def resnet50() -> NetworkCost:
    """ResNet-50 v1.5 at 224 pixels, as everybody publishes it."""
    return network_cost(ModelRecipe("resnet50", stride_in="3x3"), size=224, classes=1000)


def _share(device: Device, kind: Kind) -> float:
    """Of the data sheet's figures that was reached with ResNet-50."""
    if kind in device.resnet50:
        return device.resnet50[kind] * ideal_seconds(device, kind, resnet50())
    return _share(DEVICES[device.like if kind == "half" and device.like else SINGLE_LIKE], kind)


def _measured_share(device: Device, kind: Kind, figure: StepFigure) -> float:
    return ideal_seconds(device, kind, figure.network) * figure.micro_batch / (figure.seconds * figure.threads)


def _launch_seconds(device: Device, kind: Kind, network: NetworkCost, figure: StepFigure | None) -> float:
    """In proportion to the layers."""
    if device.is_cpu:
        return 0.0
    if figure is not None:
        return figure.seconds_of_one * network.layers / figure.network.layers
    return FORWARD_AND_BACKWARD * FORWARD_LAUNCH_SECONDS[kind] * network.layers / resnet50().layers


def _optimizer_seconds(device: Device, share: float, network: NetworkCost, figure: StepFigure | None) -> float:
    """In proportion to the parameters."""
    if figure is not None:
        return figure.seconds_of_optimizer * network.parameters / figure.network.parameters
    return OPTIMIZER_BYTES * network.parameters / (device.bandwidth * share)
