"""What a person reads when something is wrong."""

from __future__ import annotations

import contextlib
import errno
import signal

import pytest

from trainer.errors import RunError, UsageError, did_you_mean, run_command


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("x.beton: not a beton"), 2, "error: x.beton: not a beton\n"),
        (RunError("the loss is nan"), 1, "error: the loss is nan\n"),
        (OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl"), 1, "error: metrics.jsonl: No space left"),
        (ImportError("its C library is not built", name="trainer.jpeg"), 2, "error: its C library is not built\n"),
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


def test_the_nearest_name_is_offered_and_else_all() -> None:
    assert did_you_mean("resnet5", ["resnet50", "plain18"]) == " (did you mean 'resnet50'?)"
    assert did_you_mean("zzz", ["a", "b"]) == " (known: a, b)"
