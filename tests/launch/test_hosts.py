"""Several machines without SLURM: two network namespaces, and `launch/run.sh` on each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.cluster import REPOSITORY, Hosts, why_not
from tests.launch.trainings import lines, make_recipe, steps
from tests.processes import mark, pid_of

pytestmark = pytest.mark.cluster

RUN = str(REPOSITORY / "launch" / "run.sh")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if reason := why_not(slurm=False):
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="hosts") as folder:
        made = Hosts(Path(folder), subnet="10.78.0")
        made.start()
        yield made
        made.stop()


def start(hosts: Hosts, name: str, *words: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        hosts.command(name, *words),
        env={key: value for key, value in variables.items() if not key.startswith("SLURM_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=REPOSITORY,
    )


def end(started: subprocess.Popen[str], timeout: float = 180) -> tuple[int, str]:
    """The exit status and the output; what does not end fails the test."""
    try:
        output, _ = started.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        raise
    return started.returncode, output


def test_the_same_line_on_each_machine_but_for_its_rank(hosts: Hosts, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=4)
    line = [RUN, "--nodes", "2", "--master", "node1", "--node-rank"]
    ranks = [start(hosts, f"node{rank + 1}", *line, str(rank), str(recipe)) for rank in range(2)]
    ends = [end(rank) for rank in ranks]
    assert [status for status, _ in ends] == [0, 0], ends
    assert lines(tmp_path / "runs" / "tiny", "start")[0]["world_size"] == 2
    assert lines(tmp_path / "runs" / "tiny", "train")[-1]["step"] == 4


def test_a_staged_run_reads_copies_and_remembers_the_originals(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=2)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [RUN, "--stage", "copy", "--scratch", str(scratch), str(recipe)],
        env={**os.environ, "PATH": path, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=180,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done
    assert done.stderr.count("copied and verified") == 2
    assert f"train: {tmp_path}/train.beton" in (tmp_path / "runs" / "tiny" / "recipe.yaml").read_text()
    assert not list(scratch.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rank_that_is_killed_is_started_again_in_place(tmp_path: Path) -> None:
    """On one machine; at the first try, as every further one costs a restart."""
    recipe = make_recipe(tmp_path, steps=100)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    started = subprocess.Popen(
        [RUN, "--processes", "2", "--restarts", "1", str(recipe)],
        env={**os.environ, "PATH": path, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **mark(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=REPOSITORY,
    )
    run = tmp_path / "runs" / "tiny"
    while steps(run) <= 20 and started.poll() is None:
        time.sleep(0.1)
    os.kill(pid_of(tmp_path, 1), signal.SIGKILL)
    status, output = end(started)
    assert status == 0, output
    assert len(lines(run, "start")) == 2
    assert steps(run) == 100


@pytest.mark.parametrize(
    ("host", "rank", "master", "said"),
    [
        ("node2", "0", "node1", "node1 (10.78.0.11) is not this machine, node2, whose rank is 0"),
        ("node1", "1", "node1", "node1 is this machine, where all meet: its rank is 0, not 1"),
        ("node2", "2", "node1", "of 2 machines the ranks are 0 to 1"),
        ("node2", "1", "nod1", "node2 cannot resolve 'nod1', where the nodes are to meet"),
        ("node2", "1", "localhost", "'localhost' is 127.0.0.1 on node2, which is itself"),
        ("node1", "0", "node1:0", "--master node1:0: 0 is no port"),
    ],
)
def test_a_meeting_that_cannot_be_ends_at_once(hosts: Hosts, host: str, rank: str, master: str, said: str) -> None:
    status, output = end(start(hosts, host, RUN, "--nodes", "2", "--node-rank", rank, "--master", master, "x.yaml"), 60)
    assert status != 0
    assert said in output
    assert len(output.splitlines()) == 1


def test_a_taken_port_is_named(hosts: Hosts) -> None:
    listen = (
        "import socket, time; s = socket.create_server(('', 29500)); print('listening', flush=True); time.sleep(60)"
    )
    taker = start(hosts, "node1", "python", "-c", listen)
    assert taker.stdout is not None
    assert taker.stdout.readline() == "listening\n"
    status, output = end(
        start(hosts, "node1", RUN, "--nodes", "2", "--node-rank", "0", "--master", "node1", "x.yaml"), 60
    )
    os.killpg(taker.pid, signal.SIGKILL)
    taker.communicate()
    assert status != 0
    assert "port 29500 of node1, where the nodes are to meet, is taken" in output


def test_what_starts_fewer_processes_than_it_was_asked_for_is_found_out(tmp_path: Path) -> None:
    """Accelerate's CPU launcher starts a machine's share alone, as a world of its own."""
    recipe = make_recipe(tmp_path)
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1", "--num_processes", "1"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "trainer", "train", str(recipe)],
        env={**os.environ, "TRAINER_WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
    )
    assert done.returncode != 0
    assert "TRAINER_WORLD_SIZE" in done.stderr
    assert not (tmp_path / "runs" / "tiny").exists()
