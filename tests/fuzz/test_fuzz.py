"""A short run of the fuzzer, always the same, by the compiler that builds the decoder; `make fuzz` is the long one."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fuzz.build import SOURCES, build_with_driver, compile_plainly, compiler, has_sanitizers, link_plainly
from tests.fuzz.seeds import seeds, write_seeds

INPUTS = 4000
LIMITS = {"ASAN_OPTIONS": "quarantine_size_mb=8:hard_rss_limit_mb=200", "UBSAN_OPTIONS": "print_stacktrace=1"}


@dataclass(frozen=True)
class Build:
    cc: str
    folder: Path
    driver: Path
    seeds: Path


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("fuzz")
    cc = compiler()
    if not cc or not has_sanitizers(cc, folder):
        pytest.skip("no C compiler with address and undefined-behaviour sanitizers")
    write_seeds(folder / "seeds")
    return Build(cc, folder, build_with_driver(cc, folder), folder / "seeds")


def run(*command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **LIMITS}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_nothing_is_found_in_changed_jpegs(build: Build, tmp_path: Path) -> None:
    done = run(build.driver, build.seeds, INPUTS, 1, tmp_path / "last-input")
    assert done.returncode == 0, f"{done.stderr}\nthe input is in {tmp_path / 'last-input'}"
    assert done.stdout == f"{INPUTS} inputs from {len(set(seeds()))} seeds\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "right", "wrong", "said"),
    [
        ("parse.c", "if (end - at < length) return JC_TRUNCATED;", "", "AddressSanitizer"),
        ("recode_scan.c", "put(out, 0x7F, 7);", "put(out, 0x3F, 7);", "required"),
        ("idct.c", "(uint8_t)(clamp(sums[x], -128, 127) + 128)", "(uint8_t)(sums[x] + 128)", "required"),
    ],
    ids=["a length is not checked", "a segment ends otherwise than libjpeg's", "portable code does not saturate"],
)
def test_planted_faults_are_found(build: Build, tmp_path: Path, file: str, right: str, wrong: str, said: str) -> None:
    """And the input that found one is left behind."""
    text = (SOURCES / file).read_text()
    assert right in text
    faulty = tmp_path / file
    faulty.write_text(text.replace(right, wrong))
    others = [made for made in sorted(build.folder.glob("*.o")) if made.stem != faulty.stem]
    driver = link_plainly(build.cc, [*others, compile_plainly(build.cc, faulty, tmp_path)], tmp_path / "driver")
    done = run(driver, build.seeds, INPUTS, 1, tmp_path / "last-input")
    assert done.returncode != 0
    assert said in done.stderr
    again = run(driver, tmp_path / "last-input")
    assert again.returncode != 0
    assert said in again.stderr
