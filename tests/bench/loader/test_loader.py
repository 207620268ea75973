"""`python -m trainer bench loader`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from rich.console import Console

from tests.samples import REPOSITORY, smooth_image, write_beton
from trainer.__main__ import main
from trainer.bench import loader
from trainer.bench.loader import Options, bench_loader, measure, parse_peers, parse_workers
from trainer.bench.loader.peers import OURS, PEERS, Peer
from trainer.bench.loader.work import Work
from trainer.errors import UsageError


def test_workers_are_positive_numbers() -> None:
    assert parse_workers("1,2") == (1, 2)
    assert parse_workers("4, 4") == (4,)


@pytest.mark.parametrize("text", ["0", "1,0", "-1", "two", "", "1,,2", "1.5", "²"])
def test_other_workers_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--workers: '.*' is no positive number of workers; write e.g. 1,2"):
        parse_workers(text)


def test_peers_are_known_names() -> None:
    assert parse_peers("dali, ffcv,dali") == ("dali", "ffcv")
    assert parse_peers(None) == ("ffcv", "ffcv+ours", "torchvision", "torchvision-io", "dali", "tensorflow")
    assert parse_peers("") == ()


def test_an_unknown_peer_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no loader is named 'torchvison' \(did you mean 'torchvision'\?\)"):
        parse_peers("ffcv,torchvison")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--batch", "0"], "--batch 0: must be 1 or more"),
        (["--size", "-1"], "--size -1: must be 1 or more"),
        (["--images", "0"], "--images 0: must be 1 or more"),
        (["--repeats", "0"], "--repeats 0: must be 1 or more"),
        (["--crop", "rcc"], "--crop: no crop is named 'rcc' (did you mean 'rrc'?)"),
        (["--json", "figures.txt"], "--json figures.txt: must end in .json (the chart beside it ends in .png)"),
        (
            ["--json", "/no/a.json"],
            "/no/a.json: cannot write into /no: No such file or directory; give another place with --json",
        ),
        (["--workers", "0"], "--workers: '0' is no positive number of workers; write e.g. 1,2"),
        (["--peers", "dalli"], "--peers: no loader is named 'dalli' (did you mean 'dali'?)"),
    ],
)
def test_wrong_values_are_one_line_and_status_2(
    photos: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert main(["bench", "loader", str(photos), *arguments]) == 2
    assert capsys.readouterr().err == f"error: {reason}\n"


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "loader", str(tmp_path / "no.beton")]) == 2
    assert f"{tmp_path / 'no.beton'}: cannot open the beton" in capsys.readouterr().err


def test_a_beton_of_pixels_has_nothing_to_decode(tmp_path: Path) -> None:
    beton = write_beton(tmp_path / "raw.beton", [smooth_image(40, 30, 0), smooth_image(40, 30, 1)], [0, 1])
    with pytest.raises(UsageError, match="2 of 2 images are stored as pixels"):
        bench_loader(Options(beton))


def bench(beton: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer", "bench", "loader", beton, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False)


SMALL = ("--size", "32", "--batch", "16", "--images", "40", "--repeats", "2", "--workers", "1")


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    """What the command prints, its JSON and where that is."""
    out = tmp_path_factory.mktemp("bench") / "out.json"
    peers = ["torchvision", *(peer.name for peer in PEERS if not peer.installed())]
    done = bench(photos, *SMALL, "--peers", ",".join(peers), "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert [line.partition(",")[0] for line in done.stderr.splitlines()] == [
        "warming up: ours",
        "warming up: torchvision",
        "repetition 1 of 2",
        "repetition 2 of 2",
    ]
    return done.stdout, json.loads(out.read_text()), out


def test_it_measures_ours_and_the_peers(run: tuple[str, dict[str, Any], Path]) -> None:
    _, content, _ = run
    ours, torchvision = content["results"][:2]
    assert [ours["loader"], torchvision["loader"]] == ["ours", "torchvision"]
    for row in (ours, torchvision):
        assert [epoch["images"] for epoch in row["epochs"]] == [48, 48], "whole batches"
        assert row["images_per_s"]["min"] > 0
        assert row["pixel_difference"] < 1
    assert ours["pixel_difference"] == 0
    pairs = zip(ours["epochs"], torchvision["epochs"], strict=True)
    ratios = [theirs["seconds"] / mine["seconds"] for mine, theirs in pairs]
    assert torchvision["ours_times"]["median"] == pytest.approx(np.median(ratios))


def test_it_prints_a_table(run: tuple[str, dict[str, Any], Path]) -> None:
    text, content, out = run
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.split()[1:2] == ["1"]}
    for row in content["results"][:2]:
        assert rows[row["loader"]][2] == f"{row['images_per_s']['median']:,.0f}"
    assert content["machine"]["cpu"] in text
    assert f"written: {out}, {out.with_suffix('.png')}" in text


def test_it_names_what_is_not_installed(run: tuple[str, dict[str, Any], Path]) -> None:
    text, content, _ = run
    missing = [peer for peer in PEERS if not peer.installed()]
    assert [row["loader"] for row in content["results"][2:]] == [peer.name for peer in missing]
    for peer in missing:
        assert f"{peer.name}: not installed: {peer.install}" in text


def test_it_draws_a_chart_beside_the_json(run: tuple[str, dict[str, Any], Path]) -> None:
    out = run[2]
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.json", "out.png"]
    assert PIL.Image.open(out.with_suffix(".png")).format == "PNG"


@pytest.mark.slow  # FFCV compiles its pipeline
def test_ratios_are_to_stock_ffcv(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    out = tmp_path / "out.json"
    done = bench(photos, *SMALL, "--crop", "rrc", "--peers", "ffcv", "--json", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    ours, ffcv = json.loads(out.read_text())["results"]
    assert ffcv["times_ffcv"]["median"] == 1
    assert ours["times_ffcv"]["median"] == pytest.approx(ffcv["ours_times"]["median"])
    assert ffcv["pixel_difference"] is None


def faulty(name: str) -> Peer:
    return Peer(name, "", "tests.bench.loader.faulty")


def measured(monkeypatch: pytest.MonkeyPatch, work: Work, *names: str, repeats: int = 2) -> dict[str, Any]:
    monkeypatch.setattr(loader, "OURS", replace(faulty("good"), name=OURS.name))
    monkeypatch.setattr(loader, "PEERS", tuple(map(faulty, names)))
    options = Options(work.beton, workers=(1,), repeats=repeats, peers=names)
    return {result.name: result for result in measure(options, work, Console(quiet=True))}


def test_a_loader_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch, work: Work) -> None:
    results = measured(monkeypatch, work, "unopenable", "error", "negative", "good")
    assert len(results["ours"].epochs) == len(results["good"].epochs) == 2
    assert results["unopenable"].problem.startswith("ImportError: libcuda")
    assert results["error"].problem == "ValueError: the third image is upside down"
    assert results["negative"].problem.startswith("not the same work: pixels of the same crops differ by")
    assert all(results[name].failed and not results[name].epochs for name in ("unopenable", "error", "negative"))


def test_if_one_fails_the_exit_status_is_1(
    monkeypatch: pytest.MonkeyPatch, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loader, "OURS", replace(faulty("good"), name=OURS.name))
    monkeypatch.setattr(loader, "PEERS", (faulty("error"),))
    options = Options(photos, workers=(1,), batch=16, size=32, images=16, repeats=1, peers=("error",))
    assert bench_loader(options) == 1
    assert "error failed: ValueError: the third image is upside down (workers: 1)" in capsys.readouterr().out


def test_each_repetition_begins_with_another_loader(monkeypatch: pytest.MonkeyPatch, work: Work) -> None:
    order: list[tuple[str, int]] = []
    started = loader._run

    def note(result: Any, process: Any, repetition: int) -> None:
        order.append((result.name, repetition))
        started(result, process, repetition)

    monkeypatch.setattr(loader, "_run", note)
    measured(monkeypatch, work, "good", "own-crops")
    assert order == [
        ("ours", 1),
        ("good", 1),
        ("own-crops", 1),
        ("good", 2),
        ("own-crops", 2),
        ("ours", 2),
    ]


def test_interrupted_it_leaves_no_process_behind(photos: Path) -> None:
    command = [sys.executable, "-m", "trainer", "bench", "loader", str(photos), *SMALL, "--peers", ""]
    running = subprocess.Popen(
        [*command, "--repeats", "1000000"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert running.stderr is not None
    while not running.stderr.readline().startswith("repetition 3"):
        assert running.poll() is None
    children = children_of(running.pid)
    assert children
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.splitlines()[-1] == "error: interrupted"
    assert not [child for child in children if Path("/proc", str(child)).exists()]


def children_of(pid: int) -> list[int]:
    parents = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(entry)] = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return [child for child, parent in parents.items() if parent == pid]
