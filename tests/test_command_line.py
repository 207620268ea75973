"""The command line: what it takes, and that it answers before torch is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trainer.command_line import parse
from trainer.errors import UsageError
from trainer.evaluation.options import Options, parse_options

COMMANDS = (
    *("train", "evaluate", "recalibrate", "report", "publish", "preview", "responses", "sweep", "status", "bench"),
    *("doctor", "job", "stage", "plan"),
)


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "x.yaml", "a=1", "b=2", "--table"],
        ["sweep", "--table", "x.yaml", "a=1", "b=2"],
        ["sweep", "x.yaml", "--table", "a=1", "b=2"],
        ["sweep", "x.yaml", "a=1", "--table", "b=2"],
    ],
)
def test_key_value_may_stand_before_and_after_options(words: list[str]) -> None:
    args = parse(words)
    assert (str(args.file), args.overrides, args.table) == ("x.yaml", ["a=1", "b=2"], True)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "x.yaml", "a=1", "--dry"],
        ["train", "x.yaml", "--dry", "a=1"],
        ["responses", "x", "--data", "y", "a=1"],  # has none to replace
    ],
)
def test_what_is_not_known_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(words)
    assert "unrecognized arguments: " in capsys.readouterr().err


def test_the_options_of_evaluate_are_read() -> None:
    def options(*words: str) -> Options:
        return parse_options(parse(["evaluate", "x", "--data", "y", *words]))

    assert options() == Options()
    assert options("--size", "256,224,256") == Options(sizes=(256, 224))
    with pytest.raises(UsageError, match=r"--size: '2x4' is no number of pixels; write e\.g\. 224,256"):
        options("--size", "224,2x4")
    assert options("--protocol", "center, all") == Options(protocols=("center", "all"))
    assert options(
        "--protocol", "multi-scale", "--scales", "256, 224", "--pool", "global", "--flip", "false"
    ) == Options(protocols=("multi-scale",), scales=(256, 224), pool="global", flip=False)
    for words in (["--score", "softmx"], ["--scales", "224;256"], ["--flip", "yes"], ["--pool", "max"]):
        with pytest.raises(UsageError, match=words[0]):
            options(*words)


def test_help_and_wrong_options_do_not_wait_for_torch() -> None:
    program = """
import sys
from trainer.__main__ import main
for command in sys.argv[1:]:
    try:
        main([command, "--help"])
    except SystemExit as ended:
        assert ended.code == 0
assert main(["evaluate", "x", "--data", "y", "--protocol", "tencrop"]) == 2
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program, *COMMANDS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(COMMANDS)
    assert done.stderr == "error: --protocol: 'tencrop' is not a protocol (did you mean 'ten-crop'?)\n"
