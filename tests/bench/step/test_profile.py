"""Kernels and gaps, from events that are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch._C._autograd import DeviceType

from trainer.bench.step.profile import MARK, Gap, Kernel, Span, format_profile, profile_of, summarise


def span(name: str, start: float, end: float) -> Span:
    return Span(name, start, end, end - start)


def test_runs_of_a_kernel_are_added_up_and_the_largest_come_first() -> None:
    spans = [span("relu", 0, 1), span("conv", 1, 11), span("relu", 11, 13)]
    assert summarise(spans, spans).kernels == [Kernel("conv", 1, 10), Kernel("relu", 2, 3)]


def test_gaps_are_between_what_ends_last_and_what_begins_next() -> None:
    # On two streams: "copy" lies within "conv", so nothing is idle until "conv" is over.
    spans = [span("conv", 0, 10), span("copy", 2, 4), span("relu", 13, 14), span("pool", 14, 20), span("fc", 21, 25)]
    found = summarise(spans, spans)
    assert found.gaps == [Gap("conv", "relu", 3), Gap("pool", "fc", 1)]
    assert found.idle == 4
    assert found.microseconds == 25


def test_the_order_of_events_does_not_matter() -> None:
    spans = [span("b", 5, 6), span("a", 0, 1)]
    assert summarise(spans, spans).gaps == [Gap("a", "b", 4)]


def test_nothing_is_no_division_by_zero() -> None:
    found = summarise([], [])
    assert (found.kernels, found.gaps, found.idle) == ([], [], 0)
    assert "idle 0.0%" in format_profile(found, "nothing")


def event(name: str, start: float, end: float, parent: Any = None, thread: int = 1, own: float = 0.0) -> Any:
    """As torch's profiler has one of a CPU."""
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=end),
        cpu_parent=parent,
        thread=thread,
        self_cpu_time_total=own,
        device_type=DeviceType.CPU,
        is_user_annotation=name == MARK,
    )


def kernel(name: str, start: float, end: float, annotation: bool = False) -> Any:
    """As torch's profiler has one of a GPU."""
    times = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, time_range=times, device_type=DeviceType.CUDA, is_user_annotation=annotation)


def test_on_a_cpu_time_outside_of_operators_is_idle() -> None:
    mark = event(MARK, 0, 100)
    convolution = event("conv", 10, 40, mark, own=5)
    events = [
        mark,
        convolution,
        event("mkldnn", 12, 38, convolution, own=25),
        event("backward", 50, 90, own=40),
        event("worker's", 40, 50, thread=2, own=10),
    ]
    found = profile_of(events, on_gpu=False)
    assert [kernel.name for kernel in found.kernels] == ["backward", "mkldnn", "worker's", "conv"]
    assert found.gaps == [Gap("conv", "backward", 10)], "what another thread did in it does not fill it"
    assert found.microseconds == 80


def test_on_a_gpu_only_what_the_device_runs_counts() -> None:
    events = [
        event("aten::conv2d", 0, 1),
        kernel(MARK, 0, 100, annotation=True),
        kernel("sm90_conv", 10, 30),
        kernel("Memcpy HtoD", 35, 40),
    ]
    found = profile_of(events, on_gpu=True)
    assert [(one.name, one.microseconds) for one in found.kernels] == [("sm90_conv", 20), ("Memcpy HtoD", 5)]
    assert found.gaps == [Gap("sm90_conv", "Memcpy HtoD", 5)]


def test_the_table_has_ten_of_each_in_100_columns() -> None:
    spans = [span(f"kernel{'x' * 200}{n}", 10 * n, 10 * n + 5 + n / 10) for n in range(30)]
    lines = format_profile(summarise(spans, spans), "a step").splitlines()
    assert lines[0] == "a step: 0.3 ms, idle 35.0%"
    assert sum("…" in line for line in lines) == 20
    assert max(map(len, lines)) <= 100


def test_shares_are_of_the_whole_time() -> None:
    spans = [span("a", 0, 25), span("b", 75, 100)]
    text = format_profile(summarise(spans, spans), "a step")
    assert [line.split()[-1] for line in text.splitlines() if line.startswith(("a  ", "b  "))] == [
        "25.0%",
        "25.0%",
        "50.00%",
    ]


@pytest.mark.parametrize("name", ["a", "b"])
def test_kernels_of_equal_time_are_all_there(name: str) -> None:
    spans = [span("a", 0, 1), span("b", 1, 2)]
    assert name in [kernel.name for kernel in summarise(spans, spans).kernels]
