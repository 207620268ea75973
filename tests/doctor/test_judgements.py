"""From figures to ok, warn or fail: every threshold from both sides."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from trainer.doctor.check import GIB, MIB, Check, guarded, size
from trainer.doctor.disk import Rate, judge_disk
from trainer.doctor.gpus import judge_compiler, judge_precision, judge_use, runs_on
from trainer.doctor.machine import (
    judge_batches,
    judge_cores,
    judge_cpu_threads,
    judge_locked_memory,
    judge_memory,
    judge_open_files,
    judge_shared_memory,
)
from trainer.doctor.run_folder import judge_room
from trainer.doctor.software import unmet
from trainer.recipe import Recipe

UNLIMITED = resource.RLIM_INFINITY


def raising(error: Exception) -> Check:
    raise error


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError(5, "Input/output error"), "could not look: [Errno 5] Input/output error"),
        (ValueError("two\nlines"), "could not look: two lines"),
        (KeyError(), "could not look: KeyError"),
    ],
)
def test_what_cannot_be_looked_at_is_a_warning_that_says_why(error: Exception, found: str) -> None:
    assert guarded("thing", lambda: raising(error)) == [Check("warn", "thing", found)]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.0 KiB"), (1536, "1.5 KiB"), (MIB, "1 MiB"), (GIB, "1.0 GiB"), (1.5e15, "1,396,983.9 GiB")],
)
def test_sizes_as_people_read_them(count: float, text: str) -> None:
    assert size(count) == text


class TestCores:
    @pytest.mark.parametrize(("usable", "threads", "processes"), [(8, 8, 1), (8, 1, 8), (2.5, 2, 1)])
    def test_enough(self, usable: float, threads: int, processes: int) -> None:
        assert judge_cores(usable, 64, threads, processes).status == "ok"

    def test_too_many_threads_are_told_how_many_fit(self) -> None:
        check = judge_cores(8, 64, 4, 3)
        assert (check.status, check.found) == ("warn", "8 of 64 usable; 3 process(es) with 4 decoding thread(s)")
        assert "data.threads=2" in check.advice

    def test_a_quota_counts_like_cores(self) -> None:
        assert judge_cores(1.5, 64, 2, 1).status == "warn"

    def test_more_processes_than_cores_cannot_be_helped_by_threads(self) -> None:
        assert "fewer processes" in judge_cores(2, 2, 1, 4).advice

    def test_threads_that_compute(self) -> None:
        assert judge_cpu_threads(4, 2, 8).status == "ok"
        check = judge_cpu_threads(8, 2, 8)
        assert (check.status, check.advice) == ("warn", "export OMP_NUM_THREADS=4")
        assert judge_cpu_threads(64, 1, 1.5).advice == "export OMP_NUM_THREADS=1"


class TestMemory:
    def test_data_that_fit_are_read_once(self) -> None:
        assert judge_memory(4 * GIB, 4 * GIB, None).status == "ok"

    def test_larger_data_want_to_be_read_in_chunks(self) -> None:
        check = judge_memory(4 * GIB, 4 * GIB + 1, None)
        assert (check.status, check.advice) == ("warn", "data.order=chunked")

    def test_chunks_need_their_window_only(self) -> None:
        assert judge_memory(2 * GIB, 140 * GIB, GIB).status == "ok"
        check = judge_memory(2 * GIB - 1, 140 * GIB, GIB)
        assert check.status == "warn"
        assert "data.window" in check.advice

    def test_without_data_it_is_only_told(self) -> None:
        assert judge_memory(1, 0, None) == Check("ok", "memory", "0.0 KiB free")

    def test_batches_ahead_leave_half_of_it(self) -> None:
        assert judge_batches(GIB, 2, 4 * GIB).status == "ok"
        assert judge_batches(GIB + 1, 2, 4 * GIB).advice == "lower data.prefetch"


class TestLimits:
    def test_open_files(self) -> None:
        assert judge_open_files(1024, 1024).status == "ok"
        assert judge_open_files(UNLIMITED, UNLIMITED).found == "unlimited"
        assert judge_open_files(1023, 4096).advice == "ulimit -n 1024"
        assert "root has to raise" in judge_open_files(256, 512).advice

    def test_shared_memory_matters_to_several_processes(self) -> None:
        assert judge_shared_memory(GIB, GIB, several=True).status == "ok"
        assert judge_shared_memory(64 * MIB, 64 * MIB, several=False).status == "ok"
        check = judge_shared_memory(64 * MIB, 64 * MIB, several=True)
        assert check.status == "warn"
        assert "--shm-size=1g" in check.advice

    def test_locked_memory_matters_to_infiniband(self) -> None:
        assert judge_locked_memory(65536, infiniband=False).status == "ok"
        assert judge_locked_memory(UNLIMITED, infiniband=True).status == "ok"
        assert judge_locked_memory(65536, infiniband=True).status == "warn"


class TestDisk:
    def judge(self, rate: Rate, speed: float | None = 2000, fits: bool = False, chunked: bool = False) -> Check:
        return judge_disk(Path("/data"), rate, 1e5, speed, fits=fits, chunked=chunked)

    def test_it_feeds_what_decodes(self) -> None:
        check = self.judge(Rate(200_000_000, 1.0, 0.0))
        assert check == Check("ok", "disk", "/data: 200 MB/s, at most 2,000 images/s of 100 kB")

    def test_a_slower_one_is_a_warning_where_the_data_do_not_stay_in_memory(self) -> None:
        slow = Rate(199_000_000, 1.0, 0.0)
        assert self.judge(slow).status == "warn"
        assert "data.order=chunked" in self.judge(slow).advice
        assert self.judge(slow, chunked=True).advice == "copy the data to a faster disk"
        assert self.judge(slow, fits=True).status == "ok"

    def test_what_cannot_be_compared_or_timed_is_only_told(self) -> None:
        assert self.judge(Rate(20_000_000, 100.0, 0.0), speed=None).status == "ok"
        assert "too little to time" in self.judge(Rate(MIB, 0.0, 0.0)).found
        assert "kept in memory" in self.judge(Rate(200_000_000, 0.1, 0.9)).found


class TestRunFolder:
    def judge(self, free: int, made: int = 0) -> Check:
        recipe = Recipe()
        recipe.checkpoint.keep = 3
        return judge_room(Path("runs/x"), free, 100 * MIB, recipe, made)

    def test_the_newest_the_best_and_the_one_that_is_written_fit(self) -> None:
        assert self.judge(500 * MIB).status == "ok"
        assert self.judge(499 * MIB).status == "warn"

    def test_without_room_for_one_it_fails(self) -> None:
        assert self.judge(100 * MIB).status == "warn"
        assert self.judge(100 * MIB - 1).status == "fail"

    def test_those_that_are_there_already_need_none(self) -> None:
        assert self.judge(200 * MIB, made=3).status == "ok"
        assert self.judge(100 * MIB, made=9).status == "ok"
        assert self.judge(99 * MIB, made=9).status == "fail"


class TestGpus:
    @pytest.mark.parametrize(
        ("capability", "built_for", "runs"),
        [
            ((8, 0), ["sm_80"], True),
            ((8, 6), ["sm_75", "sm_80"], True),  # machine code runs on later minor versions
            ((7, 5), ["sm_80"], False),
            ((9, 0), ["sm_80"], False),  # and on no other major version,
            ((9, 0), ["sm_80", "compute_80"], True),  # PTX does
            ((6, 1), ["sm_70", "compute_70"], False),
            ((9, 0), ["sm_90a"], True),
            ((12, 0), ["sm_90a", "sm_120"], True),
            ((10, 3), ["sm_90a", "compute_90a"], False),
            ((8, 0), [], False),
        ],
    )
    def test_what_code_runs_where(self, capability: tuple[int, int], built_for: list[str], runs: bool) -> None:
        assert runs_on(capability, built_for) is runs

    def test_bf16_is_hardware_since_ampere(self) -> None:
        assert judge_precision((8, 0), "bf16").status == "ok"
        assert judge_precision((7, 5), "bf16").advice == "take precision=fp16"
        assert judge_precision((7, 5), "fp16").status == "ok"
        assert judge_precision((7, 5), "tf32").status == "fail"

    @pytest.mark.parametrize(
        ("missing", "asked", "status"),
        [
            (None, None, "ok"),
            ("there is no Triton", None, "warn"),
            ("there is no Triton", True, "fail"),
            ("there is no Triton", False, "ok"),
        ],
    )
    def test_a_compiler_is_missed_where_it_is_asked_for(
        self, missing: str | None, asked: bool | None, status: str
    ) -> None:
        recipe = Recipe()
        recipe.step.compile = asked
        assert judge_compiler(missing, recipe).status == status

    def test_gpus_that_get_no_process(self) -> None:
        assert judge_use(8, None) == []
        assert judge_use(8, "8") == []
        assert [check.status for check in judge_use(8, "4")] == ["warn"]


class TestPackages:
    def test_versions_out_of_range_are_named(self) -> None:
        assert unmet([Requirement("rich>=999")])[0].startswith("rich ")
        assert unmet([Requirement("rich>=1"), Requirement("no-such-package>=1; extra == 'dev'")]) == []
        assert unmet([Requirement("no-such-package>=1")]) == ["no-such-package not installed, needed >=1"]

    def test_pillow_simd_is_a_pillow(self) -> None:
        assert unmet([Requirement("pillow>=10.2")]) == []
