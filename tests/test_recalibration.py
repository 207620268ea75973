"""`trainer recalibrate`: a checkpoint with other statistics of batch norm, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.samples import smooth_image, write_beton
from tests.small import begin_anew, make_run
from tests.test_batch_norm import direct_statistics
from tests.test_run_state import assert_equal
from trainer import checkpoint
from trainer.__main__ import main
from trainer.batch_norm import statistics_in
from trainer.evaluation.command import evaluate_checkpoints
from trainer.evaluation.evaluate import Result
from trainer.evaluation.options import Options
from trainer.recalibration import recalibrate_checkpoint
from trainer.record import read_metrics

TRAINED = ("schedule.budget=12it", "optimizer.lr=0.02", "optimizer.ema=0.5", "data.colour=0.1")
IMAGES = 44  # of 16 that there are


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over 12 steps with an average of the weights, and its data; not recalibrated."""
    made = tmp_path_factory.mktemp("run")
    labels = [seed % 2 for seed in range(16)]
    images = [(smooth_image(16, 16, seed) // 3 + 150 * label).astype(np.uint8) for seed, label in enumerate(labels)]
    for name in ("train", "val"):
        write_beton(made / f"{name}.beton", images, labels)  # the light ones are of class 1
    make_run(made, *TRAINED).train()
    return made


@pytest.fixture(scope="module")
def recalibrated(folder: Path) -> Path:
    out = recalibrate_checkpoint(str(folder / "run"), str(folder / "train.beton"), images=IMAGES)
    assert out == folder / "run" / "checkpoints" / "recalibrated-step-00000012"
    return out


def error_of(path: Path, folder: Path) -> Result:
    return evaluate_checkpoints([str(path)], str(folder / "val.beton"), Options(batch=8))[16]["center"]


@pytest.mark.parametrize("which", ["weights", "ema"])
def test_statistics_are_those_of_the_images_that_training_would_see_next(
    folder: Path, recalibrated: Path, which: str
) -> None:
    run = make_run(folder, *TRAINED)
    state = checkpoint.load(folder / "run")
    run.module.load_state_dict(state["model"] if which == "weights" else state["ema"]["model"])
    requests = run.data.order.batches(96, 96 + IMAGES, 4, 0, 1)
    batches = (run.data.preprocess(b.images, b.colour) for b in run.data.train_loader.load(requests))
    direct = np.concatenate([layer.ravel() for layer in direct_statistics(run.module, batches)])
    written = checkpoint.load(recalibrated)
    model = written["model"] if which == "weights" else written["ema"]["model"]
    assert statistics_in(run.module, model).numpy() == pytest.approx(direct, rel=1e-4, abs=1e-5)


def test_nothing_else_is_changed(folder: Path, recalibrated: Path) -> None:
    before, after = checkpoint.load(folder / "run"), checkpoint.load(recalibrated)
    assert after.pop("recalibrated") == {"samples": 96, "images": IMAGES, "data_digest": before["data_digest"]}
    assert before.pop("recalibrated") is None
    for one, other in ((before, after), (before["ema"], after["ema"])):
        model, model_after = one.pop("model"), other.pop("model")
        changed = {key for key in model if not torch.equal(model[key], model_after[key])}
        assert changed == {key for key in model if "running" in key}
    assert_equal(dict(after), dict(before))
    assert checkpoint.newest_intact(folder / "run")[0] == folder / "run" / "checkpoints" / "step-00000012"


def test_the_same_again_is_the_same_bit_for_bit(folder: Path, recalibrated: Path, tmp_path: Path) -> None:
    for source in (folder / "run", recalibrated):
        out = tmp_path / f"from-{source.name}"
        recalibrate_checkpoint(str(source), str(folder / "train.beton"), images=IMAGES, out=out)
        assert_equal(checkpoint.load(out), checkpoint.load(recalibrated))


def test_it_makes_good_whatever_the_statistics_were(folder: Path, recalibrated: Path, tmp_path: Path) -> None:
    state = checkpoint.load(folder / "run")
    for key, value in state["model"].items():
        if "running_mean" in key:
            value.add_(3.0)
        elif "running_var" in key:
            value.mul_(0.01)
    checkpoint.write(tmp_path / "scrambled", state)
    out = tmp_path / "repaired"
    arguments = ["recalibrate", str(tmp_path / "scrambled"), "--data", str(folder / "train.beton")]
    assert main([*arguments, "--images", str(IMAGES), "--out", str(out)]) == 0
    good, bad, repaired = (error_of(path, folder) for path in (recalibrated, tmp_path / "scrambled", out))
    assert repaired.loss == good.loss
    assert repaired.loss < 0.5 * bad.loss


def test_it_says_what_it_did(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["recalibrate", str(folder / "run"), "--data", str(folder / "val.beton"), "--images", "5"]
    assert main([*arguments, "--out", str(tmp_path / "a" / "new")]) == 0
    out = capsys.readouterr().out
    assert f"cifar_resnet20, step 12, on {folder}/val.beton: batch norm recalibrated over 8 images in mic" in out
    assert "weights: moved means by up to " in out
    assert "ema: moved means by up to " in out
    assert f"written: {tmp_path}/a/new" in out
    assert "not the data" not in out  # equal tables of contents
    write_beton(tmp_path / "other.beton", [smooth_image(20, 20, seed) for seed in range(4)], [0, 1, 1, 0])
    arguments[3] = str(tmp_path / "other.beton")
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 0
    assert f"note: {tmp_path}/other.beton: not the data that it was trained on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "{folder}/run"], "{folder}/run: exists already; remove it, or give another folder with --out"),
        (["--images", "0"], "--images is 0, expected at least one"),
        (["--data", "{folder}/many.beton"], "{folder}/many.beton: has labels up to 4, {folder}/run/checkpoints/"),
        (["--data", "{folder}/small.beton"], "{folder}/small.beton: sample 0 (label 0, 48 bytes at "),
        (["--data", "{folder}/none.beton"], "{folder}/none.beton: "),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    write_beton(folder / "many.beton", [smooth_image(16, 16, seed) for seed in range(5)], list(range(5)))
    write_beton(folder / "small.beton", [smooth_image(4, 4, seed) for seed in range(2)], [0, 1])
    arguments = ["--data", f"{folder}/train.beton", "--out", f"{tmp_path}/new"]
    arguments += [value.format(folder=folder) for value in more]
    assert main(["recalibrate", str(folder / "run"), *arguments]) == 2
    assert f"error: {message.format(folder=folder)}" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_one_beside_a_file_of_any_name(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.pt"
    file.write_bytes(checkpoint.find(folder / "run").read_bytes())
    out = recalibrate_checkpoint(str(file), str(folder / "train.beton"), images=4)
    assert out == tmp_path / "recalibrated-mine"
    assert checkpoint.load(out)["step"] == 12


# At the end of a run


def metrics_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / "run") if line["kind"] == kind]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_ends_as_the_command_would_have_it(
    tmp_path: Path, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, whatever the run computed in."""
    end = ["batch_norm.recalibrate=true", f"batch_norm.images={IMAGES}", f"precision={precision}", "optimizer.ema=0.5"]
    run = make_run(tmp_path, "optimizer.lr=0.02", "evaluation.every=2it", *end)
    run.train()
    state = checkpoint.load(tmp_path / "run")
    assert state["recalibrated"] == {"samples": 32, "images": IMAGES, "data_digest": state["data_digest"]}
    assert torch.equal(state["batch_norm_of_ranks"][0], statistics_in(run.module, run.module.state_dict()))
    assert not torch.equal(state["batch_norm_of_ranks"][0], statistics_in(run.module, state["model"]))
    begin_anew()
    again = recalibrate_checkpoint(str(tmp_path / "run"), str(tmp_path / "train.beton"))
    assert_equal(checkpoint.load(again), state)
    assert f"batch norm recalibrated over {IMAGES} images, " in capsys.readouterr().out

    (line,) = metrics_of(tmp_path, "recalibration")
    assert (line["samples"], line["images"]) == (32, IMAGES)
    assert line["mean_moved"] > 0
    validations = metrics_of(tmp_path, "validation")
    assert [(line["samples"], line["recalibrated"]) for line in validations] == [(16, False), (32, True)]
    found = error_of(tmp_path / "run", tmp_path)
    assert validations[-1]["top1_error"] == pytest.approx(found.top1_error)
    assert validations[-1]["loss"] == pytest.approx(found.loss, rel=1e-4 if precision == "fp32" else 0.1)


def test_a_finished_run_is_recalibrated_when_that_is_allowed_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path).train()
    for expected in ("batch norm recalibrated over 8 images", "already finished, at step 4"):
        allow = "resume.allow=[batch_norm.recalibrate,batch_norm.images]"
        make_run(tmp_path, "batch_norm.recalibrate=true", "batch_norm.images=8", allow).train()
        assert expected in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "run")["recalibrated"]["images"] == 8
