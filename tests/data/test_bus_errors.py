"""A beton that becomes shorter while it is read ends the process with a reason; other signals are left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fuzz.build import SANITIZERS, SOURCES, compiler, has_sanitizers
from tests.samples import PYTHON, REPOSITORY


@pytest.fixture
def beton(photos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(photos, tmp_path / "x.beton"))


def read_truncated(beton: Path, how: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, str(Path(__file__).with_name("read_truncated.py")), str(beton), how]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONFAULTHANDLER"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def line(beton: Path) -> str:
    return (
        f"error: {beton}: could not be read: it became shorter, or its disk failed; "
        "restore it and start the same command again\n"
    )


@pytest.mark.parametrize("how", ["here", "thread", "pool", "many", "faulthandler"])
def test_the_process_ends_with_the_reason(beton: Path, how: str) -> None:
    done = read_truncated(beton, how)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line(beton))


def test_in_a_forked_child_too(beton: Path) -> None:
    done = read_truncated(beton, "forked")
    assert (done.returncode, done.stdout) == (1, "child ended with 1\n")
    assert done.stderr == 2 * line(beton)


def test_while_nothing_happens_nothing_is_said(beton: Path) -> None:
    done = read_truncated(beton, "sound")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "still there\n")


@pytest.mark.parametrize("how", ["closed", "sent"])
def test_what_is_not_of_a_beton_ends_the_process_as_ever(beton: Path, how: str) -> None:
    done = read_truncated(beton, how)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGBUS, "", "")


@pytest.mark.parametrize(
    ("how", "number", "said"),
    [("sent", signal.SIGBUS, "Bus error"), ("another signal", signal.SIGSEGV, "Segmentation fault")],
)
def test_faulthandler_sees_what_is_its_own(beton: Path, how: str, number: int, said: str) -> None:
    done = read_truncated(beton, f"faulthandler, {how}")
    assert done.returncode == -number
    assert done.stderr.startswith(f"Fatal Python error: {said}\n")
    assert done.stderr.count("read_truncated.py") == 1


DRIVER = r"""
#include "bus_error.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char *map(int *file)
{
    *file = fileno(tmpfile());
    if (ftruncate(*file, 1 << 20) != 0) abort();
    return mmap(NULL, 1 << 20, PROT_READ, MAP_SHARED, *file, 0);
}

static void *come_and_go(void *memory)
{
    for (int i = 0; i < 20000; i++) {
        int number = jc_explain_bus_errors((char *)memory + 4096, 4096, "wrong\n");
        if (number < -1 || number >= JC_BUS_RANGES) abort();
        jc_forget_bus_errors(number);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    int file, numbers[JC_BUS_RANGES];
    char *memory = map(&file), *elsewhere = malloc(8192), too_long[JC_BUS_MESSAGE + 2] = {0};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, come_and_go, elsewhere);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    free(elsewhere);
    memset(too_long, 'x', JC_BUS_MESSAGE + 1);
    if (jc_explain_bus_errors(memory, 1 << 20, too_long) != -1) return 10;
    if (jc_explain_bus_errors(NULL, 1 << 20, "none\n") != -1) return 11;
    for (int i = 0; i < JC_BUS_RANGES; i++)
        if ((numbers[i] = jc_explain_bus_errors(memory + i, 1, "one byte\n")) < 0) return 12;
    if (jc_explain_bus_errors(memory, 1, "no room\n") != -1) return 13;
    for (int i = 0; i < JC_BUS_RANGES; i++) jc_forget_bus_errors(numbers[i]);
    jc_forget_bus_errors(-1);
    jc_forget_bus_errors(JC_BUS_RANGES);
    too_long[JC_BUS_MESSAGE] = 0; /* the longest there may be */
    if (jc_explain_bus_errors(memory + 8192, 4096, too_long) < 0) return 14;
    if (jc_explain_bus_errors(memory, 8192, "the first two pages\n") < 0) return 15;
    if (ftruncate(file, 0) != 0) return 16;
    return count > 1 ? memory[atoi(arguments[1])] : 0;
}
"""


@pytest.mark.skipif(compiler() is None, reason="no C compiler")
def test_the_table_of_ranges_under_sanitizers(tmp_path: Path) -> None:
    cc = compiler()
    assert cc is not None
    if not has_sanitizers(cc, tmp_path):
        pytest.skip("no C compiler with address and undefined-behaviour sanitizers")
    (tmp_path / "driver.c").write_text(DRIVER)
    flags = ["-std=c11", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Werror", SANITIZERS, "-fno-sanitize-recover=all"]
    sources = [str(tmp_path / "driver.c"), str(SOURCES / "bus_error.c")]
    command = [cc, *flags, f"-I{SOURCES}", *sources, "-o", str(tmp_path / "driver"), "-pthread"]
    subprocess.run(command, check=True)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tmp_path / "driver", *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    assert (run().returncode, run().stderr) == (0, "")
    assert (run("0").returncode, run("0").stderr) == (1, "the first two pages\n")
    assert (run("8191").returncode, run("8191").stderr) == (1, "the first two pages\n")
    assert (run("8192").returncode, run("8192").stderr) == (1, "x" * 4608)
    beyond = run("12288")  # the sanitizer's own handler, which was there before
    assert "AddressSanitizer: BUS" in beyond.stderr
