"""Conversions that are disturbed: each ends in seconds with the reason, and leaves only what was there before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import PIL.Image
import pytest

from data_prep.convert import Options, convert
from tests.faults.trainers import can_mount, mounted, until
from tests.samples import PYTHON, REPOSITORY, smooth_image
from trainer.errors import UsageError

SOON = 20
"""Seconds within which a fault has to be noticed, on any machine."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough work for many seconds: 5000 images of 1.2 MB, all one file."""
    folder = tmp_path_factory.mktemp("images") / "n01"
    folder.mkdir()
    PIL.Image.fromarray(smooth_image(640, 640, 0)).save(folder / "first.bmp")
    for i in range(5000):
        os.link(folder / "first.bmp", folder / f"{i}.bmp")
    return folder.parent


@dataclass
class Conversion:
    """`python -m data_prep convert` at work, in a session of its own, with two worker processes."""

    process: subprocess.Popen[str]
    out: Path

    @property
    def children(self) -> list[int]:
        """Its processes: workers, and multiprocessing's resource tracker."""
        try:
            return [
                int(pid)
                for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            ]
        except FileNotFoundError:
            return []

    @property
    def workers(self) -> list[int]:
        return [pid for pid in self.children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    @property
    def written(self) -> int:
        return sum(path.stat().st_size for path in self.out.parent.glob(f".{self.out.name}.partial-*"))

    def error(self, status: int) -> str:
        """Its one line of error, once it has ended, which it does soon; no process of it is left."""
        children, began = self.children, time.monotonic()
        _, said = self.process.communicate(timeout=60)
        assert time.monotonic() - began < SOON
        assert self.process.returncode == status, said
        assert "Traceback" not in said
        until(lambda: not any(map(is_running, children)), timeout=SOON)
        assert said.count("error: ") == 1
        return said.splitlines()[-1]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start(images: Path, out: Path, *options: str) -> Conversion:
    command = [PYTHON, "-m", "data_prep", "convert", str(images), str(out), "--raw", "--max-short-side", "0"]
    # A shell starts what it puts into the background with SIGINT ignored, and the tests may run there.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        [*command, "--workers", "2", *options],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listen,
    )
    return Conversion(process, out)


@pytest.fixture
def running(images: Path, tmp_path: Path) -> Iterator[Conversion]:
    conversion = start(images, tmp_path / "x.beton")
    try:
        until(lambda: len(conversion.workers) == 2 and conversion.written > 9 << 20)
        yield conversion
    finally:
        conversion.process.kill()
        conversion.process.communicate()


def test_a_killed_worker(running: Conversion) -> None:
    os.kill(running.workers[0], signal.SIGKILL)
    said = running.error(1)
    assert said.startswith("error: a worker process was killed by SIGKILL while it worked on images ")
    assert "n01/" in said
    assert said.endswith("; if the memory ran out, use fewer --workers")
    assert not list(running.out.parent.iterdir())


def test_ctrl_c(running: Conversion) -> None:
    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does: to all processes
    assert running.error(130) == "error: interrupted"
    assert not list(running.out.parent.iterdir())


def test_sigterm(running: Conversion) -> None:
    running.process.terminate()
    assert running.error(1) == "error: terminated by SIGTERM"
    assert not list(running.out.parent.iterdir())


def test_sigterm_to_all_of_its_processes(running: Conversion) -> None:
    """As a batch system ends a job: it may be a worker's end that is noticed first."""
    os.killpg(running.process.pid, signal.SIGTERM)
    assert running.error(1) == "error: terminated by SIGTERM"
    assert not list(running.out.parent.iterdir())


def test_a_killed_conversion_leaves_no_final_name_and_no_process_and_is_told_of(
    running: Conversion, capsys: pytest.CaptureFixture[str]
) -> None:
    children = running.children
    running.process.kill()
    running.process.wait()
    until(lambda: not any(map(is_running, children)), timeout=SOON)
    (left,) = running.out.parent.iterdir()
    assert left.name == f".x.beton.partial-{running.process.pid}"
    with pytest.raises(UsageError):
        convert(Options(running.out.parent / "nowhere", running.out))
    assert f"note: {left} (" in capsys.readouterr().err


@pytest.mark.skipif(not can_mount(), reason="needs to mount a small file system, as root")
def test_a_disk_that_fills_up_leaves_what_was_there_before(images: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=40m") as disk:
        few = tmp_path / "few"
        shutil.copytree(images / "n01", few / "n01", ignore=lambda _, names: sorted(names)[4:])
        convert(Options(few, disk / "x.beton"))
        before = {path.name: path.read_bytes() for path in disk.iterdir()}
        conversion = start(images, disk / "x.beton", "--overwrite")
        assert conversion.error(1) == f"error: {disk}/x.beton: cannot write it: No space left on device"
        assert {path.name: path.read_bytes() for path in disk.iterdir()} == before
