"""`python -m trainer bench evaluation`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.small import begin_anew
from trainer.__main__ import main
from trainer.bench import evaluation
from trainer.evaluation.protocols import MULTI_SCALE, MULTI_SCALE_DENSE, multi_scale, multi_scale_dense


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    begin_anew()
    monkeypatch.setattr(evaluation, "PAPER_SIZE", 32)
    protocols = {MULTI_SCALE: multi_scale((32, 40)), MULTI_SCALE_DENSE: multi_scale_dense((32, 40), "dense")}
    monkeypatch.setattr(evaluation, "PROTOCOLS", protocols)


def bench(photos: Path, out: Path, protocol: str) -> int:
    words = ["--model", "cifar_resnet20", "--protocol", protocol, "--images", "3", "--repeats", "2", "--json", str(out)]
    return main(["bench", "evaluation", str(photos), *words])


def test_crops_at_several_scales_are_set_beside_as_many_forward_passes(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(photos, tmp_path / "out.json", MULTI_SCALE) == 0
    assert "time over that of 60 forward passes alone" in capsys.readouterr().out
    content = json.loads((tmp_path / "out.json").read_text())
    pairs = zip(content["seconds"]["evaluation"], content["seconds"]["forward_passes"], strict=True)
    assert content["times_forward_passes"]["max"] == pytest.approx(max(whole / alone for whole, alone in pairs))
    assert content["images_per_s"]["max"] == pytest.approx(3 / min(content["seconds"]["evaluation"]))


def test_whole_images_have_a_rate_alone(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(photos, tmp_path / "out.json", MULTI_SCALE_DENSE) == 0
    said = capsys.readouterr().out
    assert "images/s, 3 images, multi-scale-dense" in said
    assert "forward passes" not in said
    assert json.loads((tmp_path / "out.json").read_text())["times_forward_passes"] is None


def test_wrong_values_are_one_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(photos, tmp_path / "out.json", "multiscale") == 2
    assert capsys.readouterr().err == "error: --protocol: 'multiscale' is not known (did you mean 'multi-scale'?)\n"
    assert bench(photos, tmp_path / "no" / "out.json", MULTI_SCALE) == 2
    assert "give another place with --json" in capsys.readouterr().err
