"""Limits of containers and batch systems, read from the files of the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.cgroup import cpu_quota, memory_room, node_cores

MIB = 2**20
V2 = "35 23 0:30 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "36 23 0:31 {root} {mount} rw,nosuid shared:5 - cgroup cgroup rw,{controller}\n"


class Machine:
    """A /proc/self and mounted control groups, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.process = folder / "self"
        self.process.mkdir()
        self.mounts = folder / "sys fs cgroup"  # the kernel writes the blank as \040
        (self.process / "mountinfo").write_text("22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n")
        (self.process / "cgroup").write_text("")

    def mount(self, line: str, name: str, root: str = "/", **values: str) -> Path:
        folder = self.mounts / name
        folder.mkdir(parents=True)
        with open(self.process / "mountinfo", "a") as file:
            file.write(line.format(root=root, mount=str(folder).replace(" ", r"\040"), **values))
        return folder

    def belongs_to(self, *lines: str) -> None:
        (self.process / "cgroup").write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def group(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")
    return folder


def test_without_control_groups_there_is_no_limit(machine: Machine) -> None:
    assert memory_room(machine.process) is None
    assert cpu_quota(machine.process) is None


def test_a_machine_without_proc_has_no_limit(tmp_path: Path) -> None:
    assert memory_room(tmp_path / "nowhere") is None
    assert cpu_quota(tmp_path / "nowhere") is None


class TestVersion2:
    def test_the_page_cache_of_the_group_counts_as_room(self, machine: Machine) -> None:
        root = machine.mount(V2, "unified")
        machine.belongs_to("0::/job")
        statistics = f"anon {90 * MIB}\ninactive_file {30 * MIB}\nactive_file {10 * MIB}\nslab {MIB}"
        group(root / "job", memory__max=200 * MIB, memory__current=150 * MIB, memory__stat=statistics)
        assert memory_room(machine.process) == 90 * MIB

    def test_the_tightest_of_the_groups_above_limits(self, machine: Machine) -> None:
        root = machine.mount(V2, "unified")
        machine.belongs_to("0::/slurm/job_7/step_0")
        group(root / "slurm/job_7/step_0", memory__max="max", memory__current=MIB, cpu__max="800000 100000")
        group(root / "slurm/job_7", memory__max=64 * MIB, memory__current=4 * MIB, cpu__max="250000 100000")
        group(root / "slurm", memory__max=900 * MIB, memory__current=5 * MIB, cpu__max="max 100000")
        assert memory_room(machine.process) == 60 * MIB
        assert cpu_quota(machine.process) == 2.5

    def test_max_is_no_limit(self, machine: Machine) -> None:
        root = machine.mount(V2, "unified")
        machine.belongs_to("0::/")
        group(root, memory__max="max", memory__current=MIB, cpu__max="max 100000")
        assert memory_room(machine.process) is None
        assert cpu_quota(machine.process) is None

    def test_a_group_beyond_its_limit_has_no_room(self, machine: Machine) -> None:
        root = machine.mount(V2, "unified")
        machine.belongs_to("0::/")
        group(root, memory__max=10 * MIB, memory__current=12 * MIB, memory__stat="anon 5")
        assert memory_room(machine.process) == 0


class TestVersion1:
    def test_each_controller_has_its_own_hierarchy(self, machine: Machine) -> None:
        memory = machine.mount(V1, "memory", controller="memory")
        cpu = machine.mount(V1, "cpu,cpuacct", controller="cpu,cpuacct")
        machine.belongs_to("9:name=systemd:/x", "4:memory:/job", "2:cpu,cpuacct:/other", "0::/")
        statistics = f"inactive_file 5\ntotal_inactive_file {2 * MIB}\ntotal_active_file {3 * MIB}"
        limits = {"memory__limit_in_bytes": 50 * MIB, "memory__usage_in_bytes": 20 * MIB, "memory__stat": statistics}
        group(memory / "job", **limits)
        group(memory, memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=1)
        group(cpu / "other", cpu__cfs_quota_us=150000, cpu__cfs_period_us=100000)
        group(cpu, cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
        assert memory_room(machine.process) == 35 * MIB
        assert cpu_quota(machine.process) == 1.5

    def test_beside_version_2_the_one_with_the_limit_counts(self, machine: Machine) -> None:
        memory = machine.mount(V1, "memory", controller="memory")
        machine.mount(V2, "unified")
        machine.belongs_to("4:memory:/job", "0::/job")
        group(memory / "job", memory__limit_in_bytes=7 * MIB, memory__usage_in_bytes=MIB)
        assert memory_room(machine.process) == 6 * MIB


class TestContainers:
    """The mount shows the container's own group as its root."""

    def test_that_is_told_the_hosts_path(self, machine: Machine) -> None:
        root = machine.mount(V1, "memory", root="/docker/abc", controller="memory")
        machine.belongs_to("4:memory:/docker/abc/inner")
        group(root, memory__limit_in_bytes=8 * MIB, memory__usage_in_bytes=0)
        group(root / "inner", memory__limit_in_bytes=3 * MIB, memory__usage_in_bytes=0)
        assert memory_room(machine.process) == 3 * MIB

    def test_whose_path_is_not_below_what_is_mounted(self, machine: Machine) -> None:
        root = machine.mount(V2, "unified", root="/")
        machine.belongs_to("0::/kubepods/pod1/somewhere")
        group(root, memory__max=5 * MIB, memory__current=0)
        assert memory_room(machine.process) == 5 * MIB

    def test_whose_path_leads_out_of_its_namespace(self, machine: Machine) -> None:
        root = machine.mount(V2, "unified", root="/../..")
        machine.belongs_to("0::/")
        group(root, memory__max=5 * MIB, memory__current=0)
        assert memory_room(machine.process) == 5 * MIB


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
@pytest.mark.parametrize("by_accelerate", [False, True])
def test_a_process_that_is_bound_next_to_its_gpu_counts_the_nodes_cores(by_accelerate: bool) -> None:
    core = min(os.sched_getaffinity(0))
    ask = f"import os; os.sched_setaffinity(0, {{{core}}}); from trainer.cgroup import node_cores; print(node_cores())"
    variables = {**os.environ, "ACCELERATE_CPU_AFFINITY": "1" if by_accelerate else "0"}
    said = subprocess.run([sys.executable, "-c", ask], env=variables, capture_output=True, text=True, check=True).stdout
    assert float(said) == (node_cores() if by_accelerate else min(1, node_cores()))
