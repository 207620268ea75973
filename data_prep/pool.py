"""Tasks in, results out in the same order, computed by processes; whatever dies, nothing hangs.

`concurrent.futures` will not do: if a worker is killed while it sends a large result, its executor waits for the rest
of that result for ever, since all workers share one pipe. Here each has its own, which ends with it. A worker that
reads the end of its pipe ends too, so none outlives its parent.
"""

from __future__ import annotations

import os
import pickle
import signal
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Generic, TypeVar

from trainer.allocator import keep_freed_memory
from trainer.errors import RunError, UsageError

Task = TypeVar("Task")
Result = TypeVar("Result")

RESULTS_BYTES: Final = 256 << 20
"""Memory that results may take while they wait for their turn; the workers rest rather than exceed it by much."""

_CONTEXT: Final = get_context("spawn")  # forking a process that has threads may deadlock
_DONE, _FAILED, _BUG = range(3)


def map_in_order(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    size: Callable[[Result], int],
    describe: Callable[[Task], str],
) -> Generator[tuple[Task, Result], None, None]:
    """Yield each task with `function(task)`, in the order of `tasks`. Close the iterator to end the workers early.

    Args:
        function: of a module's top level.
        tasks: drawn only as workers become idle.
        size: bytes of a result.
        describe: names a task in errors.

    Raises:
        RunError: a worker died.
        UsageError, RunError: `function` raised it.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # or NumPy starts a thread a core in every worker
    crew: list[_Worker[Task]] = []
    try:
        _start(crew, workers, function, describe)
        yield from _results(crew, enumerate(tasks), size)
    finally:
        for worker in crew:
            worker.end()


def _start(
    crew: list[_Worker[Task]], workers: int, function: Callable[[Task], Any], describe: Callable[[Task], str]
) -> None:
    try:
        for _ in range(workers):
            crew.append(_Worker(function, describe))
    except OSError as error:
        raise RunError(f"cannot start {workers} worker processes: {error.strerror}; use fewer --workers") from error


def _results(
    crew: list[_Worker[Task]], tasks: Iterator[tuple[int, Task]], size: Callable[[Any], int]
) -> Iterator[tuple[Task, Any]]:
    waiting: dict[int, tuple[Task, Any]] = {}
    turn, begun, largest, exhausted = 0, 0, 1, False
    while True:
        ahead = min(max(RESULTS_BYTES // largest, 1), 2 * len(crew))
        for worker in crew:
            if worker.task is None and begun - turn < ahead and not exhausted:
                numbered = next(tasks, None)
                exhausted = numbered is None
                if numbered is not None:
                    worker.begin(*numbered)
                    begun += 1
        if turn in waiting:
            yield waiting.pop(turn)
            turn += 1
            continue
        busy = {worker.connection: worker for worker in crew if worker.task is not None}
        if not busy:
            return
        for connection in wait(list(busy)):
            number, task, result = busy[connection].finish()  # type: ignore[index]
            waiting[number] = task, result
            largest = max(largest, size(result))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C, which a terminal sends to all; the parent sees it afterwards."""
    resource_tracker.ensure_running()  # else the first start would do it, which unblocks them
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class _Worker(Generic[Task]):
    """A process, seen from its parent."""

    def __init__(self, function: Callable[[Task], Any], describe: Callable[[Task], str]) -> None:
        self.connection, other_end = _CONTEXT.Pipe()
        self.task: tuple[int, Task] | None = None
        self._describe = describe
        self._process = _CONTEXT.Process(target=_serve, args=(other_end, function), daemon=True)
        with _interrupts_blocked():
            self._process.start()
        other_end.close()

    def begin(self, number: int, task: Task) -> None:
        self.task = number, task
        try:
            self.connection.send(task)
        except BrokenPipeError:
            raise self._died() from None

    def finish(self) -> tuple[int, Task, Any]:
        assert self.task is not None
        number, task = self.task
        try:
            outcome, value = _receive(self.connection)
        except (EOFError, OSError):  # the end of the pipe, or that in the middle of a result
            raise self._died() from None
        if outcome == _FAILED:
            raise value
        if outcome == _BUG:
            raise RuntimeError(f"in a worker process, with {self._describe(task)}:\n{value}")
        self.task = None
        return number, task, value

    def end(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join()

    def _died(self) -> RunError:
        assert self.task is not None
        self._process.join()
        code = self._process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        hint = "; if the memory ran out, use fewer --workers" if code == -signal.SIGKILL else ""
        return RunError(f"a worker process {how} while it worked on {self._describe(self.task[1])}{hint}")


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """The worker: answer each task until the parent closes the pipe, or is gone."""
    keep_freed_memory()
    warnings.simplefilter("ignore")  # Pillow's, on metadata that is not used; what counts it raises
    try:
        while True:
            _send(connection, _outcome(function, connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _send(connection: Connection, value: Any) -> None:
    """As `Connection.send`, but what `value` holds as PickleBuffer goes into the pipe from where it lies."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    connection.send((content, len(buffers)))
    for buffer in buffers:
        connection.send_bytes(buffer.raw())


def _receive(connection: Connection) -> Any:
    content, buffers = connection.recv()
    return pickle.loads(content, buffers=[connection.recv_bytes() for _ in range(buffers)])


def _outcome(function: Callable[[Any], Any], task: Any) -> tuple[int, Any]:
    try:
        return _DONE, function(task)
    except (RunError, UsageError) as error:
        return _FAILED, error
    except Exception:
        return _BUG, traceback.format_exc()
