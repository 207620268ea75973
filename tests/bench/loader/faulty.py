"""Loaders that behave badly in every way that loaders do; a peer's name says how."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np

from trainer.bench.loader.work import Pixels, Work, reference
from trainer.data.beton import Beton
from trainer.data.order import Request
from trainer.errors import RunError

HELD_BYTES = 200 << 20
BURNT_SECONDS = 0.3


class Faulty:
    """Makes the right images except for its fault, which shows in the timed epochs unless it says `early`."""

    def __init__(self, name: str, work: Work) -> None:
        self.name, self.work = name, work
        self.beton = Beton(work.beton)
        self.epoch = 0

    def prepare(self, epoch: int) -> None:
        self.epoch = epoch

    def first_request(self) -> Request | None:
        return self.work.requests(len(self.beton), self.epoch)[0] if self.name != "own-crops" else None

    def pixels(self, batch: Pixels) -> Pixels:
        return batch

    def batches(self) -> Iterator[Pixels]:
        if self.epoch or "early" in self.name:
            misbehave(self.name)
        held = np.ones(HELD_BYTES, np.uint8) if self.name == "heavy" else None
        requests = self.work.requests(len(self.beton), self.epoch)
        if self.name == "short" or (self.name == "short-later" and self.epoch):
            requests = requests[1:]
        for request in requests:
            images = reference(self.work, self.beton, request)
            yield 255 - images if self.name == "negative" else images
        if held is not None:
            time.sleep(0.2)  # long enough to be seen
        if self.name == "restless":
            threading.Thread(target=burn, args=(BURNT_SECONDS,), daemon=True).start()


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def misbehave(name: str) -> None:
    match name.removesuffix("-early"):
        case "error":
            raise ValueError("the third image is upside down\nand more that nobody reads")
        case "refusal":
            raise RunError("photos.beton: sample 3 does not decode")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.abort()
        case "exit":
            print("goodbye", file=sys.stderr, flush=True)
            os._exit(3)
        case "thread":  # what waits for the thread would wait for ever
            threading.Thread(target=misbehave, args=("error",), daemon=True).start()
            time.sleep(600)
        case "hang":
            print("still compiling", flush=True)
            time.sleep(600)
        case "children":  # one that ends, and one that goes on
            fork = multiprocessing.get_context("fork")
            for target in (burn, burn_and_stay):
                child = fork.Process(target=target, args=(BURNT_SECONDS,), daemon=True)
                child.start()
                child.join(4 * BURNT_SECONDS)


def burn_and_stay(seconds: float) -> None:
    burn(seconds)
    time.sleep(600)


def open_variant(name: str, work: Work, workers: int) -> Faulty:
    if name == "unopenable":
        raise ImportError("libcuda.so: cannot open shared object file")
    return Faulty(name, work)
