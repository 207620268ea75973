"""What a person reads when something is wrong."""

from __future__ import annotations

import contextlib
import errno
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.samples import PYTHON, REPOSITORY
from trainer.errors import NotBuilt, RunError, UsageError, did_you_mean, run_command


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("x.beton: not a beton"), 2, "error: x.beton: not a beton\n"),
        (RunError("the loss is nan"), 1, "error: the loss is nan\n"),
        (OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl"), 1, "error: metrics.jsonl: No space left"),
        (NotBuilt("its C library is not built"), 2, "error: its C library is not built\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_errors_for_people_are_one_line_and_a_status(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: raising(error)) == status
    assert capsys.readouterr().err.startswith(message)


def test_an_interrupt_is_told_as_such_whatever_a_library_makes_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    def library() -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise KeyError("left half-way")

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run_command(library) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: raising(ZeroDivisionError()))
    with pytest.raises(ModuleNotFoundError):
        run_command(lambda: raising(ModuleNotFoundError("No module named 'it'", name="it")))


def import_without_library(folder: Path, content: bytes | None) -> str:
    """What a command says in a checkout whose C library is missing or damaged."""
    shutil.copytree(REPOSITORY / "trainer", folder / "trainer", ignore=shutil.ignore_patterns("_jpegcrop*.so", "src"))
    if content is not None:
        (folder / "trainer" / "jpeg" / "_jpegcrop.abi3.so").write_bytes(content)
    command = [PYTHON, "-m", "trainer", "evaluate", "run", "--data", "val.beton"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    return found.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "C library is not built; build it with `make setup`"), (b"\x7fELF", "does not load")],
)
def test_a_library_that_is_not_there_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    told = import_without_library(tmp_path, content)
    assert message in told
    assert told.count("\n") == 1


def test_the_nearest_name_is_offered_and_else_all() -> None:
    assert did_you_mean("resnet5", ["resnet50", "plain18"]) == " (did you mean 'resnet50'?)"
    assert did_you_mean("zzz", ["a", "b"]) == " (known: a, b)"
