"""The loop goes on while a checkpoint is written, and hears of what went wrong."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.trainers import can_mount, mounted, until
from trainer import checkpoint
from trainer.errors import RunError
from trainer.saver import Saver


class Gate:
    """A value of the state that is not written before the gate opens: a disk as slow as a test needs it."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        assert self.opened.wait(60)
        return OrderedDict, ()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()  # no thread stays behind


def state(step: int, **values: object) -> dict[str, Any]:
    return {**dict.fromkeys(checkpoint.KEYS), "step": step, "samples": 16 * step, **values}


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def test_it_does_not_wait_for_the_disk(tmp_path: Path, gate: Gate) -> None:
    saver = Saver(tmp_path, keep=2)
    assert saver.is_idle
    began = saver.ended
    saver.save(state(1, model=gate, best={"step": 1}))
    assert not saver.is_idle
    assert names(tmp_path) == []
    assert saver.ended == began
    gate.opened.set()
    saver.wait()
    assert saver.is_idle
    assert saver.ended > began
    assert checkpoint.load(tmp_path / "checkpoints" / "best")["step"] == 1


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda tensor: tensor,
    "channels_last": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "transposed": lambda tensor: tensor.transpose(1, 3),
    "strided": lambda tensor: tensor[:, ::2, 1:],
    "expanded": lambda tensor: tensor[:1].expand(5, -1, -1, -1),
    "parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_changes_afterwards_is_written_as_it_was(tmp_path: Path, gate: Gate, layout: str) -> None:
    tensor = LAYOUTS[layout](torch.randn(2, 4, 6, 8))
    expected = tensor.detach().clone()
    momenta, rows = {"momentum_buffer": tensor}, [tensor, {"deeper": (tensor, [1])}]
    saver = Saver(tmp_path, keep=2)
    given = state(
        1, model={"w": tensor, "again": tensor}, optimizer={"state": {0: momenta}}, schedule=rows, scaler=gate
    )
    saver.save(given)
    torch.as_strided(tensor.detach(), (tensor.untyped_storage().nbytes() // 4,), (1,), 0).fill_(7)  # all there is
    rows[1]["deeper"][1][0] = 2
    rows.append("more")
    momenta.clear()
    given["step"] = 99
    gate.opened.set()
    saver.wait()
    loaded = checkpoint.load(tmp_path)
    one, deeper = loaded["schedule"]
    two, numbers = deeper["deeper"]
    written = [*loaded["model"].values(), loaded["optimizer"]["state"][0]["momentum_buffer"], one, two]
    assert all(torch.equal(found, expected) for found in written)
    assert (loaded["step"], numbers, len(written)) == (1, [1], 5)
    assert all(not found.requires_grad for found in written)


def test_one_is_written_at_a_time(tmp_path: Path, gate: Gate) -> None:
    saver = Saver(tmp_path, keep=3)
    saver.save(state(1, model=gate))
    threading.Timer(0.1, gate.opened.set).start()
    saver.save(state(2))
    assert "step-00000001" in names(tmp_path)
    saver.save(state(3))
    saver.wait()
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]
    assert checkpoint.load(tmp_path)["step"] == 3


def test_waiting_for_nothing_is_nothing(tmp_path: Path) -> None:
    saver = Saver(tmp_path, keep=3)
    saver.check()
    saver.wait()
    saver.wait()


def test_it_can_be_given_some_time_whatever_becomes_of_it(tmp_path: Path, gate: Gate) -> None:
    saver = Saver(tmp_path, keep=3)
    saver.settle(60)
    saver.save(state(1, model=gate))
    saver.settle(0.01)
    assert not saver.is_idle
    gate.opened.set()
    saver.settle(60)
    assert names(tmp_path) == ["step-00000001"]
    saver.save(state(2, model=threading.Lock()))
    saver.settle(60)  # what went wrong is for others to ask
    with pytest.raises(TypeError):
        saver.check()


def fail(saver: Saver, run: Path) -> None:
    """A checkpoint that cannot be written: a file lies where the folder should be."""
    (run / "checkpoints").write_text("in the way")
    saver.save(state(1))
    until(lambda: saver.is_idle)


ASKED: dict[str, Callable[[Saver], None]] = {
    "check": Saver.check,
    "wait": Saver.wait,
    "save": lambda saver: saver.save(state(2)),
}


@pytest.mark.parametrize("asked", ASKED)
def test_an_error_is_raised_once_by_whatever_asks_first(tmp_path: Path, asked: str) -> None:
    saver = Saver(tmp_path, keep=2)
    began = saver.ended
    fail(saver, tmp_path)
    with pytest.raises(RunError, match="step-00000001: cannot write the checkpoint: File exists"):
        ASKED[asked](saver)
    saver.check()
    saver.wait()
    assert (tmp_path / "checkpoints").read_text() == "in the way"
    assert saver.ended == began
    (tmp_path / "checkpoints").unlink()
    saver.save(state(3))
    saver.wait()
    assert names(tmp_path) == ["step-00000003"]


def test_an_error_of_ours_is_not_lost_either(tmp_path: Path) -> None:
    saver = Saver(tmp_path, keep=2)
    saver.save(state(1, model=threading.Lock()))
    with pytest.raises(TypeError, match="pickle"):
        saver.wait()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("needs the right to mount")
    with mounted(tmp_path / "run", "size=1m") as run:
        saver = Saver(run, keep=2)
        saver.save(state(1, model=torch.ones(100_000)))
        saver.wait()
        saver.save(state(2, model=torch.ones(200_000)))
        with pytest.raises(RunError, match=r"step-00000002: cannot write .* bytes are free on this disk"):
            saver.wait()
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last", "step-00000001"]
        assert checkpoint.newest_intact(run) == (run / "checkpoints/step-00000001", [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_on_a_gpu_is_written_as_it_was_though_the_next_step_is_under_way(tmp_path: Path) -> None:
    weights, factor = torch.zeros(4096, 4096, device="cuda"), torch.rand(4096, 4096, device="cuda")
    saver = Saver(tmp_path, keep=2)
    for step in range(1, 4):
        for _ in range(20):  # work that is still queued when save() is called
            factor = factor @ factor / 2048
        weights.fill_(step)
        saver.save(state(step, model={"w": weights}))
        for _ in range(20):
            weights.add_(factor @ factor)
        saver.wait()
        loaded = checkpoint.load(tmp_path)["model"]["w"]
        assert loaded.device.type == "cpu"
        assert (loaded == step).all()
