"""The loop: it learns, it stops and goes on, and the number of processes does not matter."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from tests.samples import PYTHON, REPOSITORY, jpeg, smooth_image, without_its_scan, write_beton
from trainer import checkpoint
from trainer.errors import RunError, UsageError
from trainer.evaluation.command import evaluate_checkpoints
from trainer.evaluation.options import Options
from trainer.hardware import cpu_model
from trainer.recipe import Recipe, load_recipe
from trainer.record import read_metrics
from trainer.report.command import report
from trainer.train import train

OVERRIDES = [
    "model.name=cifar_resnet20",
    "data.size=16",
    "data.crop=padded",
    "data.padding=2",
    "data.colour=0.1",
    "data.statistics=imagenet",
    "optimizer.global_batch=16",
    "optimizer.micro_batch=8",
    "optimizer.lr=0.02",
    "schedule.budget=24it",
    "schedule.kind=constant",
    "evaluation.every=8it",
    "evaluation.resize=16",
    "checkpoint.every=4it",
    "checkpoint.keep=9",
    "log.every=1it",
    "log.seconds=0.001",
    "trainer.deterministic=true",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.beton and val.beton: 16x16 pictures of 3 classes that differ in brightness."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 50), ("val", 21)):
        labels = [i % 3 for i in range(count)]
        images = [smooth_image(16, 16, i) // 3 + 80 * label for i, label in enumerate(labels)]
        write_beton(folder / f"{name}.beton", [image.astype(np.uint8) for image in images], labels)
    return folder


@pytest.fixture
def recipe(data: Path, tmp_path: Path) -> Iterator[Callable[..., Recipe]]:
    """Makes the recipe of a small run in `tmp_path`, in this process."""

    def make(*overrides: str) -> Recipe:
        AcceleratorState._reset_state(True)
        PartialState._reset_state()
        return load_recipe(write_recipe(tmp_path), [*arguments(data, tmp_path), *overrides])

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make
    torch.set_num_threads(threads)


def write_recipe(folder: Path) -> Path:
    path = folder / "small.yaml"
    path.write_text("# all of it is in overrides\n{}\n")
    return path


def arguments(data: Path, folder: Path) -> list[str]:
    return [*OVERRIDES, f"data.train={data}/train.beton", f"data.val={data}/val.beton", f"runs={folder}/runs"]


def launch(data: Path, folder: Path, *overrides: str, processes: int = 1, **options: Any) -> subprocess.Popen[str]:
    launcher = ["-m", "accelerate.commands.launch", "--quiet", "--num_machines=1", f"--num_processes={processes}"]
    launcher += [
        "--mixed_precision=no",
        "--dynamo_backend=no",
        *(["--multi_gpu", "--main_process_port=0"] if processes > 1 else []),
    ]
    command = [
        PYTHON,
        *launcher,
        "-m",
        "trainer",
        "train",
        str(write_recipe(folder)),
        *arguments(data, folder),
        *overrides,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return out


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run_dir) if line["kind"] == "train"]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(run_dir)
    assert isinstance(state["model"], dict)
    return state["model"]


def test_a_run_learns_and_leaves_its_record(recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]) -> None:
    made = recipe()
    train(made)
    run = made.run_dir
    assert np.mean(losses(run)[-5:]) < 0.7 * np.mean(losses(run)[:3])
    validations = [line for line in read_metrics(run) if line["kind"] == "validation"]
    assert [line["samples"] for line in validations] == [128, 256, 384]
    assert all(line["images"] == 21 for line in validations)
    assert load_recipe(run) == made
    out = capsys.readouterr().out
    assert "images/s" in out
    assert "ETA" in out
    assert "validation top-1 error" in out
    assert "finished" in out

    state = checkpoint.load(run)
    assert (state["step"], state["samples"]) == (24, 384)
    assert state["classes"] == ["0", "1", "2"]
    assert state["recipe"]["optimizer"]["lr"] == 0.02
    assert {"optimizer", "schedule", "scaler", "best", "data_digest", "versions", "colour"} <= state.keys()
    start = next(line for line in read_metrics(run) if line["kind"] == "start")
    assert start["hardware"] == cpu_model() or start["device"] == "cuda"
    assert start["versions"]["python"] == platform.python_version()

    PartialState._reset_state()
    AcceleratorState._reset_state(True)
    result = evaluate_checkpoints([str(run)], made.data.val, Options(batch=4))[16]["center"]
    assert result.images == 21
    assert result.top1_error == pytest.approx(validations[-1]["top1_error"])
    report([run])
    assert (run / "report" / "curves.png").stat().st_size > 10_000


def test_a_finished_run_is_not_trained_further(recipe: Callable[..., Recipe]) -> None:
    made = recipe("schedule.budget=4it")
    train(made)
    before = weights(made.run_dir)
    train(recipe("schedule.budget=4it"))
    assert all(torch.equal(before[key], value) for key, value in weights(made.run_dir).items())


@pytest.mark.parametrize("order", ["random", "chunked"])
def test_a_run_stopped_anywhere_and_resumed_ends_as_if_it_had_not_been(
    recipe: Callable[..., Recipe], order: str
) -> None:
    straight = recipe("name=straight", f"data.order={order}")
    train(straight)
    stopped = recipe("name=stopped", f"data.order={order}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.train.Run._after_step", stop_at(stopped, step=14))
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    train(recipe("name=stopped", f"data.order={order}"))
    assert losses(stopped.run_dir) == losses(straight.run_dir)
    expected = weights(straight.run_dir)
    for key, value in weights(stopped.run_dir).items():
        assert torch.equal(value, expected[key]), key


def stop_at(recipe: Recipe, step: int) -> Callable[..., None]:
    """`Run._after_step` that is interrupted after `step`."""
    from trainer.train import Run

    original = Run._after_step

    def after_step(self: Run, batch: Any) -> None:
        original(self, batch)
        if self.samples == step * recipe.optimizer.global_batch:
            raise KeyboardInterrupt

    return after_step


def test_plateau_drops_are_recorded_and_survive_a_resume(recipe: Callable[..., Recipe]) -> None:
    plateau = ["schedule.kind=plateau", "schedule.patience=1", "schedule.threshold=0.9", "evaluation.every=4it"]
    made = recipe(*plateau)
    train(made)
    content = json.loads((made.run_dir / "milestones.json").read_text())
    assert content["milestones"] == ["8it", "12it", "16it"]
    rates = [line["lr"] for line in read_metrics(made.run_dir) if line["kind"] == "train"]
    assert rates[7:9] == pytest.approx([0.02, 0.002])
    straight = checkpoint.load(made.run_dir)["schedule"]
    assert straight["drops"][0]["samples"] == 128

    stopped = recipe(*plateau, "name=stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.train.Run._after_step", stop_at(stopped, step=10))
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    train(recipe(*plateau, "name=stopped"))
    assert checkpoint.load(stopped.run_dir)["schedule"] == straight
    assert json.loads((stopped.run_dir / "milestones.json").read_text()) == content


def test_tensorboard_is_written_when_the_recipe_says_so(recipe: Callable[..., Recipe]) -> None:
    made = recipe("schedule.budget=4it", "log.tensorboard=true")
    train(made)
    assert len(list((made.run_dir / "tensorboard").glob("events.*"))) == 1


def test_another_recipe_in_the_same_run_folder_is_refused(recipe: Callable[..., Recipe]) -> None:
    train(recipe("schedule.budget=4it"))
    with pytest.raises(UsageError, match=r"begun with another recipe \(optimizer.lr: 0.02 -> 0.5\)"):
        train(recipe("schedule.budget=4it", "optimizer.lr=0.5"))


def test_other_data_in_the_same_run_folder_are_refused(
    recipe: Callable[..., Recipe], data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "train.beton"
    path.write_bytes((data / "train.beton").read_bytes())
    train(recipe("schedule.budget=4it", f"data.train={path}"))
    write_beton(path, [smooth_image(16, 16, i) for i in range(30)], [i % 3 for i in range(30)])
    with pytest.raises(UsageError, match=r"train\.beton: not the data that this run was begun with"):
        train(recipe("schedule.budget=4it", f"data.train={path}"))


def test_validation_data_of_more_classes_are_refused(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    write_beton(tmp_path / "val.beton", [smooth_image(16, 16, i) for i in range(5)], list(range(5)))
    with pytest.raises(UsageError, match=r"val\.beton: has labels up to 4, .* has 3 classes"):
        train(recipe(f"data.val={tmp_path}/val.beton"))


def test_a_loss_that_is_not_finite_ends_the_run(recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(
        RunError, match=r"the loss is (nan|inf) at step \d+, of samples \d+, .*; there is no checkpoint"
    ):
        train(recipe("optimizer.lr=1e30"))


class TestDamagedSamples:
    """`data.on_error`."""

    BAD = (4, 31)

    @pytest.fixture
    def damaged(self, tmp_path: Path) -> str:
        images = [jpeg(smooth_image(16, 16, i)) for i in range(50)]
        for sample in self.BAD:
            images[sample] = without_its_scan(images[sample])
        return f"data.train={write_beton(tmp_path / 'train.beton', images, [i % 3 for i in range(50)])}"

    def test_end_the_run_with_their_name(self, recipe: Callable[..., Recipe], damaged: str) -> None:
        with pytest.raises(RunError, match=r"train\.beton: sample (4|31) \(label .*\): damaged JPEG"):
            train(recipe(damaged))

    def test_are_replaced_named_once_and_counted_over_resumes(
        self, recipe: Callable[..., Recipe], damaged: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made = recipe(damaged, "data.on_error=skip", "name=stopped")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trainer.train.Run._after_step", stop_at(made, step=14))
            with pytest.raises(KeyboardInterrupt):
                train(made)
        first = capsys.readouterr().out
        for sample in self.BAD:
            assert first.count(f"train.beton: sample {sample} (label") == 1
        train(recipe(damaged, "data.on_error=skip", "name=stopped"))
        counted = sum(line["skipped"] for line in read_metrics(made.run_dir) if line["kind"] == "train")
        assert counted >= 14  # 24 steps of 16 are 7.7 epochs, of two such samples each
        assert checkpoint.load(made.run_dir)["skipped"] == counted
        assert f"; {counted} samples did not decode and were replaced" in capsys.readouterr().out
        report([made.run_dir])
        assert f"{counted} did not decode and were replaced" in capsys.readouterr().out


@pytest.mark.slow
def test_both_engines_train_alike(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    for engine in ("native", "ffcv"):
        finish(launch(data, tmp_path, f"name={engine}", f"data.engine={engine}"))
    assert losses(tmp_path / "runs" / "ffcv") == losses(tmp_path / "runs" / "native")


@pytest.mark.slow
@pytest.mark.cluster
def test_two_processes_see_the_same_losses_as_one(data: Path, tmp_path: Path) -> None:
    found = {}
    for processes in (1, 2):
        finish(launch(data, tmp_path, f"name=on{processes}", "schedule.budget=20it", processes=processes))
        found[processes] = losses(tmp_path / "runs" / f"on{processes}")
    assert len(found[1]) == 20
    assert found[2] == pytest.approx(found[1], rel=1e-4)
    # Every validation image was counted once by the two together.
    lines = read_metrics(tmp_path / "runs" / "on2")
    assert [line["world_size"] for line in lines if line["kind"] == "start"] == [2]
    assert {line["images"] for line in lines if line["kind"] == "validation"} == {21}


@pytest.mark.slow
def test_a_run_killed_with_sigkill_goes_on_from_its_last_checkpoint(data: Path, tmp_path: Path) -> None:
    process = launch(data, tmp_path, "schedule.budget=400it", "checkpoint.every=10it", start_new_session=True)
    run = tmp_path / "runs" / "small"
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "step-00000020").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    newest, notes = checkpoint.newest_intact(run)  # its link `last` may not have been set any more
    assert newest is not None
    assert not notes
    left_at = int(newest.name.removeprefix("step-"))
    assert left_at >= 20
    out = finish(launch(data, tmp_path, "schedule.budget=400it", "checkpoint.every=10it"))
    assert f"going on at step {left_at}" in out
    assert checkpoint.load(run)["step"] == 400
    assert len(losses(run)) == 400
    assert [line["samples"] for line in read_metrics(run) if line["kind"] == "start"] == [0, left_at * 16]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_number_of_processes_that_cannot_share_the_batch_is_refused(data: Path, tmp_path: Path) -> None:
    process = launch(data, tmp_path, "optimizer.micro_batch=16", processes=2)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert (
        err.count("error: 2 processes cannot share a global batch of 16 in micro-batches of 16; use 1 processes") == 1
    )


def test_a_launcher_that_starts_one_process_for_two_is_caught(recipe: Callable[..., Recipe]) -> None:
    # What `accelerate launch --num_processes 2` gives its single process on a machine without GPUs.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("MASTER_PORT", "29500")
        with pytest.raises(UsageError, match="asked for several processes and started one"):
            train(recipe())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "recipes/imagenet/resnet5.yaml"],
            "error: recipes/imagenet/resnet5.yaml: no such recipe (did you mean",
        ),
        (["train", "recipes/quickstart.yaml", "optimizer.lrr=1"], "error: override 'optimizer.lrr=1': unknown key"),
        (["evaluate", "nowhere", "--data", "x.beton"], "error: nowhere: no such checkpoint or run folder"),
        (["report", "nowhere"], "error: nowhere: not a run folder"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [PYTHON, "-m", "trainer", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
