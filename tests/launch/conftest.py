"""A cluster for the tests of the launch scripts, and a training that is over in seconds."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.cluster import Cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A SLURM of two nodes."""
    if reason := why_not():
        pytest.skip(reason)
    # A process under `make test` has the virtual environment's Python, not its PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder))
        made.environment = {"PATH": path, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        try:
            made.start()
            yield made
        finally:
            made.stop()
