"""Medians, ratios pair by pair, and the question whether it was the same work."""

from __future__ import annotations

import io
import json
from pathlib import Path

import PIL.Image
import pytest
from rich.console import Console

from trainer.bench.loader.chart import draw_chart
from trainer.bench.loader.messages import Check, Epoch
from trainer.bench.loader.peers import OURS, PEERS, Peer
from trainer.bench.loader.results import Result, other_work, ours_times, ratio, to_json
from trainer.bench.loader.table import print_table
from trainer.bench.loader.work import Work
from trainer.bench.resources import describe_machine
from trainer.bench.spread import Spread, spread

FFCV = next(peer for peer in PEERS if peer.name == "ffcv")
DALI = next(peer for peer in PEERS if peer.name == "dali")


def result(peer: Peer, rates: list[float], workers: int = 1, difference: float | None = 0.5) -> Result:
    epochs = [Epoch(1000, 1000 / rate, 500 / rate, 0.001) for rate in rates]
    return Result(peer, workers, epochs, 300 << 20, Check(difference, 110.0))


def test_a_spread_is_median_smallest_and_largest() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([]) is None


def test_rates_are_by_seconds_and_by_cpu_seconds() -> None:
    measured = result(OURS, [100.0, 200.0])
    assert measured.rates == pytest.approx([100, 200])
    assert measured.cpu_rates == pytest.approx([200, 400])


def test_ratios_are_taken_pair_by_pair() -> None:
    """A machine that becomes twice as fast for both changes no ratio, though it changes every rate."""
    ours, ffcv = result(OURS, [500.0, 1000.0, 505.0]), result(FFCV, [100.0, 200.0, 100.0])
    times = ratio(ours, ffcv)
    assert times is not None
    assert (times.median, times.min, times.max) == pytest.approx((5, 5, 5.05))


def test_there_is_no_ratio_to_what_was_not_measured() -> None:
    missing = Result(FFCV, 1, problem="not installed")
    assert ratio(result(OURS, [1.0]), missing) is None
    assert ratio(result(OURS, [1.0]), None) is None
    assert ours_times(missing, [result(OURS, [1.0]), missing]) is None


def test_ratios_are_between_equal_numbers_of_workers() -> None:
    results = [result(OURS, [100.0]), result(OURS, [180.0], 2), result(FFCV, [50.0], 2)]
    times = ours_times(results[2], results)
    assert times is not None
    assert times.median == pytest.approx(3.6)


def test_a_failure_leaves_no_figures() -> None:
    failing = result(FFCV, [1.0, 2.0])
    failing.fail("it broke")
    assert (failing.failed, failing.problem, failing.epochs) == (True, "it broke", [])


@pytest.mark.parametrize(("difference", "same"), [(0.0, True), (6.0, True), (30.0, False)])
def test_pixels_of_the_same_crops_may_differ_by_a_filter_and_not_by_a_crop(difference: float, same: bool) -> None:
    measured = result(DALI, [1.0], difference=difference)
    assert (other_work(measured, result(OURS, [1.0]), 4000) == "") is same


@pytest.mark.parametrize(("level", "same"), [(110.0, True), (112.0, True), (130.0, False)])
def test_of_a_librarys_own_crops_the_mean_level_is_compared(level: float, same: bool) -> None:
    measured = result(FFCV, [1.0])
    measured.check = Check(None, level)
    reason = other_work(measured, result(OURS, [1.0]), 4096)
    assert (reason == "") is same
    assert same or "20.0 levels" in reason


def test_json_has_every_figure_and_every_epoch(work: Work) -> None:
    results = [result(OURS, [500.0, 600.0]), result(FFCV, [100.0, 100.0], difference=None)]
    results += [Result(DALI, 1, problem="not installed: pip install '.[bench]'")]
    content = json.loads(json.dumps(to_json(results, work, describe_machine())))
    ours, ffcv, dali = content["results"]
    assert ours["images_per_s"] == pytest.approx({"median": 550, "min": 500, "max": 600})
    assert ours["times_ffcv"] == pytest.approx({"median": 5.5, "min": 5, "max": 6})
    assert ffcv["ours_times"] == pytest.approx({"median": 5.5, "min": 5, "max": 6})
    assert ours["memory_mib"] == 300
    assert ffcv["pixel_difference"] is None
    assert ours["idle_cpu_s"] == pytest.approx(0.002)
    assert len(ours["epochs"]) == 2
    assert dali == {
        "loader": "dali",
        "workers": 1,
        "what": DALI.what,
        "failed": False,
        "problem": "not installed: pip install '.[bench]'",
    }
    assert content["machine"]["cpu"]
    assert content["machine"]["versions"]["numpy"]
    assert content["images_per_epoch"] == work.images
    assert content["data"]["samples"] == 40
    assert 500 < content["data"]["mean_bytes"] < 5000


def test_the_table_fits_100_columns_and_names_what_is_missing(work: Work) -> None:
    results = [result(peer, [56789.0, 5678.9, 567.0], n) for n in (1, 16) for peer in (OURS, *PEERS)]
    results[1].fail("OSError: a reason [with brackets]")
    results[2] = Result(results[2].peer, 1, problem="not installed: pip install '.[bench]'")
    out = io.StringIO()
    print_table(results, work, describe_machine(), 3, Console(file=out, width=100))
    lines = out.getvalue().splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if " failed: " in line)]
    assert max(len(line.rstrip()) for line in table) <= 100
    assert any(
        line.split() == ["torchvision", "1", "5,679", "567-56,789", "11,358", "-", "1.00", "300", "0.50"]
        for line in lines
    )
    assert "ffcv failed: OSError: a reason [with brackets] (workers: 1)" in lines
    assert f"{results[2].name}: not installed: pip install '.[bench]'" in lines
    assert "3 epochs of 48 images" in out.getvalue()


def test_what_fails_alike_is_said_once(work: Work) -> None:
    results = [Result(FFCV, n, problem="ImportError: no", failed=True) for n in (1, 2)]
    out = io.StringIO()
    print_table(results, work, describe_machine(), 1, Console(file=out, width=100))
    assert "ffcv failed: ImportError: no (workers: 1, 2)" in out.getvalue().splitlines()


@pytest.mark.parametrize("counts", [(1,), (1, 2, 4)])
def test_the_chart_is_a_png_whatever_was_measured(work: Work, tmp_path: Path, counts: tuple[int, ...]) -> None:
    results = [result(peer, [100.0, 120.0], n) for n in counts for peer in (OURS, *PEERS)]
    results[-1].fail("it broke")
    draw_chart(results, work, describe_machine()).savefig(tmp_path / "a.png")
    assert PIL.Image.open(tmp_path / "a.png").format == "PNG"


def test_the_chart_without_any_figure_is_a_png_too(work: Work, tmp_path: Path) -> None:
    results = [Result(OURS, 1, problem="it broke", failed=True)]
    draw_chart(results, work, describe_machine()).savefig(tmp_path / "a.png")
    assert PIL.Image.open(tmp_path / "a.png").format == "PNG"
