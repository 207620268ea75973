"""A loader in a process of its own: what it costs is measured, and whatever becomes of it, the benchmark goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.bench.loader.faulty import BURNT_SECONDS, HELD_BYTES
from trainer.bench.loader.messages import Task
from trainer.bench.loader.peers import Peer
from trainer.bench.loader.process import LoaderProcess
from trainer.bench.loader.work import Work
from trainer.bench.resources import cpu_seconds
from trainer.errors import RunError


def open_process(name: str, work: Work, folder: Path) -> LoaderProcess:
    return LoaderProcess(Task(Peer(name, "", "tests.bench.loader.faulty"), work, 1), folder)


def test_an_epoch_is_counted_and_timed(work: Work, tmp_path: Path) -> None:
    with open_process("good", work, tmp_path) as process:
        assert process.warm_up()
        check = process.check()
        assert check.difference == 0
        assert 0 < check.level < 255
        began = time.perf_counter()
        epoch = process.epoch(1)
        assert epoch.images == 48
        assert 0 < epoch.seconds <= time.perf_counter() - began
        assert epoch.cpu_seconds > 0


def test_a_library_that_draws_its_own_crops_has_a_mean_level_only(work: Work, tmp_path: Path) -> None:
    with open_process("own-crops", work, tmp_path) as process:
        process.warm_up()
        assert process.check().difference is None


def test_pixels_that_are_not_what_was_asked_show(work: Work, tmp_path: Path) -> None:
    with open_process("negative", work, tmp_path) as process:
        process.warm_up()
        difference = process.check().difference
        assert difference is not None
        assert difference > 30


def test_memory_is_the_highest_of_the_first_epoch(work: Work, tmp_path: Path) -> None:
    with open_process("good", work, tmp_path) as light, open_process("heavy", work, tmp_path) as heavy:
        small, large = light.warm_up(), heavy.warm_up()
        assert small is not None
        assert large is not None
        assert large - small == pytest.approx(HELD_BYTES, rel=0.1)


def test_the_cpu_time_of_children_counts_also_while_they_live(work: Work, tmp_path: Path) -> None:
    with open_process("children", work, tmp_path) as process:
        process.warm_up()
        assert process.epoch(1).cpu_seconds > 1.9 * BURNT_SECONDS


def test_cpu_time_taken_while_others_run_shows(work: Work, tmp_path: Path) -> None:
    with open_process("restless", work, tmp_path) as process:
        process.warm_up()
        time.sleep(2 * BURNT_SECONDS)
        assert process.epoch(1).idle_cpu_seconds > 0.5 * BURNT_SECONDS


def test_a_loader_that_waits_takes_no_cpu_time(work: Work, tmp_path: Path) -> None:
    with open_process("good", work, tmp_path) as process:
        process.warm_up()
        time.sleep(0.5)
        assert process.epoch(1).idle_cpu_seconds < 0.05


def test_cpu_seconds_grow_with_work() -> None:
    before = cpu_seconds()
    sum(range(1_000_000))
    assert cpu_seconds() > before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("error", "ValueError: the third image is upside down"),
        ("refusal", "photos.beton: sample 3 does not decode"),
        ("exit", "goodbye"),
        ("thread", "ValueError: the third image is upside down"),
        ("killed", "killed by SIGKILL; if the memory ran out, take a smaller --batch or fewer --peers"),
        ("crash", "killed by SIGABRT"),
        ("short-later", "made 32 images of 48 in epoch 1"),
    ],
)
def test_a_failure_is_told_with_its_last_line(work: Work, tmp_path: Path, name: str, reason: str) -> None:
    with open_process(name, work, tmp_path) as process:
        process.warm_up()
        with pytest.raises(RunError) as failure:
            process.epoch(1)
        assert str(failure.value) == reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [("error-early", "ValueError: the third image is upside down"), ("short", "made 32 images of 48")],
)
def test_so_is_one_of_the_first_epoch(work: Work, tmp_path: Path, name: str, reason: str) -> None:
    with open_process(name, work, tmp_path) as process, pytest.raises(RunError) as failure:
        process.warm_up()
    assert str(failure.value) == reason


def test_so_is_one_before_the_start(work: Work, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="ImportError: libcuda"):
        open_process("unopenable", work, tmp_path)


def test_a_loader_that_hangs_is_given_up_with_its_last_words(work: Work, tmp_path: Path) -> None:
    with open_process("hang", work, tmp_path) as process:
        process.warm_up()
        process.patience = 1.0
        with pytest.raises(RunError, match="nothing for 1 s, given up; its last words: still compiling"):
            process.epoch(1)
        assert not alive(process)


def test_also_in_its_first_epoch(work: Work, tmp_path: Path) -> None:
    with open_process("hang-early", work, tmp_path) as process:
        process.patience = 1.0
        with pytest.raises(RunError, match="nothing for 1 s"):
            process.warm_up()
        assert not alive(process)


def test_closing_ends_the_process_at_once(work: Work, tmp_path: Path) -> None:
    process = open_process("good", work, tmp_path)
    assert alive(process)
    process.close()
    assert not alive(process)
    process.close()


def alive(process: LoaderProcess) -> bool:
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
