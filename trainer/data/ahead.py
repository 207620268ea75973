"""One thread that makes batches ahead of their consumer, in memory that is used again."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Generic, TypeAlias, TypeVar

from trainer.data.order import Request
from trainer.data.transfer import ThreadDied, Transfer, next_from
from trainer.errors import RunError
from trainer.jpeg import Pool

Slot = TypeVar("Slot")
"""Memory of one batch."""
Made = TypeVar("Made")
"""What is known of a batch that lies in its slot."""


class Ahead(Generic[Slot, Made]):
    """Makes one batch a request, as many ahead as there are slots.

    Args:
        slots_for: the slots, once the first request is known.
        make: fills a slot as a request says, with the pool's threads.
        threads: of the pool.
        source: what is read, for messages.
    """

    def __init__(
        self,
        slots_for: Callable[[Request], Sequence[Slot]],
        make: Callable[[Slot, Request, Pool], Made],
        transfer: Transfer,
        threads: int,
        source: str,
    ) -> None:
        self._slots_for, self._make = slots_for, make
        self._transfer, self._threads, self._source = transfer, threads, source

    def run(self, requests: Iterable[Request]) -> Generator[tuple[Slot, Made, float], None, None]:
        """Yield slot, what was made, and the seconds that it was waited for; the slot is free with the next one.

        An error in any thread is raised here, in place of the next batch. Closing the generator ends the thread.
        """
        ready: queue.SimpleQueue[_Item[Slot, Made]] = queue.SimpleQueue()
        free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        left = threading.Event()
        work = (requests, ready, free, left)
        producer = threading.Thread(target=self._produce, args=work, name="loader", daemon=True)
        producer.start()
        try:
            while True:
                began = time.perf_counter()
                item = next_from(ready, producer)
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                slot, made = item
                yield slot, made, time.perf_counter() - began
                free.put(slot)
        except ThreadDied as error:
            raise RunError(f"{self._source}: the loader's thread died") from error
        finally:
            left.set()
            free.put(None)
            producer.join()

    def _produce(
        self,
        requests: Iterable[Request],
        ready: queue.SimpleQueue[_Item[Slot, Made]],
        free: queue.SimpleQueue[Slot | None],
        left: threading.Event,
    ) -> None:
        try:
            self._transfer.enter_thread()
            with Pool(self._threads) as pool:
                pending = iter(requests)
                first = next(pending, None)
                if first is not None:
                    for slot in self._slots_for(first):
                        free.put(slot)
                    for request in itertools.chain([first], pending):
                        free_slot = free.get()
                        if free_slot is None or left.is_set():
                            return
                        ready.put((free_slot, self._make(free_slot, request, pool)))
            ready.put(None)
        except BaseException as error:
            ready.put(error)


_Item: TypeAlias = tuple[Slot, Made] | BaseException | None
