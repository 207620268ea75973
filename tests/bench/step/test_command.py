"""`python -m trainer bench step`, as a person meets it."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.bench.step.contests import RECIPE, SMALL
from tests.small import begin_anew
from trainer.__main__ import main
from trainer.bench.step import measure, peak
from trainer.bench.step.options import parse_batches
from trainer.plan.saved import load_saved


@pytest.fixture(autouse=True, scope="module")
def _short() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "SECONDS", 1e-3)
        patch.setattr(peak, "SECONDS", 1e-3)
        yield


def bench(*words: str) -> tuple[int, str]:
    """Status and standard output."""
    begin_anew()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main(["bench", "step", RECIPE, *SMALL, "--repeats", "2", *words])
    return status, out.getvalue()


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    """What the command prints, its JSON, and the folder with it."""
    folder = tmp_path_factory.mktemp("step")
    words = ["--peers", "timm,torchvision", "--data", str(photos), "--json", f"{folder}/out.json"]
    status, text = bench(*words, "--profile", f"{folder}/profile")
    assert status == 0
    return text, json.loads((folder / "out.json").read_text()), folder


def test_ours_and_the_peers_are_measured_on_the_same_work(run: tuple[str, dict[str, Any], Path]) -> None:
    rows = run[1]["results"]
    assert [row["contestant"] for row in rows] == ["ours", "ours, real data", "torchvision", "timm"]
    assert {row["batch"] for row in rows} == {4}
    assert {row["steps"] for row in rows} == {1}
    assert len({row["multiply_adds"] for row in rows}) == 1
    assert run[1]["classes"] == 5, "those of the data, for all"


def test_rates_flops_and_ratios_follow_from_the_seconds(run: tuple[str, dict[str, Any], Path]) -> None:
    ours, real, *peers = run[1]["results"]
    for row in (ours, real, *peers):
        first, second = (4 / seconds for seconds in row["seconds"])
        assert row["images_per_s"]["median"] == pytest.approx((first + second) / 2)
        assert row["flops"] == pytest.approx(6 * row["multiply_adds"] * row["images_per_s"]["median"])
        assert row["share_of_peak"] == pytest.approx(row["flops"] / run[1]["peak"]["flops"])
        pairs = [theirs / mine for theirs, mine in zip(row["seconds"], ours["seconds"], strict=True)]
        assert row["ours_times"]["max"] == pytest.approx(max(pairs))
    assert real["share_of_synthetic"]["min"] == pytest.approx(1 / real["ours_times"]["max"])
    assert peers[0]["share_of_synthetic"] is None
    assert ours["memory_mib"] is None, "which nobody counts on a CPU"


def test_the_table_is_readable_in_100_columns(run: tuple[str, dict[str, Any], Path]) -> None:
    text, content, folder = run
    table = text.split("Median and min-max")[0]
    assert max(map(len, table.splitlines())) <= 110
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 100
    for row in content["results"]:
        assert any(line.strip().startswith(f"{row['contestant']} ") for line in table.splitlines())
    assert "real data: " in text
    assert content["machine"]["device"] in text
    assert f"written: {folder}/out.json, {folder}/out.png" in text


def test_the_chart_and_the_profile_are_written(run: tuple[str, dict[str, Any], Path]) -> None:
    text, _, folder = run
    assert PIL.Image.open(folder / "out.png").size[0] > 1000
    trace = json.loads(gzip.decompress((folder / "profile" / "resnet18-4.trace.json.gz").read_bytes()))
    assert {"bench step", "aten::mkldnn_convolution"} & {event.get("name") for event in trace["traceEvents"]}
    table = (folder / "profile" / "resnet18-4.txt").read_text()
    assert table in text
    assert table.startswith("3 steps of resnet18, batch 4, fp32: ")
    assert "aten::convolution_backward" in table


def test_depths_take_the_recipes_place_and_stride_as_the_peers(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    status, text = bench("--depths", "18,50", "--batch", "2", "--peers", "timm", "--repeats", "1", "--json", str(out))
    assert status == 0
    assert text.count("bottlenecks stride in the 3x3 convolution as the peers' do (v1.5), not in the 1x1") == 1
    rows = json.loads(out.read_text())["results"]
    assert [(row["network"], row["batch"]) for row in rows[::2]] == [
        ("resnet18", 2),
        ("resnet50", 2),
    ]
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        assert ours["multiply_adds"] == theirs["multiply_adds"]


def test_every_batch_is_a_contest_of_its_own() -> None:
    assert parse_batches("256, best,256") == (256, "best")
    text = bench("--batch", "2,3", "--repeats", "1")[1]
    assert [line.split()[1] for line in text.splitlines() if line.startswith("  ours ")] == ["2", "3"]


def test_one_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, contest: Any) -> Any:
        raise RuntimeError("no such kernel\nand much more") if name == "timm" else ImportError("No module named 'it'")

    monkeypatch.setattr(measure, "peer", fails)
    status, text = bench("--peers", "torchvision,timm")
    assert status == 1
    assert "timm failed: RuntimeError: no such kernel (resnet18, batch 4)" in text
    assert "torchvision: not installed: No module named 'it'" in text
    (ours,) = (line.split() for line in text.splitlines() if line.startswith("  ours "))
    assert float(ours[2]) > 0


def test_what_is_not_installed_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, contest: Any) -> Any:
        raise ImportError("No module named 'timm'")

    monkeypatch.setattr(measure, "peer", missing)
    assert bench("--peers", "timm")[0] == 0


def test_a_network_that_peers_lack_is_said_so() -> None:
    status, text = bench("--peers", "timm", "model.name=cifar_resnet20", "model.shortcut=A", "data.crop=padded")
    assert status == 1
    assert "timm failed: ValueError: timm has no cifar_resnet20" in text


def test_figures_are_kept_for_the_plan(tmp_path: Path) -> None:
    status, text = bench("data.size=64", "data.min_side=64", "data.max_side=80", "--save", f"{tmp_path}/plan.yaml")
    assert status == 0
    assert "`trainer plan --gpu cpu` computes with it" in text
    figure = load_saved(tmp_path / "plan.yaml").step("cpu", "fp32")
    assert figure is not None
    assert (figure.model, figure.size, figure.micro_batch) == ("resnet18", 64, 4)
    assert 0 < figure.seconds_of_one < figure.seconds


def test_an_image_too_small_for_the_plan_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--save", f"{tmp_path}/plan.yaml")[0] == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: --save times a step of one image, which resnet18 cannot do at 32 px")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--repeats", "0"], "--repeats 0: must be 1 or more"),
        (["--depths", "18,20"], "--depths: there is no ResNet-20; choose of 18,34,50,101,152"),
        (["--batch", "0"], "--batch: '0' is no number of images; write e.g. 256, or 256,best"),
        (["--batch", "256,bset"], "--batch: 'bset' is no number of images; write e.g. 256, or 256,best"),
        (["--peers", "tim"], "--peers: no training step is named 'tim' (did you mean 'timm'?)"),
        (["--json", "out.txt"], "--json out.txt: must end in .json (the chart beside it ends in .png)"),
        (["--profile", "README.md"], "--profile README.md: is not a folder; the traces and their tables go into one"),
        (["--save", "--depths", "18,34"], "--save keeps the figures of one network and batch: give one of --depths"),
        (["--data", "no.beton"], "no.beton: cannot open the beton"),
    ],
)
def test_wrong_values_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str], reason: str) -> None:
    begin_anew()
    assert main(["bench", "step", RECIPE, *SMALL, *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {reason}")
    assert said.err.count("\n") == 1


def test_wrong_options_do_not_wait_for_torch() -> None:
    code = "import sys; from trainer.__main__ import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    words = ["bench", "step", RECIPE, "--depths", "20"]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, timeout=120)
