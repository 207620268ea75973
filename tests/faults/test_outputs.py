"""Commands whose results have no place to go, or that are stopped: refused at once, told of, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.faults.trainers import TINY, Trainer, Trainers, can_mount, mounted, until
from tests.samples import smooth_image, write_beton
from trainer import checkpoint
from trainer.__main__ import main
from trainer.bench import loader
from trainer.errors import RunError
from trainer.files import append

root_only = pytest.mark.skipif(not can_mount(), reason="needs to mount a small file system, as root")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that is done."""
    made = Trainers(data, tmp_path_factory.mktemp("runs"))
    made.finish("run", "schedule.budget=4it")
    paths = [f"data.train={data}/train.beton", f"data.val={data}/val.beton", f"runs={made.runs}"]
    entry = {"recipe": "tiny.yaml", "name": "run"}
    content = {"set": [*TINY, *paths, "schedule.budget=4it"], "runs": [entry]}
    (made.runs / "sweep.yaml").write_text(yaml.safe_dump(content))
    yield made.runs / "run"
    made.end()


@pytest.fixture(scope="module")
def much(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton that takes a second."""
    images = [smooth_image(16, 16, seed) for seed in range(20)] * 40
    return write_beton(tmp_path_factory.mktemp("much") / "much.beton", images, [i % 3 for i in range(len(images))])


def command(name: str, run: Path, data: Path, out: Path) -> list[str]:
    """`name`, of the run, writing to `out`."""
    val = f"{data}/val.beton"
    return {
        "evaluate": ["evaluate", str(run), "--data", val, "--predictions", str(out)],
        "recalibrate": ["recalibrate", str(run), "--data", f"{data}/train.beton", "--images", "8", "--out", str(out)],
        "responses": ["responses", str(run), "--data", val, "--out", str(out)],
        "preview": ["preview", str(run), "--out", str(out)],
        "report": ["report", str(run), "--out", str(out)],
        "sweep": ["sweep", str(run.parent / "sweep.yaml"), "--out", str(out)],
        "bench": ["bench", "loader", val, "--peers", "", "--json", str(out)],
    }[name]


NAMES = {
    "evaluate": "out.npz",
    "recalibrate": "out",
    "responses": "out.json",
    "preview": "out.png",
    "report": "out",
    "sweep": "out.md",
    "bench": "out.json",
}


def tree(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*")}


@pytest.mark.parametrize("name", NAMES)
def test_a_place_where_nothing_can_be_written_is_refused_before_the_work(
    name: str, run: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / NAMES[name] / "index.html").mkdir(parents=True)
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / NAMES[name]).symlink_to("/dev/full")
    folders = ["taken", "device", "file"]
    if name not in ("recalibrate", "report"):  # which make a folder, and those above it
        folders.append("missing")
    before = tree(tmp_path, run)
    for folder in folders:
        out = tmp_path / folder / NAMES[name]
        assert main(command(name, run, data, out)) == 2
        said = capfd.readouterr()
        assert not said.out
        (line,) = said.err.splitlines()
        assert line.startswith(f"error: {out}")
        assert f"with {'--predictions' if name == 'evaluate' else '--json' if name == 'bench' else '--out'}" in line
    assert tree(tmp_path, run) == before


@root_only
def test_a_read_only_disk_is_refused_before_the_work(
    run: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk:
        subprocess.run(["cp", "-a", str(run), str(disk / "run")], check=True)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        train, val = f"{data}/train.beton", f"{data}/val.beton"
        of_itself = [["recalibrate", "--data", train], ["responses", "--data", val], ["report"]]
        commands = [command(name, run, data, disk / out) for name, out in NAMES.items()]
        for arguments in [*commands, *([name, str(disk / "run"), *rest] for name, *rest in of_itself)]:
            assert main(arguments) == 2
            (line,) = capfd.readouterr().err.splitlines()
            assert line.startswith(f"error: {disk}/")
            assert "Read-only file system; give another place with --" in line


@root_only
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_told_with_the_file_after_the_results(
    name: str,
    run: Path,
    data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "measure", lambda *_: [])
    arguments = command(name, run, data, tmp_path / "disk" / NAMES[name])
    if name == "evaluate":  # a little more than the scores, which have room
        arguments = [*arguments, "--data", f"{data}/train.beton", "--protocol", "all"]
    with mounted(tmp_path / "disk", "size=8k" if name == "evaluate" else "size=4k") as disk:
        (disk / "x").write_bytes(b"x" * 4096)
        assert main(arguments) == 1
        said = capfd.readouterr()
        left = [path for path in disk.rglob("*") if path.name != "x" and path.is_file()]
    error = said.err.splitlines()[-1]
    assert not left
    assert "Traceback" not in said.err
    if name == "recalibrate":  # its size is known
        assert error.startswith(f"error: {disk}/out: it takes ")
        assert not said.out
        return
    written = disk / "out" / "curves.png" if name == "report" else disk / NAMES[name]
    assert error == f"error: {written}: cannot write it: No space left on device"
    shown = {
        "evaluate": "top-1 error",
        "responses": "layer1.0.conv1",
        "report": "run",
        "sweep": "| run",
        "bench": "ours",
    }
    assert name == "preview" or shown[name] in said.out
    if name == "evaluate":
        assert len((run / "evaluations.jsonl").read_text().splitlines()) == 4  # they are kept all the same
    if name == "sweep":
        assert f"note: {written}: cannot write it" in said.out  # after the run, for the sake of those that wait


@root_only
def test_a_run_folder_without_room_leaves_the_other_results(
    run: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path / "disk", "size=3m") as disk:
        subprocess.run(["cp", "-a", str(run), str(disk / "run")], check=True)
        kept = disk / "run" / "evaluations.jsonl"
        kept.write_text("".join(json.dumps({"number": i}) + "\n" for i in range(250)))  # room for a part of a line
        before = kept.read_bytes()
        (disk / "x").write_bytes(bytes(shutil.disk_usage(disk).free))
        assert main(command("evaluate", disk / "run", data, tmp_path / "out.npz")) == 1
        assert kept.read_bytes() == before
        said = capfd.readouterr()
        assert said.err.splitlines()[-1] == (
            f"error: {kept}: cannot write it: No space left on device; the results are above"
        )
    assert "top-1 error" in said.out
    assert np.load(tmp_path / "out.npz")["center"].shape == (21, 3)


@root_only
def test_of_what_does_not_fit_behind_a_file_nothing_is_appended(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=8k") as disk:
        append(disk / "lines", b"a line\n")
        with pytest.raises(RunError, match=r"disk/lines: cannot write it: No space left on device"):
            append(disk / "lines", b"x" * 10_000)
        append(disk / "lines", b"another\n")
        assert (disk / "lines").read_bytes() == b"a line\nanother\n"


def is_reading(trainer: Trainer, beton: Path) -> bool:
    return str(beton) in Path(f"/proc/{trainer.ranks[0].pid}/maps").read_text()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("evaluate", signal.SIGINT),
        ("evaluate", signal.SIGKILL),
        ("responses", signal.SIGINT),
        ("recalibrate", signal.SIGINT),
    ],
)
def test_a_stop_in_the_middle_leaves_nothing(
    name: str, number: int, run: Path, data: Path, much: Path, trainers: Trainers
) -> None:
    (run / "evaluations.jsonl").unlink(missing_ok=True)
    before, out = tree(run), trainers.runs / NAMES[name]
    arguments = [*command(name, run, data, out), "--data", str(much)]
    trainer = trainers.launch(name, [*arguments, *(["--images", "100000"] * (name == "recalibrate"))], 1)
    until(lambda: is_reading(trainer, much))
    trainer.signal(number)
    assert trainer.wait() == [130 if number == signal.SIGINT else -number]
    assert trainer.output == ("error: interrupted\n" if number == signal.SIGINT else "")
    assert not out.exists()
    assert tree(run) == before
    if number == signal.SIGKILL:
        again = trainers.launch(name, arguments, 1)
        assert again.wait() == [0], again.output
        assert len(np.load(out)["center"]) == 800
        assert len((run / "evaluations.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_while_a_recalibrated_checkpoint_is_written(
    number: int, run: Path, data: Path, trainers: Trainers
) -> None:
    out, partial = trainers.runs / "out", trainers.runs / ".out.partial"

    def stopped_while_writing() -> bool:
        trainer = trainers.launch("recalibrate", command("recalibrate", run, data, out), 1)
        until(lambda: partial.exists() or out.exists(), poll=0)
        trainer.signal(number)
        return trainer.wait() != [0]

    assert any(attempt_of(stopped_while_writing, out) for _ in range(10))
    assert not out.exists()
    assert partial.exists() == (number == signal.SIGKILL)
    again = trainers.launch("recalibrate", command("recalibrate", run, data, out), 1)
    assert again.wait() == [0], again.output
    assert checkpoint.load(out)["recalibrated"]["images"] == 8
    assert not partial.exists()


def attempt_of(stop: Callable[[], bool], out: Path) -> bool:
    """Whether it came in time; if not, what was written is moved away."""
    stopped = stop()
    if out.exists():
        os.rename(out, out.with_name(f"late-{len(list(out.parent.iterdir()))}"))
        return False
    return stopped
