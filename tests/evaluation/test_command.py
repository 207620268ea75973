"""What `trainer evaluate` prints beside its errors: the paper's numbers, and what should be known of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from tests.evaluation.conftest import CLASSES, Trained, picture
from tests.samples import write_beton
from trainer.__main__ import main
from trainer.errors import RunError
from trainer.evaluation.command import _explained as explained
from trainer.evaluation.options import Options

TEST_IMAGES = 10_000
"""CIFAR-10's, of which the paper's numbers are."""


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    yield
    PartialState._reset_state()
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many images as CIFAR-10 has for testing."""
    some = [picture(seed, seed % CLASSES) for seed in range(50)]
    path = tmp_path_factory.mktemp("many") / "test.beton"
    return write_beton(path, [some[i % 50] for i in range(TEST_IMAGES)], [i % 50 % CLASSES for i in range(TEST_IMAGES)])


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["evaluate", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_papers_number_is_beside_its_own_and_what_differs_is_said(
    trained: Trained, many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, trained.run, "--data", many)
    assert re.search(r"8\.75.*\n.*Table 6", out)
    assert "note: centre crop 16 of 18, unlike the paper's: other crops; other shorter sides\n" in out
    note = next(line for line in out.splitlines() if line.startswith("note: the run, unlike the paper's: "))
    assert "trained for less than 0.1% of the paper's budget; " in note
    assert "optimizer.lr=0.05; " in note


def test_what_is_of_the_run_is_said_once(trained: Trained, many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, trained.run, "--data", many, "--size", "16,24")
    assert out.count("note: centre crop ") == 2
    assert out.count("note: the run") == 1


def test_beside_other_data_there_is_no_number_and_it_says_why(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, trained.run, "--data", trained.raw)
    assert "8.75" not in out
    assert "other data: 41 images, the paper's 10,000" in out


def test_images_that_were_enlarged_are_counted_where_the_sizes_were_asked_for(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "were enlarged" not in printed(capsys, trained.run, "--data", trained.raw)
    for arguments in (["--resize", 900], ["--protocol", "multi-scale", "--scales", 900]):
        out = printed(capsys, trained.run, "--data", trained.raw, *arguments)
        assert "41 of 41 images have a shorter side below 900 and were enlarged\n" in out  # and had no cap


def test_a_large_crop_needs_no_scales(trained: Trained) -> None:
    assert [view.scales for view in Options(sizes=(1500,)).views(1500, (224, 256))] == [[1714]]


def test_an_ensemble_has_every_network_once(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    twice = [str(trained.run), str(trained.run / "checkpoints" / "last")]
    assert main(["evaluate", *twice, "--data", str(trained.raw)]) == 2
    assert "given more than once" in capsys.readouterr().err


def test_too_little_memory_is_said_in_one_line_and_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RunError, match="out of memory with batches of 9 crops"), explained(Options(batch=9)):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size of tensor"), explained(Options()):
        torch.zeros(2) + torch.zeros(3)
