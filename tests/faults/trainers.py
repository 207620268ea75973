"""Real trainers to be broken: processes that run `python -m trainer train` on tiny data.

They are forked from a server that has imported torch once, so that each starts in a fraction of a second.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.preloaded"])

TINY = [
    "model.name=cifar_resnet20",
    "data.size=16",
    "data.crop=padded",
    "data.padding=2",
    "data.threads=1",
    "optimizer.global_batch=16",
    "optimizer.micro_batch=4",
    "optimizer.lr=0.02",
    "schedule.budget=24it",
    "schedule.kind=plateau",
    "schedule.patience=1",
    "schedule.threshold=0.5",
    "evaluation.every=6it",
    "evaluation.resize=16",
    "evaluation.batch=4",
    "checkpoint.every=4it",
    "checkpoint.keep=3",
    "log.every=1it",
    "log.seconds=0.001",
    "trainer.deterministic=true",
    "trainer.timeout=60",
]


@dataclass
class Trainer:
    """A running trainer of one process or several ranks."""

    ranks: list[BaseProcess]
    outputs: list[Path]

    def wait(self, timeout: float = 120) -> list[int | None]:
        """The exit codes of the ranks. One that does not end is killed, and the test fails."""
        deadline = time.monotonic() + timeout
        for rank in self.ranks:
            rank.join(max(deadline - time.monotonic(), 0.01))
        late = [rank for rank in self.ranks if rank.exitcode is None]
        for rank in late:
            rank.kill()
            rank.join()
        assert not late, f"still running after {timeout} s:\n{self.output}"
        return [rank.exitcode for rank in self.ranks]

    def signal(self, number: int, rank: int = 0) -> None:
        pid = self.ranks[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def kill(self) -> None:
        """As the kernel does when memory is short: no word, no cleaning up."""
        for rank in range(len(self.ranks)):
            self.signal(signal.SIGKILL, rank)
        for process in self.ranks:
            process.join()

    @property
    def output(self) -> str:
        """What all ranks have printed."""
        return "".join(path.read_text() for path in self.outputs if path.exists())


@dataclass
class Trainers:
    """Starts trainers on the betons of `data`, with run folders in `runs`."""

    data: Path
    runs: Path
    started: list[Trainer] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    """Of the environment, beside what the launcher tells."""

    def start(self, name: str, *overrides: str, world_size: int = 1) -> Trainer:
        recipe = self.runs / "tiny.yaml"
        recipe.write_text("# all of it is in overrides\n{}\n")
        values = [f"data.train={self.data}/train.beton", f"data.val={self.data}/val.beton", f"runs={self.runs}"]
        return self.launch(name, ["train", str(recipe), f"name={name}", *TINY, *values, *overrides], world_size)

    def launch(self, name: str, arguments: list[str], world_size: int) -> Trainer:
        """Any command of `python -m trainer`, on several ranks; their outputs are files of this `name`."""
        trainer = Trainer([], [])
        port = free_port()
        for rank in range(world_size):
            output = self.runs / f"{name}.{len(self.started)}.{rank}.txt"
            variables = {**environment(rank, world_size, port), **self.variables}
            process = CONTEXT.Process(target=run, args=(arguments, output, variables))
            process.start()
            trainer.ranks.append(process)
            trainer.outputs.append(output)
        self.started.append(trainer)
        return trainer

    def finish(self, name: str, *overrides: str, world_size: int = 1) -> Trainer:
        """Train to the end."""
        trainer = self.start(name, *overrides, world_size=world_size)
        assert trainer.wait() == [0] * world_size, trainer.output
        return trainer

    def end(self) -> None:
        """Nothing is left behind, whatever a test did."""
        for trainer in self.started:
            for rank in trainer.ranks:
                rank.kill()
                rank.join()

    def steps(self, name: str) -> int:
        """Steps that the run has logged, over all starts."""
        return sum(line["kind"] == "train" for line in self.lines(name))

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.runs / name / "metrics.jsonl"
        return [json.loads(line) for line in whole_lines(path)] if path.exists() else []

    def losses(self, name: str) -> dict[int, float]:
        """The loss of every step; of one that was done again, all were equal."""
        losses: dict[int, float] = {}
        for line in self.lines(name):
            if line["kind"] == "train":
                assert losses.setdefault(line["step"], line["loss"]) == line["loss"]
        return losses

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return self.state(name)["model"]  # type: ignore[no-any-return]

    def state(self, name: str) -> dict[str, Any]:
        from trainer import checkpoint

        newest, _ = checkpoint.newest_intact(self.runs / name)
        assert newest is not None
        return checkpoint.load(newest)


def run(arguments: list[str], output: Path, variables: dict[str, str]) -> None:
    """In the new process: what `python -m trainer` does, with its output in a file."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(variables)
    # A shell starts what it puts into the background with SIGINT ignored, and the tests may run there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    from trainer.__main__ import main

    torch.set_num_threads(1)
    status = main(arguments)
    sys.stdout.flush()
    os._exit(status) if status else sys.exit(0)


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What the launcher tells a process."""
    if world_size == 1:
        return {"ACCELERATE_USE_CPU": "true"}
    return {
        "ACCELERATE_USE_CPU": "true",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit, buffers included."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def whole_lines(path: Path) -> list[str]:
    """Without one that is being written."""
    lines = path.read_text().split("\n")[:-1]
    return [line for line in lines if line.startswith("{") and line.endswith("}")]


def until(condition: Callable[[], bool], timeout: float = 60, poll: float = 0.005) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(poll)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """`folder` as a file system of its own; root only."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount() -> bool:
    """Whether this user may mount: root, with the capability (a container's root may lack it)."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
        if tried.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return tried.returncode == 0
