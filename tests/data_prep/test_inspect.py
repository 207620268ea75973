"""`inspect`: what is in a beton, as tables and as a contact sheet."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from data_prep.convert import Options, convert
from data_prep.images import Store
from data_prep.inspect import BAR_WIDTH, MAX_BINS, _bar, _bins, _bytes, choose, class_names, contact_sheet, tables
from trainer.data.beton import Beton
from trainer.data.manifest import load_manifest, manifest_path

Cli = Callable[..., subprocess.CompletedProcess[str]]
Tree = dict[str, bytes]
Write = Callable[[Path, Mapping[str, bytes]], Path]


@pytest.fixture(scope="module", params=[Store.JPEG, Store.RAW], ids=lambda store: store.value)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tree: Callable[..., Tree], write: Write
) -> Path:
    root = tmp_path_factory.mktemp("inspect")
    write(root / "images", {**tree({"ant": 4, "bee": 5, "cat": 3}), "cat/bad.jpg": b"no image"})
    convert(Options(root / "images", root / "x.beton", store=request.param, skip_bad=True))
    return root / "x.beton"


@pytest.fixture
def beton(converted: Path, tmp_path: Path) -> Path:
    """12 images of three classes, one more was skipped; with a manifest."""
    for path in (converted, manifest_path(converted)):
        shutil.copy(path, tmp_path)
    return tmp_path / converted.name


def printed(beton: Path) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        for table in tables(Beton(beton), load_manifest(beton)):
            console.print(table)
    return capture.get()


class TestTables:
    def test_say_what_is_in_the_file(self, beton: Path) -> None:
        text, manifest = printed(beton), load_manifest(beton)
        assert manifest
        for expected in (
            "12 raw" if "raw" in text else "12 JPEG",
            "3: ant, bee, cat",
            manifest.digest,
            "1 bad images left out",
            "cat/bad.jpg",
            "pages of 8 MiB",
            f"{manifest.statistics.mean[0]:.2f}",
            f"{manifest.statistics.eigenvectors[2][1]:+.4f}",
        ):
            assert expected in text

    def test_say_whether_the_jpegs_are_restart_marked(self, beton: Path) -> None:
        text = printed(beton)
        assert ("restart-marked: all of 12" in text) == ("12 JPEG" in text)
        assert ("restart-marked" in text) == ("12 JPEG" in text)

    def test_show_names_that_look_like_markup_or_command_a_terminal(self, beton: Path, cli: Cli) -> None:
        content = json.loads(manifest_path(beton).read_text())
        content["classes"] = ["[/b]", "[red]bee", ":cat:"]
        content["source"]["notes"] = ["\x1b]0;title\x07", "two\nlines"]
        content["skipped"] = [{"name": "\x1b[2J", "reason": "\udcff"}]
        manifest_path(beton).write_text(json.dumps(content))
        done = cli("inspect", beton, "--samples", 0)
        assert (done.returncode, done.stderr) == (0, "")
        for expected in ("[/b], [red]bee, :cat:", r"\x1b]0;title\x07; two\nlines", r"e.g. \x1b[2J: \udcff"):
            assert expected in done.stdout
        assert "\x1b" not in done.stdout

    def test_count_the_classes(self, beton: Path) -> None:
        rows = [line.split() for line in printed(beton).split("images a class (3 classes)")[1].splitlines()]
        for row in (["min", "3", "cat"], ["median", "4", "ant"], ["max", "5", "bee"]):
            assert row in rows

    def test_without_a_manifest(self, beton: Path) -> None:
        manifest_path(beton).unlink()
        text = printed(beton)
        assert "none (x.beton.json is not there)" in text
        assert "class 1" in text


class TestHistogram:
    @given(st.lists(st.integers(1, 65535), min_size=1, max_size=200))
    def test_bins_hold_every_value_once(self, values: list[int]) -> None:
        names, counts = _bins(np.array(values))
        assert counts.sum() == len(values)
        assert len(names) == len(counts) <= MAX_BINS
        for name, count in zip(names, counts, strict=True):
            low, high = (int(part) for part in (name.split(" - ") * 2)[:2])
            assert count == sum(low <= value <= high for value in values)

    @given(st.floats(0, 1))
    def test_bars_grow_with_the_share_and_show_whatever_is_there(self, share: float) -> None:
        assert len(_bar(share)) <= BAR_WIDTH
        assert bool(_bar(share)) == (share > 0)
        assert _bar(1.0) == "█" * BAR_WIDTH

    @pytest.mark.parametrize(
        ("count", "text"),
        [(0, "0 bytes"), (1023, "1,023 bytes"), (1536, "1.5 KiB"), (8 << 20, "8 MiB"), (3 << 40, "3 TiB")],
    )
    def test_sizes_are_for_people(self, count: int, text: str) -> None:
        assert _bytes(count) == text


class TestChoice:
    @given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 30), st.integers(0, 9))
    def test_is_spread_evenly_over_the_classes(self, labels: list[int], count: int, seed: int) -> None:
        chosen = choose(np.array(labels), count, seed)
        assert len(set(chosen.tolist())) == len(chosen) == min(count, len(labels))
        taken = np.bincount(np.array(labels)[chosen], minlength=7)
        there = np.bincount(labels, minlength=7)
        # A class gives fewer than another only when it has no more.
        assert all(taken[i] >= taken.max() - 1 for i in range(7) if taken[i] < there[i])

    def test_follows_the_seed_and_is_sorted_by_class(self) -> None:
        labels = np.arange(1000) % 100
        first = choose(labels, 40, 0)
        assert first.tolist() == choose(labels, 40, 0).tolist()
        assert first.tolist() != choose(labels, 40, 1).tolist()
        assert (np.diff(labels[first]) > 0).all()


class TestSheet:
    def test_shows_the_images(self, beton: Path) -> None:
        opened = Beton(beton)
        samples = choose(opened.labels, 12, 0)
        sheet, failures = contact_sheet(opened, class_names(opened.labels[samples], load_manifest(beton)), samples)
        assert failures == 0
        assert sheet.getcolors(maxcolors=1000) is None  # photographs, not a plain ground

    @pytest.mark.parametrize("converted", [Store.JPEG], indirect=True)
    def test_says_which_image_does_not_decode(self, beton: Path) -> None:
        opened = Beton(beton)
        data = bytearray(beton.read_bytes())
        data[opened.offsets[0]] ^= 0xFF
        beton.write_bytes(data)
        _, failures = contact_sheet(Beton(beton), ["a", "b"], np.array([0, 1]))
        assert failures == 1

    def test_long_names_are_shortened(self, beton: Path) -> None:
        names = ["a very long name of a class, " * 20]
        long, _ = contact_sheet(Beton(beton), names, np.array([0]))
        short, _ = contact_sheet(Beton(beton), ["x"], np.array([0]))
        assert long.size == short.size


class TestCommand:
    def test_prints_tables_and_writes_the_sheet_beside_the_file(self, beton: Path, cli: Cli) -> None:
        done = cli("inspect", beton)
        assert (done.returncode, done.stderr) == (0, "")
        sheet = beton.with_name("x.contact-sheet.png")
        assert f"contact sheet: {sheet}" in done.stdout
        assert PIL.Image.open(sheet).format == "PNG"
        assert "shorter side" in done.stdout

    def test_options(self, beton: Path, tmp_path: Path, cli: Cli) -> None:
        assert cli("inspect", beton, "--samples", 3, "--sheet", tmp_path / "three.png").returncode == 0
        assert PIL.Image.open(tmp_path / "three.png").width < 600
        assert "contact sheet" not in cli("inspect", beton, "--samples", 0).stdout
        assert not beton.with_name("x.contact-sheet.png").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--samples", -1], "must not be negative"),
            (["--sheet", "sheet.jpg"], "name it NAME.png"),
            (["--sheet", "nowhere/sheet.png"], "the folder nowhere does not exist"),
        ],
    )
    def test_refuses_wrong_input(self, tmp_path: Path, cli: Cli, arguments: list[object], message: str) -> None:
        done = cli("inspect", tmp_path / "missing.beton", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1

    def test_refuses_a_missing_file(self, tmp_path: Path, cli: Cli) -> None:
        done = cli("inspect", tmp_path / "missing.beton")
        assert done.returncode == 2
        assert "cannot open the beton" in done.stderr
