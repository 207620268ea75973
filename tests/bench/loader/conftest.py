"""What the benchmark's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.bench.loader.work import Work


@pytest.fixture
def work(photos: Path) -> Work:
    """Three batches of 16 of 40 small photographs: more than an epoch of them, and not a whole number of batches."""
    return Work(photos, "scale", size=32, batch=16, batches=3)
