"""What all ranks must decide alike, after the same step: flags that any of them may raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from trainer.errors import LostContact


class Agreement:
    """Combines flags of all ranks, on the hosts: devices are not waited for.

    It is also how a rank learns within two steps that another has died: their connection is closed.

    Args:
        timeout: seconds to wait for the others; a host that lost its power closes no connection.
    """

    def __init__(self, world_size: int, timeout: float) -> None:
        self._group: dist.ProcessGroup | None = None
        if world_size > 1:
            with lost_contact():
                made = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
            self._group = made  # type: ignore[assignment]
        self._under_way: tuple[torch.Tensor, dist.Work] | None = None

    def exchange(self, *values: int) -> list[int]:
        """Send the values, and return the highest of each over all ranks as of the last time; at first zeros.

        Nobody is waited for longer than since then: the others' values travel while the next step is computed. Alone,
        they are today's.

        Raises:
            LostContact: a rank is gone.
        """
        if self._group is None:
            return list(values)
        found = self._arrived() or [0] * len(values)
        flags = torch.tensor(values)
        with lost_contact():
            work = dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._under_way = flags, work
        return found

    def _arrived(self) -> list[int] | None:
        if self._under_way is None:
            return None
        flags, work = self._under_way
        self._under_way = None
        with lost_contact():
            work.wait()
        return [int(flag) for flag in flags]

    def highest(self, *values: int) -> list[int]:
        """The highest of each of the values over all ranks, which call this after the same steps.

        Raises:
            LostContact: a rank is gone.
        """
        if self._group is None:
            return list(values)
        self._arrived()  # all ranks have sent it, and forget it
        flags = torch.tensor(values)
        with lost_contact():
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
        return [int(flag) for flag in flags]

    def wait(self) -> None:
        """Until all ranks are here."""
        self.highest(0)


@contextmanager
def lost_contact(then: str = "The same command goes on from the last checkpoint") -> Iterator[None]:
    """Errors of torch's collectives, of any backend, become `LostContact`, which ends with what to do `then`."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        reason = " ".join(str(error).split("] ", 1)[-1].split()).split(". This is typically")[0]
        raise LostContact(
            f"lost contact with another process of the run ({reason}); what ended it is said above or in the log of "
            f"its node. {then}"
        ) from error
