"""Builds the fuzzer of the JPEG decoder: with libFuzzer by clang, with driver.c by any compiler."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
SOURCES: Final = HERE.parents[1] / "trainer" / "jpeg" / "src"
SANITIZERS: Final = "-fsanitize=address,undefined"
LIBFUZZER: Final = f"{SANITIZERS},fuzzer"
FLAGS: Final = ("-std=c11", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", SANITIZERS, "-fno-sanitize-recover=all")
LIBRARIES: Final = ("-ljpeg", "-lm", "-pthread")
NO_SPARE: Final = "-DSPARE(size)=0"
"""Scratch memory ends where the image does, so that reading behind it is seen."""

PLAIN: Final = frozenset({"huffman.c", "idct.c", "recode_tables.c"})
"""Long loops without a decision worth following: libFuzzer would spend most of its time counting in them."""


def compiler() -> str | None:
    """The system's C compiler."""
    return shutil.which("cc") or shutil.which("gcc")


def has_sanitizers(cc: str, folder: Path) -> bool:
    """Whether `cc` finds the libraries of its sanitizers."""
    return _builds([cc, SANITIZERS], "int main(void) { return 0; }\n", folder)


def has_libfuzzer(clang: str, folder: Path) -> bool:
    """Whether `clang` finds libFuzzer, too: some systems have it in a package apart."""
    return _builds([clang, LIBFUZZER], "int LLVMFuzzerTestOneInput(void *p, long n) { return p && n < 0; }\n", folder)


def _builds(command: list[str], program: str, folder: Path) -> bool:
    source = folder / "probe.c"
    source.write_text(program)
    command = [*command, str(source), "-o", str(folder / "probe")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def compile_plainly(cc: str, source: Path, folder: Path) -> Path:
    """The object of a source file, unoptimised: compiling takes longer than a short run of the program."""
    made = folder / f"{source.stem}.o"
    _run([cc, *FLAGS, "-O0", NO_SPARE, f"-I{SOURCES}", "-c", str(source), "-o", str(made)])
    return made


def link_plainly(cc: str, objects: Iterable[Path], program: Path) -> Path:
    _run([cc, SANITIZERS, *map(str, objects), "-o", str(program), *LIBRARIES])
    return program


def build_with_driver(cc: str, folder: Path) -> Path:
    """The program of driver.c, its objects beside it. Raises CalledProcessError where the compiler fails."""
    sources = [HERE / "driver.c", HERE / "fuzz_jpegcrop.c", *sorted(SOURCES.glob("*.c"))]
    return link_plainly(cc, [compile_plainly(cc, source, folder) for source in sources], folder / "driver")


def build_with_libfuzzer(clang: str, folder: Path) -> Path:
    """The program of libFuzzer. Raises CalledProcessError where the compiler fails."""
    objects = []
    for source in [HERE / "fuzz_jpegcrop.c", *sorted(SOURCES.glob("*.c"))]:
        guided = source.parent == SOURCES and source.name not in PLAIN
        # Comparisons of markers are worth following, those of samples are not.
        coverage = ["-fsanitize=fuzzer-no-link"] if guided else []
        if guided and source.name.startswith(("recode_scan", "resize", "scan")):
            coverage.append("-fno-sanitize-coverage=trace-cmp")
        objects.append(str(folder / f"{source.stem}.o"))
        _run([clang, *FLAGS, *coverage, "-O2", NO_SPARE, f"-I{SOURCES}", "-c", str(source), "-o", objects[-1]])
    program = folder / "fuzzer"
    _run([clang, LIBFUZZER, *objects, "-o", str(program), *LIBRARIES])
    return program


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)
