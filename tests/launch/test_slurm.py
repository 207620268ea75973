"""The batch scripts on a real SLURM of two nodes: what a user submits, and what happens to it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch

from tests.launch.cluster import Cluster
from tests.launch.trainings import lines, make_recipe, steps, weights

# Three jobs may follow one another in a test, each of which starts Python a dozen times.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 150
"""Enough for a test to meet a run half-way."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recipe(tmp_path_factory.mktemp("training"), steps=STEPS)


def submit(cluster: Cluster, recipe: Path, *words: str, nodes: int = 2, processes: int = 1) -> dict[str, int]:
    """Job numbers by stage."""
    shape = [f"--nodes={nodes}", f"--gpus-per-node={processes}", "--cores=2", "--time=10"]
    said = cluster.client("launch/submit.sh", str(recipe), *shape, *words)
    return {stage: int(number) for stage, number in re.findall(r"^(\w+) +job (\d+)$", said, re.MULTILINE)}


def log(recipe: Path) -> str:
    """What all jobs have printed."""
    return "\n".join(path.read_text() for path in sorted((recipe.parent / "runs" / "logs").glob("*.log")))


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, recipe: Path) -> Path:
    """The run folder of a training on both nodes that nothing happened to."""
    job = submit(cluster, recipe, "name=undisturbed")["train"]
    assert cluster.wait(job) == "COMPLETED", log(recipe)
    return recipe.parent / "runs" / "undisturbed"


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_two_nodes_give_the_losses_of_one_process(cluster: Cluster, recipe: Path, undisturbed: Path) -> None:
    job = submit(cluster, recipe, "name=alone", nodes=1)["train"]
    assert cluster.wait(job) == "COMPLETED", log(recipe)
    alone = recipe.parent / "runs" / "alone"
    assert lines(undisturbed, "start")[0]["world_size"] == 2
    assert lines(alone, "start")[0]["world_size"] == 1
    losses = [[line["loss"] for line in lines(run, "train")] for run in (alone, undisturbed)]
    assert len(losses[0]) == STEPS
    assert losses[0] == losses[1]
    ours, theirs = weights(undisturbed), weights(alone)
    learnt = [name for name in theirs if name.endswith((".weight", ".bias"))]  # running statistics are of the ranks
    assert len(learnt) > 50
    assert all(torch.equal(ours[name], theirs[name]) for name in learnt)


def test_two_processes_a_node_make_a_world_of_four(cluster: Cluster, recipe: Path, undisturbed: Path) -> None:
    job = submit(cluster, recipe, "name=four", processes=2)["train"]
    assert cluster.wait(job) == "COMPLETED", log(recipe)
    four = recipe.parent / "runs" / "four"
    assert lines(four, "start")[0]["world_size"] == 4
    assert [line["loss"] for line in lines(four, "train")] == [line["loss"] for line in lines(undisturbed, "train")]


def test_a_run_whose_time_is_over_saves_goes_back_into_the_queue_and_ends_as_if_nothing_had_been(
    cluster: Cluster, recipe: Path, undisturbed: Path
) -> None:
    run = recipe.parent / "runs" / "signalled"
    job = submit(cluster, recipe, "name=signalled")["train"]
    cluster.until(lambda: steps(run) > 20)
    cluster.client("scancel", "--batch", "--signal=USR1", str(job))
    cluster.until(lambda: int(cluster.job(job)["Restarts"]) == 1)
    assert lines(run, "stop")[0]["cause"] == "SIGUSR1"
    assert cluster.wait(job) == "COMPLETED", log(recipe)
    assert len(lines(run, "start")) == 2
    assert same_weights(run, undisturbed)


def preempt(cluster: Cluster) -> None:
    """A job that is more urgent takes both nodes, for a second."""
    nodes = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"]
    urgent = cluster.client("sbatch", "--parsable", *nodes)
    assert cluster.wait(int(urgent)) == "COMPLETED"


def test_a_run_that_is_preempted_leaves_and_comes_back(
    cluster: Cluster, recipe: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """With its data staged, so that signals go through one program more."""
    run = recipe.parent / "runs" / "preempted"
    job = submit(cluster, recipe, "name=preempted", "--stage=copy", f"--scratch={tmp_path}")["train"]
    cluster.until(lambda: steps(run) > 20)
    preempt(cluster)
    assert [line["cause"] for line in lines(run, "stop")] == ["SIGTERM"]
    assert cluster.wait(job) == "COMPLETED", log(recipe)
    assert int(cluster.job(job)["Restarts"]) == 1
    assert same_weights(run, undisturbed)
    assert "copied and verified" in log(recipe)
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_preempted_before_its_first_step_comes_back(cluster: Cluster, recipe: Path) -> None:
    job = submit(cluster, recipe, "name=early", "schedule.budget=2it")["train"]
    cluster.until(lambda: bool(trainer_processes(cluster, "node1")))
    preempt(cluster)
    assert cluster.wait(job) == "COMPLETED", log(recipe)
    assert int(cluster.job(job)["Restarts"]) == 1
    assert steps(recipe.parent / "runs" / "early") == 2


def trainer_processes(cluster: Cluster, node: str) -> list[int]:
    """Those that train, not their launcher."""
    found = []
    for pid in cluster.processes(node):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:
            continue
        if words[1:4] == ["-u", "-m", "trainer"] and words[4] == "train":
            found.append(pid)
    return found


def test_a_rank_that_is_killed_is_started_again_in_place(cluster: Cluster, recipe: Path, undisturbed: Path) -> None:
    run = recipe.parent / "runs" / "killed"
    job = submit(cluster, recipe, "name=killed")["train"]
    cluster.until(lambda: steps(run) > 20)
    (pid,) = trainer_processes(cluster, "node2")
    os.kill(pid, signal.SIGKILL)
    assert cluster.wait(job) == "COMPLETED", log(recipe)
    assert cluster.job(job)["Restarts"] == "0"
    assert len(lines(run, "start")) == 2
    assert same_weights(run, undisturbed)


def test_a_node_that_is_lost_costs_what_came_after_the_last_checkpoint(
    cluster: Cluster, recipe: Path, undisturbed: Path
) -> None:
    run = recipe.parent / "runs" / "lost"
    job = submit(cluster, recipe, "name=lost")["train"]
    cluster.until(lambda: steps(run) > 20)
    cluster.kill_node("node2")
    cluster.until(lambda: int(cluster.job(job)["Restarts"]) == 1)
    cluster.start_node("node2")
    assert cluster.wait(job) == "COMPLETED", log(recipe)
    assert same_weights(run, undisturbed)


def test_a_cancelled_run_saves_and_stays_away(cluster: Cluster, recipe: Path) -> None:
    run = recipe.parent / "runs" / "cancelled"
    job = submit(cluster, recipe, "name=cancelled", nodes=1)["train"]
    cluster.until(lambda: steps(run) > 5)
    cluster.client("scancel", str(job))
    assert cluster.wait(job) == "CANCELLED", log(recipe)
    assert cluster.job(job)["Restarts"] == "0"
    cluster.until(lambda: [line["cause"] for line in lines(run, "stop")] == ["SIGTERM"])


def test_a_run_that_fails_by_its_own_fault_is_not_tried_again(cluster: Cluster, recipe: Path) -> None:
    jobs = submit(cluster, recipe, "name=diverging", "optimizer.lr=1e30", "--chain", nodes=1, processes=2)
    assert cluster.wait(jobs["train"]) == "FAILED", log(recipe)
    run = recipe.parent / "runs" / "diverging"
    assert len(lines(run, "start")) == 1
    assert cluster.job(jobs["train"])["Restarts"] == "0"
    for stage in ("evaluate", "publish"):
        assert cluster.wait(jobs[stage]) == "CANCELLED"


def test_a_chain_leads_from_images_to_a_publication(cluster: Cluster, tmp_path: Path) -> None:
    cluster.client("python", "-m", "data_prep", "synth", str(tmp_path / "images"), "--train", "60", "--val", "20")
    (tmp_path / "chain.yaml").write_text(
        f"runs: {tmp_path}/runs\n"
        "model: {name: resnet18}\n"
        f"data: {{train: {tmp_path}/train.beton, val: {tmp_path}/val.beton, threads: 1,\n"
        "       size: 32, min_side: 36, max_side: 64}\n"
        "optimizer: {global_batch: 16, micro_batch: 4, lr: 0.02}\n"
        "schedule: {budget: 3it, kind: constant}\n"
        "evaluation: {resize: 36, batch: 8}\n"
    )
    images = [f"--convert-{part}={tmp_path}/images/{part}" for part in ("train", "val")]
    places = [
        f"--publish-to={tmp_path}/published",
        "--publish-options=--formats native,torchvision",
        "--evaluate-options=--protocol center",
    ]
    jobs = submit(cluster, tmp_path / "chain.yaml", "--chain", *images, *places)
    assert jobs.keys() == {"convert", "train", "evaluate", "publish"}
    assert cluster.wait(jobs["publish"]) == "COMPLETED", log(tmp_path / "chain.yaml")
    assert (tmp_path / "runs" / "chain" / "evaluations.jsonl").exists()
    assert (tmp_path / "published" / "chain" / "README.md").exists()


def test_a_run_of_an_array_goes_back_into_the_queue_alone(cluster: Cluster, recipe: Path) -> None:
    """The last one, whose job number is that of the array, too."""
    sweep = recipe.with_name("seeds.yaml")
    runs = "".join(
        f"  - {{recipe: tiny.yaml, name: seed{n}, set: [seed={n}, schedule.budget=60it]}}\n" for n in range(2)
    )
    sweep.write_text(f"runs:\n{runs}")
    job = submit(cluster, sweep, "--array", nodes=1)["train"]
    folders = [recipe.parent / "runs" / f"seed{n}" for n in range(2)]
    cluster.until(lambda: steps(folders[1]) > 5)
    cluster.client("scancel", "--batch", "--signal=USR1", f"{job}_1")
    for task in range(2):
        assert cluster.wait(f"{job}_{task}") == "COMPLETED", log(recipe)
    assert [steps(folder) for folder in folders] == [60, 60]
    assert [len(lines(folder, "start")) for folder in folders] == [1, 2]
