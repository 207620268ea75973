"""What the launch scripts find, check and print, before anything is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from tests.launch.cluster import REPOSITORY, install
from tests.launch.trainings import make_recipe

LAUNCH = REPOSITORY / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])


def run(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A script, as on a machine without GPUs and outside SLURM."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "ACCELERATE_", "NCCL_"))}
    return subprocess.run(
        [str(word) for word in words],
        env={**kept, "PATH": path, "CUDA_VISIBLE_DEVICES": "", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
    )


def launch_line(*words: str | Path, **variables: str) -> str:
    done = run(LAUNCH / "run.sh", "--dry-run", *words, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(*words: str | Path, **variables: str) -> str:
    """The one line that a script ends with."""
    done = run(*words, **variables)
    assert done.returncode == 2 or "cannot resolve" in done.stderr, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recipe(tmp_path_factory.mktemp("tiny"))


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None and not install("shellcheck"):
        pytest.skip("shellcheck cannot be had")
    done = subprocess.run(
        ["shellcheck", "--external-sources", "--source-path", REPOSITORY, *SCRIPTS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["one_gpu", "one_node", "multi_node", "cpu"])
def test_accelerate_reads_the_configurations(name: str) -> None:
    config = load_config_from_file(str(LAUNCH / "accelerate" / f"{name}.yaml"))
    assert config.num_machines == (2 if name == "multi_node" else 1)
    assert config.mixed_precision == "no"


class TestRun:
    def test_a_machine_without_gpus_trains_one_process_on_its_cpu(self) -> None:
        line = launch_line("recipes/quickstart.yaml", "precision=fp32")
        assert "ACCELERATE_USE_CPU=true" in line
        assert "accelerate/cpu.yaml --quiet -m trainer train recipes/quickstart.yaml precision=fp32" in line

    def test_several_processes_can_be_started_again_in_place(self) -> None:
        line = launch_line("--processes", "2", "--restarts", "5", "recipes/quickstart.yaml")
        assert "TRAINER_WORLD_SIZE=2" in line
        assert "accelerate/one_node.yaml --num_processes 2 --max_restarts 5 -m trainer train" in line

    def test_every_machine_of_several_gets_its_rank(self) -> None:
        address = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
        if not address:
            pytest.skip("this machine has no address")
        line = launch_line(
            "--nodes", "2", "--node-rank", "0", "--master", f"{address[0]}:29512", "--processes", "4", "x.yaml"
        )
        assert "--num_machines 2 --num_processes 8 --machine_rank 0" in line
        assert f"--main_process_ip {address[0]} --main_process_port 29512" in line
        assert "TRAINER_WORLD_SIZE=8" in line

    def test_other_commands_are_started_alike(self) -> None:
        assert "-m trainer evaluate runs/a --data val.beton" in launch_line("evaluate", "runs/a", "--data", "val.beton")

    def test_words_that_a_shell_would_take_apart_are_quoted(self) -> None:
        assert "'a recipe.yaml' 'resume.allow=[schedule.budget]'" in launch_line(
            "a recipe.yaml", "resume.allow=[schedule.budget]"
        )

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "no recipe given"),
            (["--nodes"], "--nodes needs a value"),
            (["--gpu", "1", "x.yaml"], "unknown option --gpu"),
            (["--processes", "none", "x.yaml"], "--processes is 'none', expected a positive number"),
            (["--stage", "disk", "x.yaml"], "expected none, copy or mmap-shared"),
            (["--nodes", "2", "--node-rank", "2", "--master", "a", "x.yaml"], "the ranks are 0 to 1"),
            (["--nodes", "2", "--node-rank", "0", "x.yaml"], "--nodes needs --master"),
            (["--container", "apptainer:a.sif", "x.yaml"], "is for SLURM allocations"),
        ],
    )
    def test_a_wrong_option_is_named(self, words: list[str], said: str) -> None:
        assert said in refusal(LAUNCH / "run.sh", *words)

    def test_gpus_that_slurm_gave_and_nobody_finds_are_not_replaced_by_the_cpu(self) -> None:
        said = refusal(LAUNCH / "run.sh", "x.yaml", SLURM_GPUS_ON_NODE="8")
        assert "SLURM gave 8 GPU(s)" in said
        assert "nvidia-smi finds none" in said


class TestSubmit:
    def test_nothing_is_queued_in_a_trial(self, tiny: Path) -> None:
        done = run(LAUNCH / "submit.sh", tiny, "--nodes=2", "--gpus-per-node", "1", "--time=30", "seed=3", "--dry-run")
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert line.startswith("sbatch --parsable --job-name=tiny-train --time=30")
        assert line.endswith(f"slurm/train.sbatch {tiny} seed=3")
        assert "--nodes=2 --exclusive --gpus-per-node=1" in line

    def test_a_chain_waits_for_what_comes_before(self, tiny: Path, tmp_path: Path) -> None:
        options = ["--gpus-per-node=0", "--cores=4", "--chain", "--dry-run", f"data.train={tmp_path}/later.beton"]
        done = run(LAUNCH / "submit.sh", tiny, *options, "--convert-train", tiny.parent)
        assert done.returncode == 0, done.stderr
        convert, train, evaluate, publish = done.stdout.splitlines()
        assert convert.endswith(f"slurm/convert.sbatch {tiny.parent} {tmp_path}/later.beton")
        assert "--dependency=afterok:CONVERT --kill-on-invalid-dep=yes" in train
        assert "--dependency=afterok:TRAIN" in evaluate
        assert "--dependency=afterok:EVALUATE" in publish

    def test_an_array_has_a_job_a_run(self, tiny: Path) -> None:
        sweep = tiny.with_name("seeds.yaml")
        sweep.write_text(
            "runs:\n" + "".join(f"  - {{recipe: tiny.yaml, name: s{n}, set: [seed={n}]}}\n" for n in range(3))
        )
        done = run(LAUNCH / "submit.sh", sweep, "--array", "--chain", "--gpus-per-node=1", "--dry-run")
        assert done.returncode == 0, done.stderr
        train, evaluate, _ = done.stdout.splitlines()
        assert "--array=0-2" in train
        assert "--dependency=aftercorr:TRAIN" in evaluate

    def test_what_would_fail_at_once_is_not_queued(self, tiny: Path) -> None:
        submit = [LAUNCH / "submit.sh", tiny, "--dry-run"]
        assert "3 processes cannot share a global batch of 16" in refusal(*submit, "--nodes=3", "--gpus-per-node=1")
        assert "cannot open the beton" in refusal(*submit, "--gpus-per-node=1", "data.val=/nowhere/val.beton")
        assert "did you mean 'optimizer'" in refusal(*submit, "--gpus-per-node=1", "optimiser.lr=1")
        assert "--nodes is '0'" in refusal(*submit, "--nodes=0")
        assert "one recipe at a time" in refusal(*submit, "other.yaml")
        assert "no such images" in refusal(*submit, "--gpus-per-node=0", "--chain", "--convert-train=/nowhere")

    def test_without_slurm_it_says_so(self, tiny: Path) -> None:
        if shutil.which("sbatch"):
            pytest.skip("there is a SLURM here")
        assert "there is no sbatch here" in refusal(LAUNCH / "submit.sh", tiny)


class TestBench:
    def test_a_machine_without_gpus_measures_a_small_part(self, tmp_path: Path) -> None:
        (tmp_path / "some.beton").touch()
        done = run(LAUNCH / "bench.sh", "--dry-run", tmp_path / "some.beton", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert [line.partition(" bench ")[2].split()[0] for line in lines] == ["step", "evaluation", "loader"]
        assert "recipes/imagenet/resnet18.yaml --peers timm,torchvision --data" in lines[0]
        assert all(f"--json {tmp_path}/out/" in line for line in lines)
        assert not (tmp_path / "out").exists()

    def test_on_a_gpu_every_depth_is_measured(self, tmp_path: Path) -> None:
        (tmp_path / "some.beton").touch()
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: one'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
        done = run(LAUNCH / "bench.sh", "--dry-run", tmp_path / "some.beton", PATH=path, CUDA_VISIBLE_DEVICES="0")
        assert "--depths 18,34,50,101,152 --batch 256,best --peers timm,torchvision" in done.stdout
        assert "--protocol multi-scale --images" in done.stdout
        assert "--protocol multi-scale-dense --images" in done.stdout

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "no data given"),
            (["absent.beton"], "absent.beton: there is no such beton"),
            (["--quick", "a.beton"], "unknown option --quick"),
            (["a.beton", "out", "more"], "what is 'more'?"),
        ],
    )
    def test_a_wrong_word_is_named(self, words: list[str], said: str) -> None:
        assert said in refusal(LAUNCH / "bench.sh", *words)


@pytest.mark.parametrize("script", ["run.sh", "submit.sh"])
def test_help_names_every_option(script: str) -> None:
    parse = (LAUNCH / script).read_text().split("\nparse() {")[1].split("\n}")[0]
    said = run(LAUNCH / script, "--help").stdout
    assert said.startswith(f"usage: launch/{script}")
    between_scripts = {"--files"}
    taken = set(re.findall(r"--[a-z][a-z-]+", parse)) - between_scripts - {"--name", "--help"}
    assert len(taken) > 8
    assert taken <= set(re.findall(r"--[a-z][a-z-]+", said))
