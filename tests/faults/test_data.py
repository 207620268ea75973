"""Data that are damaged, lost or exchanged, before a run and during it: it says what happened and what to do."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.datasets import edit_manifest, flip_byte
from tests.faults.trainers import Trainer, Trainers, until
from tests.samples import PYTHON, REPOSITORY
from trainer.data.beton import Beton
from trainer.data.manifest import manifest_path

FAST = "optimizer.micro_batch=16"
"""One micro-batch a step; what there is to see does not depend on it."""

SOON = 20
"""Seconds within which a fault has to be noticed, on any machine."""


@pytest.fixture
def own(trainers: Trainers, data: Path, tmp_path: Path) -> Path:
    """Betons that a test may damage; the trainers' are these."""
    trainers.data = tmp_path / "data"
    shutil.copytree(data, trainers.data, ignore=lambda folder, names: [n for n in names if ".beton" not in n])
    return trainers.data


def error_of(trainer: Trainer, status: int) -> str:
    """The one line in which a trainer says why it ended with `status`, which it does soon."""
    assert trainer.wait(60) == [status], trainer.output
    errors = [line for line in trainer.output.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in trainer.output
    assert len(errors) == 1, trainer.output
    return errors[0].removeprefix("error: ")


def verify(path: Path) -> tuple[int, str]:
    command = [PYTHON, "-m", "data_prep", "verify", str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def damage_jpeg(beton: Path, sample: int) -> None:
    """So that it is no JPEG any more."""
    flip_byte(beton, int(Beton(beton).offsets[sample]))


class TestATruncatedBeton:
    def test_is_refused_before_the_run(self, trainers: Trainers, own: Path) -> None:
        length = (own / "train.beton").stat().st_size
        os.truncate(own / "train.beton", length - 10)
        said = error_of(trainers.start("run"), 2)
        assert said.startswith(f"{own}/train.beton: truncated or damaged: ")
        assert f"check it with `python -m data_prep verify {own}/train.beton` or copy it again" in said
        assert not (trainers.runs / "run").exists()

    def test_ends_the_run_that_reads_it_and_the_same_command_goes_on(self, trainers: Trainers, own: Path) -> None:
        train, settings = own / "train.beton", (FAST, "schedule.budget=40it")
        whole = train.read_bytes()
        trainer = trainers.start("run", *settings)
        until(lambda: trainers.steps("run") >= 9)
        os.truncate(train, int(Beton(train).offsets.min()))
        began = time.monotonic()
        assert error_of(trainer, 1) == (
            f"{train}: could not be read: it became shorter, or its disk failed; "
            "restore it and start the same command again"
        )
        assert time.monotonic() - began < SOON
        train.write_bytes(whole)
        trainer = trainers.finish("run", *settings)
        assert re.search(r"going on at step (4|8|\d\d) of 40", trainer.output)
        assert trainers.losses("run").keys() == set(range(1, 41))


def test_flipped_bytes_of_a_page_are_named_by_verify_and_crash_nothing(trainers: Trainers, own: Path) -> None:
    """Training does not sum up pages, which would take as long as reading them: it ends at what does not decode."""
    train = own / "train.beton"
    beton = Beton(train)
    places = np.random.default_rng(1).integers(beton.offsets.min(), beton.offsets.max(), 20)
    for place in places.tolist():
        flip_byte(train, place)
    status, said = verify(train)
    assert status == 1
    assert re.search(r"page 0 of 1 \(bytes \d+ to \d+\) is not what was written .*; in it: samples 0-49", said)
    trainer = trainers.start("run", FAST, "schedule.budget=8it")
    assert trainer.wait(60) in ([0], [1]), trainer.output
    assert "Traceback" not in trainer.output
    if trainer.ranks[0].exitcode == 1:
        assert re.search(r"error: .*train\.beton: sample \d+ \(label \d, \d+ bytes at offset \d+\): ", trainer.output)


def test_a_flipped_label_is_refused(trainers: Trainers, own: Path) -> None:
    flip_byte(own / "val.beton", 24 + 2 * 1041 + 16 + 0)
    said = error_of(trainers.start("run"), 2)
    assert said.startswith(f"{own}/val.beton: its table of contents (bytes 0 to ")
    assert f"run `python -m data_prep verify {own}/val.beton`" in said


class TestALostManifest:
    def test_a_run_without_one_says_so(self, trainers: Trainers, own: Path) -> None:
        for name in ("train", "val"):
            manifest_path(own / f"{name}.beton").unlink()
        trainer = trainers.finish("run", FAST, "schedule.budget=4it", "data.statistics=imagenet")
        assert (
            f"{own}/train.beton: no manifest train.beton.json beside it, so its classes have no names" in trainer.output
        )

    @pytest.mark.parametrize("lost", [["train"], ["train", "val"]], ids=" and ".join)
    def test_a_run_begun_with_it_does_not_go_on_without(self, trainers: Trainers, own: Path, lost: list[str]) -> None:
        settings = (FAST, "data.statistics=imagenet")
        trainers.finish("run", *settings, "schedule.budget=4it")
        longer = (*settings, "schedule.budget=8it", "resume.allow=[schedule.budget]")
        manifests = [manifest_path(own / f"{name}.beton") for name in lost]
        for manifest in manifests:
            manifest.rename(f"{manifest}.away")
        said = error_of(trainers.start("run", *longer), 2)
        if len(lost) == 2:
            assert said.startswith(
                f"{own}/train.beton: not the data that this run was begun with, or without their man"
            )
            assert "put train.beton.json back beside it" in said
        else:
            assert said.startswith(f"{own}/val.beton: its classes have names, those of {own}/train.beton have none to")
            assert "put the manifest of the training data back" in said
        for manifest in manifests:
            Path(f"{manifest}.away").rename(manifest)
        assert "going on at step 4 of 8" in trainers.finish("run", *longer).output


class TestOtherClasses:
    def test_of_the_validation_are_refused(self, trainers: Trainers, own: Path) -> None:
        edit_manifest(own / "val.beton", lambda content: content.update(classes=["class0", "class2", "class1"]))
        said = error_of(trainers.start("run"), 2)
        assert said.startswith(
            f"{own}/val.beton: class 1 is class2, in {own}/train.beton it is class1; give data of the same classes, or "
        )

    def test_than_those_of_the_run_are_refused(self, trainers: Trainers, own: Path) -> None:
        trainers.finish("run", FAST, "schedule.budget=4it")
        for name in ("train", "val"):
            edit_manifest(own / f"{name}.beton", lambda content: content.update(classes=["class0", "bee", "cat"]))
        longer = (FAST, "schedule.budget=8it", "resume.allow=[schedule.budget]")
        said = error_of(trainers.start("run", *longer), 2)
        assert said.startswith(f"{own}/train.beton: its classes are not those that")
        assert "class 1 was class1 and is bee" in said


class TestACorruptJpeg:
    BAD = (7, 31)

    @pytest.fixture
    def damaged(self, own: Path) -> Path:
        for sample in self.BAD:
            damage_jpeg(own / "train.beton", sample)
        return own / "train.beton"

    def test_ends_the_run_with_its_name(self, trainers: Trainers, damaged: Path) -> None:
        said = error_of(trainers.start("run"), 1)
        assert re.match(rf"{damaged}: sample (7|31) \(label \d, \d+ bytes at offset \d+\): ", said)
        assert "not a JPEG" in said

    def test_is_named_once_replaced_and_counted_where_the_recipe_says_so(
        self, trainers: Trainers, damaged: Path
    ) -> None:
        trainer = trainers.finish("run", FAST, "data.on_error=skip")
        for sample in self.BAD:
            assert len(re.findall(rf"train\.beton: sample {sample} \(label .*\): does not decode", trainer.output)) == 1
        counted = sum(line["skipped"] for line in trainers.lines("run") if line["kind"] == "train")
        assert counted >= 14  # 24 steps of 16 are 7.7 epochs, of two such samples each
        assert f"; {counted} samples did not decode and were replaced" in trainer.output
        assert trainers.state("run")["skipped"] == counted

    def test_in_the_validation_ends_the_run_with_its_name(self, trainers: Trainers, own: Path) -> None:
        damage_jpeg(own / "val.beton", 3)
        assert f"{own}/val.beton: sample 3 (label " in error_of(trainers.start("run", FAST, "data.on_error=skip"), 1)


def test_what_a_thread_of_the_loader_raises_ends_the_run(trainers: Trainers, own: Path) -> None:
    """The thread that reads ahead opens the file anew for each validation, here when no file may be opened any more."""
    trainer = trainers.start("run", FAST, "schedule.budget=10000it", "checkpoint.every=10000it")
    until(lambda: trainers.steps("run") >= 2)
    pid = trainer.ranks[0].pid
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))  # what is open stays so
    assert error_of(trainer, 1) == f"{own}/val.beton: cannot be read: Too many open files"
