"""What is compiled is compiled once a shape; what cannot be is told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config

from tests.test_step import a_batch
from trainer.compiled import Compiled
from trainer.data.colour import IMAGENET, Preprocess
from trainer.errors import UsageError


def test_compiled_preprocessing_is_one_kernel(fresh_compiler: None) -> None:
    from torch._inductor import metrics

    preprocess = Preprocess(IMAGENET, sigma=0.1)
    batch = a_batch(4)
    metrics.reset()
    compiled = torch.compile(lambda images, colour: preprocess(images, colour).to(torch.bfloat16), dynamic=False)
    found = compiled(batch.images, batch.colour)
    assert metrics.generated_kernel_count == 1
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, preprocess(batch.images, batch.colour).to(torch.bfloat16))


class Sum(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 2).sum()


def compiled(required: bool, notes: list[str]) -> Compiled:
    return Compiled(Sum(), torch.device("cpu"), required=required, cuda_graphs=False, tell=notes.append)


def test_one_graph_a_size_however_often_sizes_come_back(fresh_compiler: None) -> None:
    torch._dynamo.utils.counters.clear()
    network = compiled(True, [])
    for size in (128, 160, 192, 128, 160, 192):
        assert float(network(torch.ones(size))) == 2 * size
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3


def test_a_backward_pass_that_cannot_be_compiled_is_told_of_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, fresh_compiler: None
) -> None:
    from torch._inductor import compile_fx

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no backward today")

    monkeypatch.setattr(compile_fx, "compile_fx_backward", fail)
    notes: list[str] = []
    weight = torch.ones(3, requires_grad=True)
    compiled(False, notes)(weight).backward()
    assert torch.equal(weight.grad, torch.full((3,), 2.0))  # type: ignore[arg-type]
    assert len(notes) == 1
    assert "no backward today" in notes[0]


def test_without_a_compiler_it_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.compiled.missing_for", lambda device: "there is no C++ compiler (install g++)")
    notes: list[str] = []
    assert float(compiled(False, notes)(torch.ones(3))) == 6
    assert notes == ["the network is not compiled, which costs speed alone: there is no C++ compiler (install g++)"]


def test_without_a_compiler_it_is_refused_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.compiled.missing_for", lambda device: "there is no C++ compiler (install g++)")
    with pytest.raises(UsageError, match=r"step\.compile is true, and cannot be: there is no C\+\+ compiler"):
        compiled(True, [])


def test_a_compiler_that_fails_is_told_of_once_and_the_network_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_compiler: None
) -> None:
    (tmp_path / "g++").write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    notes: list[str] = []
    with torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "g++"),)}):
        network = compiled(False, notes)
        assert [float(network(torch.ones(777, dtype=torch.float16) * n)) for n in (1, 2)] == [1554, 3108]
    assert len(notes) == 1
    assert "\n" not in notes[0]
