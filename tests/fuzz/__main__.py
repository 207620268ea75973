"""`make fuzz SECONDS=600`: fuzz the JPEG decoder, with libFuzzer where clang has it, else with driver.c."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.build import HERE, build_with_driver, build_with_libfuzzer, compiler, has_libfuzzer, has_sanitizers
from tests.fuzz.seeds import write_seeds
from trainer.errors import RunError, UsageError, run_command

INPUTS_A_TURN = 5000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="of fuzzing, once it is built (%(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path(".cache/fuzz"), help="programs, corpus and findings (%(default)s)"
    )
    parser.add_argument("--photographs", type=Path, help="a folder of JPEGs, for more seeds")
    options = parser.parse_args()
    if options.seconds < 1:
        raise UsageError(f"--seconds {options.seconds} is not a positive number of seconds")
    if options.photographs and not options.photographs.is_dir():
        raise UsageError(f"--photographs {options.photographs}: there is no such folder")
    folder: Path = options.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--folder {folder}: {error.strerror}") from None
    try:
        fuzz = build(folder)
    except subprocess.CalledProcessError as error:
        raise RunError(f"the fuzzer is not built: {error.cmd[0]} exits with {error.returncode}") from None
    write_seeds(folder / "seeds", options.photographs)
    fuzz(options.seconds)
    print(f"nothing was found in {options.seconds} s", flush=True)
    return 0


def build(folder: Path) -> Callable[[int], None]:
    """What fuzzes for so many seconds, and raises RunError if it finds something."""
    clang, cc = shutil.which("clang"), compiler()
    if clang and has_libfuzzer(clang, folder):
        print(f"libFuzzer of {clang}", flush=True)
        program = build_with_libfuzzer(clang, folder)
        return lambda seconds: run_libfuzzer(program, folder, seconds)
    if cc and has_sanitizers(cc, folder):
        print(f"no clang with libFuzzer: driver.c, by {cc}", flush=True)
        program = build_with_driver(cc, folder)
        return lambda seconds: run_driver(program, folder, seconds)
    raise UsageError("fuzzing needs a C compiler with its sanitizers: install clang, or gcc with libasan and libubsan")


def run_libfuzzer(program: Path, folder: Path, seconds: int) -> None:
    """What it learns goes into the corpus, what it finds beside it, as crash-*, timeout-* or oom-*."""
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    limits = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=2048"]
    rest = [f"-artifact_prefix={folder}/", f"-dict={HERE / 'jpeg.dict'}", "-print_final_stats=1"]
    if subprocess.run([program, *limits, *rest, corpus, folder / "seeds"], check=False).returncode:
        raise RunError(f"something was found: its report is above, its input in {folder}")


def run_driver(program: Path, folder: Path, seconds: int) -> None:
    """In turns, each with other inputs; the one that fails is left as last-input."""
    last = folder / "last-input"
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        if subprocess.run([program, folder / "seeds", str(INPUTS_A_TURN), str(turn), last], check=False).returncode:
            raise RunError(f"something was found: its report is above, its input in {last}")
        turn += 1


if __name__ == "__main__":
    sys.exit(run_command(main))
