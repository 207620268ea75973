"""`trainer plan` and the figures that `trainer bench ... --save` keeps for it, as a person meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.plan.plans import ABSENT, RECIPE
from tests.samples import jpeg, smooth_image, write_beton
from tests.small import begin_anew
from trainer.__main__ import main
from trainer.bench.step.command import bench_step
from trainer.bench.step.options import Options
from trainer.command_line import parse
from trainer.plan.saved import LoaderFigure, StepFigure, device_key, load_saved, save_loader, save_step
from trainer.plan.speed import resnet50

CPU = [RECIPE, *ABSENT, "--gpu", "cpu", "precision=fp32"]
NODE = [RECIPE, *ABSENT, "--gpus-per-node", "8", "--gpu", "h100"]


def figure(**values: Any) -> StepFigure:
    usual = {"name": "H100", "date": "2026-01-01", "torch": "2.9", "model": "resnet50", "size": 224, "micro_batch": 100}
    usual |= {"threads": 1, "seconds": 0.02, "seconds_of_one": 0.01, "seconds_of_optimizer": 0.001}
    return StepFigure(**(usual | {"network": resnet50()} | values))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_plan_of_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is read from, or left in, the folder that the tests run in."""
    monkeypatch.setattr("trainer.plan.saved.DEFAULT", tmp_path / "plan.yaml")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["plan", *words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_it_says_that_it_is_on_paper_what_limits_and_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = run(capsys, *NODE)
    assert status == 0
    assert said.startswith("On paper: resnet50 at 224 px, bf16, on 1 node(s) x 8 H100")
    assert "The limit is launching" in said
    assert "GPU-hours" in said
    assert "this project has measured nothing on a GPU" in said
    assert "assumed: 64 cores a node, 256 GB of memory a node, 100 Gbit/s between nodes" in said


def test_what_is_given_is_not_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--cores", "96", "--memory-gb", "50", "--network-gbps", "400", "--storage-gbps", "8"]
    _, said, _ = run(capsys, *NODE, *given)
    assert "assumed" not in said
    assert "storage" in said
    assert "do not fit" in said


def test_json_has_the_same_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    _, said, _ = run(capsys, *NODE, "--json")
    content = json.loads(said)
    assert content["on_paper"] is True
    assert content["limit"] == min(content["ceilings_images_per_s"], key=content["ceilings_images_per_s"].get)
    assert [point["gpus"] for point in content["curve"]][-1] == 1024


def test_the_curve_is_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, *NODE, "--out", str(tmp_path / "curve.png"))[0] == 0
    assert PIL.Image.open(tmp_path / "curve.png").size[0] > 1000


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([RECIPE, "--gpu", "h1000"], "did you mean 'h100'?"),
        ([RECIPE, "--gpu", "h100", "--nodes", "3"], "use 1, 2, 4, 8 processes"),
        ([RECIPE, "--gpu", "v100"], "no figure of it in bf16; give precision=fp16 or precision=fp32"),
        ([RECIPE, "--gpu", "cpu"], "no figure of it in bf16"),
        ([RECIPE, "--gpu", "h100", "--nodes", "0"], "--nodes 0: must be a number above 0"),
        ([RECIPE, "--gpu", "h100", "--network-gbps", "nan"], "--network-gbps nan: must be a number above 0"),
        ([RECIPE, "--gpu", "h100", "--out", "curve.pdf"], "must end in .png"),
        ([RECIPE, "--gpu", "h100", "--constants", "absent.yaml"], "no such file"),
        (["absent.yaml", "--gpu", "h100"], "no such recipe"),
    ],
)
def test_wrong_input_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], error: str) -> None:
    status, said, complaint = run(capsys, *words)
    assert status == 2
    assert said == ""
    assert error in complaint
    assert complaint.count("\n") == 1


def test_it_says_which_sizes_growing_crops_have(capsys: pytest.CaptureFixture[str]) -> None:
    _, said, _ = run(capsys, "recipes/imagenet/fast/resnet50.yaml", *ABSENT, "--gpu", "a100", "--gpus-per-node", "8")
    assert "resnet50 at 160 to 192 px" in said
    assert "the crops grow (160 px 75%, 192 px 25% of the run)" in said


def test_data_that_are_there_are_looked_at(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    images = [jpeg(smooth_image(96, 80, seed)) for seed in range(4)]
    for name in ("train", "val"):
        write_beton(tmp_path / f"{name}.beton", images, [0, 1, 0, 1])
    there = [f"data.train={tmp_path}/train.beton", f"data.val={tmp_path}/val.beton"]
    _, said, _ = run(capsys, RECIPE, *there, "--gpu", "a100")
    assert "are not here" not in said
    assert "0.0 GB of data fit" in said


def test_a_saved_figure_takes_the_place_of_the_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_step(tmp_path / "plan.yaml", "h100", "bf16", figure())
    large = ["optimizer.global_batch=8192", "optimizer.micro_batch=1024", "model.stride_in=3x3"]
    _, said, _ = run(capsys, *NODE, *large, "--cores", "1000", "--json")
    content = json.loads(said)
    assert content["ceilings_images_per_s"]["compute"] == pytest.approx(8 * 100 / 0.02, rel=0.01)
    assert content["ceilings_images_per_s"]["launching"] == pytest.approx(8 * 1024 / 0.01, rel=0.01)
    assert any("your figures from" in note for note in content["notes"])
    assert not any("nothing on a GPU" in note for note in content["notes"])


def test_a_device_that_the_table_lacks_is_planned_for_once_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(capsys, RECIPE, *ABSENT, "--gpu", "mi300x")[0] == 2
    save_step(tmp_path / "plan.yaml", "mi300x", "bf16", figure(name="Instinct MI300X"))
    status, said, _ = run(capsys, RECIPE, *ABSENT, "--gpu", "mi300x")
    assert status == 0
    assert "measured with resnet50 at 224 px on Instinct MI300X" in said


def test_figures_are_kept_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    save_step(path, "h100", "bf16", figure())
    save_step(path, "h100", "fp32", figure(seconds=0.1))
    save_step(path, "h100", "bf16", figure(seconds=0.03))
    save_loader(path, LoaderFigure("a CPU", "2026-01-01", "scale", 224, 1000.0, 2000.0))
    saved = load_saved(path)
    assert saved.step("h100", "bf16") == figure(seconds=0.03)
    assert saved.step("h100", "fp32") == figure(seconds=0.1)
    assert saved.step("a100", "bf16") is None
    assert saved.loader is not None
    assert saved.loader.factor == 2.0


@pytest.mark.parametrize(
    "content", ["[1, 2]", "step: 3", "step: {h100: {bf16: {name: x}}}", "loader: {cpu: x}", "step: [", "nothing"]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    from trainer.errors import UsageError

    path = tmp_path / "plan.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match="not figures that"):
        load_saved(path)


def test_devices_are_known_by_their_own_names() -> None:
    assert device_key("NVIDIA H100 80GB HBM3") == "h100"
    assert device_key("NVIDIA GeForce RTX 4090") == "rtx4090"
    assert device_key("NVIDIA RTX 6000 Ada Generation") == "rtx6000ada"
    assert device_key("AMD Instinct MI300X") == "amdinstinctmi300x"


def test_a_step_is_timed_saved_and_planned_with(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    begin_anew()
    recipe, path = "recipes/cifar10/resnet20.yaml", tmp_path / "plan.yaml"
    small = ["data.size=16", "optimizer.global_batch=8", "optimizer.micro_batch=8", *ABSENT]
    assert bench_step(Options(recipe, tuple(small), repeats=1, save=path)) == 0
    assert f"saved: {path}; `trainer plan --gpu cpu` computes with it" in capsys.readouterr().out
    measured = load_saved(path).step("cpu", "fp32")
    assert measured is not None
    cores = str(measured.threads)
    _, said, _ = run(capsys, recipe, *small, "--gpu", "cpu", "--cores", cores, "--json")
    reached = json.loads(said)["ceilings_images_per_s"]["compute"]
    assert reached == pytest.approx(8 / measured.seconds, rel=0.01)


def test_help_and_wrong_devices_do_not_wait_for_torch() -> None:
    code = "import sys; from trainer.__main__ import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    words = ["plan", RECIPE, "--gpu", "h1000"]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, timeout=120)


def test_figures_are_saved_where_plans_look_for_them() -> None:
    assert parse(["bench", "step", RECIPE, "--save"]).save == Path("plan.yaml")
    assert parse(["bench", "loader", "train.beton", "--save", "mine.yaml"]).save == Path("mine.yaml")
    assert parse(["bench", "step", RECIPE]).save is None


def test_options_that_the_command_line_has_are_those_that_the_plan_takes() -> None:
    args = parse(["plan", RECIPE, "--gpu", "a100", "--nodes", "2", "precision=fp32"])
    assert (args.nodes, args.gpu, args.overrides) == (2, "a100", ["precision=fp32"])
