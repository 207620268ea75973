"""Run folders that are in use, cannot be written, or are of another run."""

from __future__ import annotations

import shutil
import signal
import subprocess

import numpy as np
import pytest

from data_prep.convert import Options, convert
from tests.faults.trainers import Trainers, can_mount, mounted, until
from tests.samples import jpeg, smooth_image


def refusal(trainers: Trainers, name: str, *overrides: str) -> str:
    """The one line with which a trainer refuses to begin."""
    trainer = trainers.start(name, *overrides)
    assert trainer.wait() == [2], trainer.output
    errors = [line for line in trainer.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in trainer.output
    return errors[0]


def test_a_second_trainer_in_a_run_folder_is_refused_until_the_first_is_gone(trainers: Trainers) -> None:
    first = trainers.start("run", "schedule.budget=100000it")
    until(lambda: trainers.steps("run") >= 2)
    said = refusal(trainers, "run", "schedule.budget=100000it")
    assert "another trainer is at work in this run folder" in said
    assert f"process {first.ranks[0].pid} on" in said
    first.kill()  # it leaves its lock file behind
    assert (trainers.runs / "run" / ".lock").exists()
    second = trainers.start("run", "schedule.budget=100000it")
    until(lambda: "going on at step" in second.output or "starting" in second.output)
    second.signal(signal.SIGTERM)
    assert second.wait() == [85]


@pytest.mark.skipif(not can_mount(), reason="needs to mount a read-only file system, as root")
def test_a_read_only_run_folder_is_refused(trainers: Trainers) -> None:
    with mounted(trainers.runs / "disk", "size=20m") as disk:
        there = Trainers(trainers.data, disk, trainers.started)
        there.finish("run", "schedule.budget=4it")
        recipe = disk / "tiny.yaml"
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        shutil.copy(recipe, trainers.runs)
        said = refusal(trainers, "run", "schedule.budget=4it", f"runs={disk}")
        assert f"error: {disk}/run" in said
        assert "cannot write the run folder: Read-only file system" in said


class TestAnotherRun:
    """What a run was begun with is gone on with, or the user has to say so."""

    def test_a_changed_recipe_is_refused_with_what_changed_unless_it_is_allowed(self, trainers: Trainers) -> None:
        trainers.finish("run", "schedule.budget=4it")
        changes = ("schedule.budget=8it", "optimizer.lr=0.01")
        said = refusal(trainers, "run", *changes)
        assert "(optimizer.lr: 0.02 -> 0.01; schedule.budget: 4it -> 8it)" in said
        assert "resume.allow=[optimizer.lr,schedule.budget]" in said
        said = refusal(trainers, "run", *changes, "resume.allow=[schedule.budget]")
        assert "(optimizer.lr: 0.02 -> 0.01)" in said
        trainer = trainers.finish("run", *changes, "resume.allow=[optimizer.lr,schedule.budget]")
        assert "going on at step 4 of 8" in trainer.output
        rates = {line["step"]: line["lr"] for line in trainers.lines("run") if line["kind"] == "train"}
        assert (rates[4], rates[5]) == (0.02, 0.01)
        assert "(did you mean 'optimizer.lr'?)" in refusal(trainers, "run", *changes, "resume.allow=[optimizer.lrr]")

    def test_another_network_is_refused_by_its_name(self, trainers: Trainers) -> None:
        trainers.finish("run", "schedule.budget=4it")
        said = refusal(trainers, "run", "schedule.budget=4it", "model.name=cifar_resnet32")
        assert "model.name: cifar_resnet20 -> cifar_resnet32" in said
        # What allows the change of the name cannot make the weights fit.
        said = refusal(
            trainers, "run", "schedule.budget=8it", "model.name=cifar_resnet32",
            "resume.allow=[model.name,schedule.budget]",
        )  # fmt: skip
        assert "its checkpoint is of another network than cifar_resnet32" in said

    def test_other_data_are_refused_unless_they_are_allowed_and_other_classes_always(self, trainers: Trainers) -> None:
        trainers.finish("run", "schedule.budget=4it")
        for name in ("other", "renamed"):
            for i in range(30):
                label = f"class{i % 3}" if name == "other" else f"kind{i % 3}"
                path = trainers.runs / name / label / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(jpeg((smooth_image(16, 16, i + 70) // 3).astype(np.uint8)))
            convert(Options(trainers.runs / name, trainers.runs / f"{name}.beton"))
        other, renamed = (f"data.train={trainers.runs}/{name}.beton" for name in ("other", "renamed"))
        said = refusal(trainers, "run", "schedule.budget=4it", other)
        assert "other.beton: not the data that this run was begun with" in said
        longer = ("schedule.budget=8it", "resume.allow=[schedule.budget,data.train,data.val]")
        trainer = trainers.finish("run", other, *longer)
        assert "note: " in trainer.output
        assert "not the data that this run was begun with, as resume.allow says" in trainer.output
        val = f"data.val={trainers.runs}/renamed.beton"
        said = refusal(trainers, "run", renamed, val, *longer)
        assert "renamed.beton: its classes are not those that" in said
        assert "class 0 was class0 and is kind0" in said


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step_and_samples(trainers: Trainers) -> None:
    trainer = trainers.start("run", "optimizer.lr=1e30", "log.every=5it", "checkpoint.every=1it")
    assert trainer.wait() == [1]
    error = trainer.output.strip().splitlines()[-1]
    told = next(line for line in trainers.lines("run") if line["kind"] == "nonfinite")
    step, samples = told["step"], told["sample_ids"]
    assert len(samples) == 16
    assert f"at step {step}, of samples {', '.join(map(str, samples))}; the last checkpoint is step-" in error
    assert trainers.state("run")["step"] < step
    assert all(weight.isfinite().all() for weight in trainers.weights("run").values())


def test_steps_that_are_not_finite_are_skipped_up_to_a_number(trainers: Trainers) -> None:
    skip = ("optimizer.lr=1e30", "trainer.on_nonfinite=skip", "trainer.max_nonfinite=4")
    trainer = trainers.start("run", *skip)
    assert trainer.wait() == [1]
    assert "skipped, 4 of at most 4" in trainer.output
    assert "more than trainer.max_nonfinite=4 such steps were skipped" in trainer.output.splitlines()[-1]
    assert sum(line["kind"] == "nonfinite" for line in trainers.lines("run")) == 5
