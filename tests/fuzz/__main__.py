"""`make fuzz SECONDS=600`: fuzz the JPEG decoder, with libFuzzer where there is clang, else with driver.c."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.build import HERE, build_with_driver, build_with_libfuzzer, compiler
from tests.fuzz.seeds import write_seeds

INPUTS_A_TURN = 20000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--folder", type=Path, default=Path(".cache/fuzz"), help="programs, corpus and findings")
    parser.add_argument("--photographs", type=Path, help="a folder of JPEGs, for more seeds")
    options = parser.parse_args()
    folder: Path = options.folder
    corpus, seeds = folder / "corpus", folder / "seeds"
    corpus.mkdir(parents=True, exist_ok=True)
    write_seeds(seeds, options.photographs)
    clang, cc = shutil.which("clang"), compiler()
    if clang:
        return run_libfuzzer(build_with_libfuzzer(clang, folder), options.seconds, corpus, seeds)
    if cc:
        return run_driver(build_with_driver(cc, folder), options.seconds, folder / "last-input", seeds)
    print("error: fuzzing needs a C compiler: clang, or cc with its sanitizers", file=sys.stderr)
    return 2


def run_libfuzzer(program: Path, seconds: int, corpus: Path, seeds: Path) -> int:
    """Its findings lie beside the program, as crash-*, timeout-* or oom-*."""
    limits = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=2048"]
    rest = [f"-artifact_prefix={program.parent}/", f"-dict={HERE / 'jpeg.dict'}", "-print_final_stats=1"]
    return subprocess.run([program, *limits, *rest, corpus, seeds], check=False).returncode


def run_driver(program: Path, seconds: int, last: Path, seeds: Path) -> int:
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        command = [program, seeds, str(INPUTS_A_TURN), str(turn), last]
        done = subprocess.run(command, check=False).returncode
        if done:
            print(f"error: the input is in {last}", file=sys.stderr)
            return 1
        turn += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
