"""What the tests of all rooms share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.samples import jpeg, smooth_image, write_beton

# Rich would wrap and colour what the tests read.
os.environ["COLUMNS"] = "120"
os.environ.pop("FORCE_COLOR", None)

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton of 40 JPEGs of various sizes with labels 0-4."""
    sizes = [(60 + 7 * (i % 5), 50 + 11 * (i % 7)) for i in range(40)]
    images = [jpeg(smooth_image(width, height, seed)) for seed, (width, height) in enumerate(sizes)]
    return write_beton(tmp_path_factory.mktemp("photos") / "photos.beton", images, [i % 5 for i in range(40)])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """torch's compiler as at its start, before the test and after it."""
    import torch

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
