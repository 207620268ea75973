"""The loaders that are compared. One file a library; it is imported only in the process that measures it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from trainer.bench.loader.work import Pixels, Work
from trainer.data.order import Request


class Variant(Protocol):
    """A loader that makes one epoch after another. It is given `Work` and a number of workers when it is opened."""

    def prepare(self, epoch: int) -> None:
        """Everything that a training run would do once, or while it trains: not timed."""

    def batches(self) -> Iterator[Any]:
        """The batches of the prepared epoch, in host memory as the library leaves them. Timed."""

    def pixels(self, batch: Any) -> Pixels:
        """The images of a batch: uint8 [b, size, size, 3]."""

    def first_request(self) -> Request | None:
        """What the first batch of the prepared epoch holds; None if the library draws crops that nobody can foresee."""


@dataclass(frozen=True)
class Peer:
    """A loader that can be measured."""

    name: str
    what: str
    """How the table explains it."""
    module: str
    """Has `open_variant(name, work, workers) -> Variant`."""
    needs: str = "trainer"
    """The module that must be installed."""
    install: str = ""
    """How to install it."""

    def installed(self) -> bool:
        try:
            return importlib.util.find_spec(self.needs) is not None
        except ModuleNotFoundError:  # a parent package is not there
            return False

    def open(self, work: Work, workers: int) -> Variant:
        variant: Variant = importlib.import_module(self.module).open_variant(self.name, work, workers)
        return variant


OURS: Final = Peer(
    "ours", "trainer.data.loader.Loader as the trainer uses it", "trainer.bench.loader.peers.trainer_loader"
)

_BENCH: Final = "pip install '.[bench]'"

PEERS: Final = (
    Peer(
        "ffcv",
        "stock FFCV Loader, os_cache, its own random crops (whole image decoded, cv2 INTER_AREA)",
        "trainer.bench.loader.peers.ffcv_loader",
        "ffcv",
        "pip install '.[ffcv]'",
    ),
    Peer(
        "ffcv+ours",
        "stock FFCV Loader, os_cache, with the decoders of trainer.data.ffcv_ops",
        "trainer.bench.loader.peers.ffcv_loader",
        "ffcv",
        "pip install '.[ffcv]'",
    ),
    Peer(
        "torchvision",
        "DataLoader processes, Pillow (pillow-simd if installed): whole image decoded, box resized antialiased",
        "trainer.bench.loader.peers.torchvision_loader",
        "torchvision",
        "pip install .",
    ),
    Peer(
        "torchvision-io",
        "DataLoader processes, io.decode_jpeg and resized_crop, antialiased",
        "trainer.bench.loader.peers.torchvision_loader",
        "torchvision",
        "pip install .",
    ),
    Peer(
        "dali",
        "CPU pipeline, decoders.image_slice and resize, antialiased",
        "trainer.bench.loader.peers.dali_pipeline",
        "nvidia.dali",
        _BENCH,
    ),
    Peer(
        "tensorflow",
        "tf.data from memory, decode_and_crop_jpeg and bilinear resize, not antialiased",
        "trainer.bench.loader.peers.tensorflow_data",
        "tensorflow",
        _BENCH,
    ),
)
"""In the order of the table."""
