"""`python -m trainer doctor`, as it is run: alone, for a recipe and its data, under the launcher."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from data_prep.convert import Options, convert
from tests.faults.trainers import can_mount, mounted
from tests.samples import PYTHON, REPOSITORY, jpeg, smooth_image, without_its_scan, write_beton
from trainer import checkpoint
from trainer.__main__ import main
from trainer.data.beton import Beton
from trainer.doctor.check import ok, warn
from trainer.doctor.disk import read_rate
from trainer.doctor.run_folder import checkpoint_bytes
from trainer.doctor.table import print_report
from trainer.recipe import OptimizerRecipe, Recipe, load_recipe
from trainer.train import train

RECIPE = """
model: {name: cifar_resnet20}
data: {size: 32, min_side: 36, max_side: 48, statistics: data}
optimizer: {global_batch: 16, micro_batch: 16}
evaluation: {resize: 36, every: 1it}
schedule: {budget: 1it, kind: constant}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.beton and val.beton of three classes, with their manifests."""
    folder = tmp_path_factory.mktemp("doctor")
    for split, count in (("train", 6), ("val", 2)):
        for number in range(3 * count):
            path = folder / "images" / split / f"class{number % 3}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(smooth_image(48, 40, number)))
        convert(Options(folder / "images" / split, folder / f"{split}.beton", split))
    shutil.rmtree(folder / "images")
    return folder


@pytest.fixture
def recipe(data: Path, tmp_path: Path) -> list[str]:
    """The arguments that name a sound recipe."""
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return [str(path), f"data.train={data}/train.beton", f"data.val={data}/val.beton", f"runs={tmp_path}/runs"]


def start(*arguments: str | Path, launcher: Sequence[str] = (), folder: Path = REPOSITORY) -> subprocess.Popen[str]:
    """The command in a process of its own, in `folder`."""
    command = [PYTHON, *launcher, "-m", "trainer", "doctor", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    if launcher:
        environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=pipe, stderr=pipe)


Lines = dict[str, tuple[str, str]]


def lines(text: str) -> Lines:
    """By name of the check: status, and what follows. The name is what stands before two blanks."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(ok|warn|fail) +(\S+(?: \S+)*?) {2,}(.*)", line)
        if match:
            found[match[2]] = match[1], match[3]
    return found


Look = Callable[..., tuple[int, Lines]]


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Look:
    """The doctor in this process: exit status, and its lines."""
    monkeypatch.setattr("trainer.doctor.data.DECODING_SECONDS", 0.02)

    def look(recipe: Sequence[str] = (), *overrides: str, data: Sequence[Path] = ()) -> tuple[int, Lines]:
        status = main(["doctor", *recipe, *overrides, *(["--data", *map(str, data)] if data else [])])
        return status, lines(capsys.readouterr().out)

    return look


def test_alone_it_looks_at_the_machine_in_lines_for_grep() -> None:
    out, err = (process := start()).communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert err == ""
    found = lines(out)
    assert {"python", "packages", "jpeg decoder", "pillow", "ffcv", "cores", "memory", "open files"} <= found.keys()
    assert "trainer.jpeg is built" in found["jpeg decoder"][1]
    assert f"of {os.cpu_count()} usable; 1 process(es)" in found["cores"][1]
    assert {"data", "disk", "run folder", "all-reduce"}.isdisjoint(found)
    *checks, last = out.splitlines()
    assert len(checks) == len(found)
    assert last.startswith(f"{len(checks)} checks: ")
    assert last.endswith("0 fail")


def test_a_recipe_is_checked_with_its_data_and_nothing_is_written(look: Look, recipe: list[str], data: Path) -> None:
    before = {path: path.stat() for path in data.iterdir()}
    status, found = look(recipe)
    assert status == 0, found
    assert found["train data"][0] == "ok"
    assert "18 images of 3 classes" in found["train data"][1]
    assert "6 images of 3 classes" in found["val data"][1]
    assert found["recipe and data"][0] == found["decoding"][0] == found["disk"][0] == "ok"
    assert "too little to time" in found["disk"][1]
    assert "images/s to scale crops of 32 px" in found["decoding"][1]
    assert "read from the disk once" in found["memory"][1]
    assert found["run folder"][0] == "ok"
    assert found["global batch"] == ("ok", "16 = 1 process(es) x 1 micro-batch(es) of 16")
    assert before.keys() == set(data.iterdir())
    assert all(path.stat().st_mtime_ns == then.st_mtime_ns for path, then in before.items())
    assert not Path(recipe[0]).with_name("runs").exists()


def test_betons_without_a_recipe(look: Look, photos: Path, data: Path) -> None:
    status, found = look(data=[photos, data / "train.beton"])
    assert status == 0
    assert found["data 1"][0] == "warn"  # it has no manifest
    assert "convert it here" in found["data 1"][1]
    assert found["data 2"][0] == "ok"
    assert "decoding" in found


class TestFailures:
    """Each a line that says what and what to do; the others are made all the same."""

    def test_missing_data(self, look: Look, recipe: list[str]) -> None:
        status, found = look(recipe, "data.val=nowhere.beton")
        assert status == 1
        assert found["val data"][0] == "fail"
        assert "nowhere.beton: cannot open the beton: No such file or directory" in found["val data"][1]
        assert "— make it with `python -m data_prep convert`, or set data.val" in found["val data"][1]
        assert found["train data"][0] == found["decoding"][0] == found["run folder"][0] == "ok"

    def test_truncated_data(self, look: Look, data: Path, tmp_path: Path) -> None:
        whole = (data / "train.beton").read_bytes()
        (tmp_path / "half.beton").write_bytes(whole[: len(whole) // 2])
        status, found = look(data=[tmp_path / "half.beton"])
        assert status == 1
        assert found["data"][0] == "fail"
        assert "truncated or damaged" in found["data"][1]

    def test_a_folder_for_data(self, look: Look, tmp_path: Path) -> None:
        status, found = look(data=[tmp_path])
        assert (status, found["data"][0]) == (1, "fail")

    def test_records_that_do_not_decode(self, look: Look, photos: Path, tmp_path: Path) -> None:
        whole = bytes(Beton(photos).record(0))
        broken = write_beton(tmp_path / "broken.beton", [whole, without_its_scan(whole)], [0, 1])
        status, found = look(data=[broken])
        assert status == 1
        assert found["decoding"][0] == "fail"
        assert "sample 1" in found["decoding"][1]
        assert "data_prep verify" in found["decoding"][1]

    def test_classes_that_do_not_go_together(self, look: Look, recipe: list[str], photos: Path) -> None:
        status, found = look(recipe, f"data.val={photos}")
        assert status == 1
        assert found["recipe and data"][0] == "fail"
        assert "labels up to 4" in found["recipe and data"][1]

    def test_a_run_folder_that_is_a_file(self, look: Look, recipe: list[str], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        status, found = look(recipe, f"runs={tmp_path}/file")
        assert (status, found["run folder"][0]) == (1, "fail")
        assert "cannot be written" in found["run folder"][1]

    @pytest.mark.skipif(not can_mount(), reason="mounting a small disk needs root")
    def test_a_full_disk_under_the_run_folder(self, look: Look, recipe: list[str], tmp_path: Path) -> None:
        with mounted(tmp_path / "disk", "size=1m") as disk:
            status, found = look(recipe, f"runs={disk}/runs")
        assert (status, found["run folder"][0]) == (1, "fail")
        assert "free some space" in found["run folder"][1]

    def test_a_decoder_that_is_not_built(self, recipe: list[str]) -> None:
        # In a process of its own: what imports the decoder is not to be imported again by the other tests.
        code = (
            "import sys; sys.modules['trainer.jpeg'] = None\n"
            "from trainer.__main__ import main; sys.exit(main(['doctor', *sys.argv[1:]]))"
        )
        command = [PYTHON, "-c", code, *recipe]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
        found = lines(done.stdout)
        assert done.returncode == 1, done.stderr
        assert found["jpeg decoder"][0] == "fail"
        assert found["jpeg decoder"][1].endswith("run `make setup`")
        assert "could not look" in found["data"][1]
        assert found["memory"][0] == found["run folder"][0] == "ok"

    def test_a_precision_that_needs_a_gpu(self, look: Look, recipe: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        status, found = look(recipe, "precision=fp16")
        assert (status, found["launch"][0]) == (1, "fail")
        assert "fp16" in found["launch"][1]

    def test_a_launcher_that_started_one_process_for_two(self, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
        # What `accelerate launch --num_processes 2` gives its single process on a machine without GPUs.
        for name, value in {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("trainer.doctor.meeting.end_with_launcher", lambda: None)  # of the tests
        status, found = look()
        assert (status, found["launch"][0]) == (1, "fail")
        assert "asked for several processes and started one" in found["launch"][1]


@pytest.mark.slow
@pytest.mark.cluster
def test_nodes_speak_in_one_report(recipe: list[str], data: Path, tmp_path: Path) -> None:
    """Two launchers, as on two nodes, with a process each; they cannot share the batch, and have other data."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=2", "--num_processes=2"]
    launcher += ["--main_process_ip=127.0.0.1", f"--main_process_port={port}"]
    launcher += ["--mixed_precision=no", "--dynamo_backend=no"]
    folders = [shutil.copytree(data, tmp_path / f"node{rank}") for rank in range(2)]
    write_beton(folders[1] / "train.beton", [jpeg(smooth_image(48, 40, 7))] * 3, [0, 1, 2])
    (folders[1] / "train.beton.json").unlink()
    arguments = [recipe[0], "data.train=train.beton", "data.val=val.beton"]
    nodes = [
        start(*arguments, launcher=[*launcher, f"--machine_rank={rank}"], folder=folder)
        for rank, folder in enumerate(folders)
    ]
    try:
        (out, err), (other, _) = [node.communicate(timeout=240) for node in nodes]
    finally:
        for node in nodes:
            node.terminate()  # a launcher ends its processes
    assert nodes[0].returncode != 0
    assert other == ""
    found, host = lines(out), socket.gethostname()
    assert found["launch"] == ("ok", "2 processes on 2 node(s), cpu, gloo"), err[-3000:]
    assert found["global batch"][0] == "fail"
    assert "2 processes cannot share a global batch of 16" in found["global batch"][1]
    assert len(re.findall(r"^ok +python ", out, re.MULTILINE)) == 1
    assert re.search(rf"^ok +train data +{host}#0: train.beton: 18 images", out, re.MULTILINE)
    assert re.search(rf"^warn +train data +{host}#1: train.beton: 3 images", out, re.MULTILINE)
    assert found["nodes agree"][0] == "fail"
    assert "train.beton is " in found["nodes agree"][1]
    assert found["clocks"][0] == "ok"
    assert re.search(r"\d GB/s bus bandwidth \(gloo, 2 processes\)", found["all-reduce"][1])


class TestMeasuring:
    def test_the_size_of_a_checkpoint_is_foretold(self, recipe: list[str], tmp_path: Path) -> None:
        made = load_recipe(recipe[0], recipe[1:])
        train(made)
        written = checkpoint.find(made.run_dir).stat().st_size
        assert checkpoint_bytes(made, 3) <= written <= 1.1 * checkpoint_bytes(made, 3) + 2**18

    def test_a_rate_is_of_what_was_read(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(os.urandom(9 << 20))
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        rate = read_rate(path)
        assert rate.bytes == 9 << 20
        assert 0 < rate.per_second < float("inf")

    @pytest.mark.parametrize(("ema", "times"), [(0.0, 2), (0.999, 3)])
    def test_resnet50_takes_its_weights_twice_and_once_more_for_an_average(self, ema: float, times: int) -> None:
        recipe = Recipe(optimizer=OptimizerRecipe(ema=ema))
        assert checkpoint_bytes(recipe, 1000) == pytest.approx(times * 4 * 25_557_032, rel=0.01)


class TestTable:
    CHECKS = (ok("python", "3.11"), warn("memory", "22 GiB free for 137 GiB " * 5, "data.order=chunked"))

    def test_plain_lines_are_whole_however_long(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_report(self.CHECKS, Console(width=40))
        out = capsys.readouterr().out.splitlines()
        assert out[0] == "ok   python  3.11"
        assert out[1].startswith("warn memory  22 GiB free")
        assert out[1].endswith("— data.order=chunked")
        assert out[2] == "2 checks: 1 ok, 1 warn, 0 fail"

    @pytest.mark.parametrize("width", [80, 120, 300])
    def test_on_a_terminal_it_fits_its_columns(self, width: int, capsys: pytest.CaptureFixture[str]) -> None:
        print_report(self.CHECKS, Console(width=width, force_terminal=True, color_system=None))
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= min(width, 120)
        assert "→ data.order=chunked" in out

    def test_brackets_are_no_markup(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_report([ok("x", "[bold]7[/bold]")], Console(width=80, force_terminal=True, color_system=None))
        print_report([ok("x", "[bold]7[/bold]")], Console(width=80))
        assert capsys.readouterr().out.count("[bold]7[/bold]") == 2
