"""How a process uses its CPU: threads within its share, memory that it keeps."""

from __future__ import annotations

import os
import platform
import subprocess

import pytest
import torch

from tests.samples import PYTHON, REPOSITORY
from trainer.cpu import prepare_cpu

FAULTS = """
import resource, sys
import numpy as np
from trainer.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
np.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 22)  # 32 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **variables: str) -> int:
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"} | variables
    done = subprocess.run(
        [PYTHON, "-c", FAULTS, how], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_freed_memory_is_not_cleared_anew() -> None:
    assert faults("keep") < faults("not") / 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_settings_of_the_c_library_have_the_last_word() -> None:
    own = "glibc.malloc.mmap_threshold=65536"
    assert faults("keep", GLIBC_TUNABLES=own) > 4 * faults("keep")


@pytest.mark.parametrize(("asked", "found"), [(None, 2), ("3", 3)])
def test_threads_are_the_share_of_the_node_unless_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, found: int
) -> None:
    monkeypatch.setattr("trainer.cpu.default_threads", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        prepare_cpu()
        assert torch.get_num_threads() == found
    finally:
        torch.set_num_threads(before)
