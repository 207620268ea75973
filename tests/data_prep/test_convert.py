"""`python -m data_prep convert`, from images on disk to a beton, its manifest and its mean image."""

from __future__ import annotations

import io
import json
import os
import pty
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from data_prep.__main__ import main
from data_prep.convert import Options, convert, select, statistics_images
from data_prep.images import Store
from data_prep.progress import ImageProgress
from data_prep.restarts import is_restart_marked
from tests.samples import checksum_file, jpeg, smooth_image
from trainer.data.beton import MODE_JPEG, MODE_RAW, Beton
from trainer.data.manifest import (
    digest_of,
    load_manifest,
    load_mean_image,
    manifest_path,
    mean_image_path,
    page_region,
)
from trainer.errors import UsageError
from trainer.jpeg import decode, transcode

Tree = dict[str, bytes]
MakeTree = Callable[..., Tree]
Write = Callable[[Path, Mapping[str, bytes]], Path]
ClassTars = Callable[[Mapping[str, bytes]], bytes]
Tar = Callable[..., bytes]
Encode = Callable[..., bytes]
Photo = Callable[..., PIL.Image.Image]
Cli = Callable[..., subprocess.CompletedProcess[str]]


def outputs(beton: Path) -> dict[str, bytes]:
    """The three files that make a data set."""
    return {path.name: path.read_bytes() for path in (beton, manifest_path(beton), mean_image_path(beton))}


@pytest.fixture(scope="module")
def images(tree: MakeTree) -> Tree:
    return tree({"n03": 11, "n01": 14, "n02": 12})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, images: Tree, write: Write) -> Path:
    return write(tmp_path_factory.mktemp("source") / "images", images)


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """The images as a training set, transcoded."""
    out = tmp_path_factory.mktemp("lossless") / "x.beton"
    convert(Options(folder, out, store=Store.LOSSLESS))
    return out


@pytest.fixture(scope="module")
def one_worker(folder: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("one") / "x.beton"
    assert cli("convert", folder, out, "--workers", 1, "--lossless").returncode == 0
    return outputs(out)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, images: Tree, write: Write, encoded: Encode) -> Path:
    root = write(tmp_path_factory.mktemp("damaged") / "images", images)
    photograph = images["n01/n01_1.JPEG"]
    bad = {"n01/cut.JPEG": photograph[: len(photograph) // 2], "n02/empty.JPEG": b"", "n03/page.JPEG": b"<html>"}
    return write(root, {**bad, "n02/tall.JPEG": encoded(PIL.Image.new("1", (1, 65501)), "PNG")})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, write: Write, encoded: Encode, photo: Photo) -> Path:
    """More than 10 MiB of pixels."""
    data = encoded(photo(0, 640, 640), "BMP")
    root = tmp_path_factory.mktemp("large")
    write(root, {"n01/first.bmp": data})
    for i in range(40):
        os.link(root / "n01/first.bmp", root / f"n01/{i}.bmp")
    return root


class TestWhatIsStored:
    def test_each_image_once_with_its_label_in_shuffled_order(self, lossless: Path, images: Tree) -> None:
        beton = Beton(lossless)
        classes = ["n01", "n02", "n03"]
        stored = [(classes[beton.labels[i]], bytes(beton.record(i))) for i in range(len(beton))]
        expected = [(name.split("/")[0], transcode(images[name])) for name in sorted(images)]
        assert sorted(stored) == sorted(expected)
        assert stored != expected
        assert [expected[i] for i in select(len(expected), "train", 0, None)] == stored

    def test_the_manifest_says_what_the_format_cannot(self, lossless: Path) -> None:
        manifest = load_manifest(lossless)
        assert manifest is not None
        assert (manifest.num_samples, manifest.classes, manifest.counts) == (37, ["n01", "n02", "n03"], [14, 12, 11])
        assert manifest.options == {
            "split": "train",
            "store": "lossless",
            "quality": 90,
            "max_short_side": 480,
            "seed": 0,
            "limit": None,
            "skip_bad": False,
        }
        assert manifest.source["kind"] == "class folders"
        assert (manifest.source["name"], manifest.source["images"]) == ("images", 37)
        assert manifest.source["not_lossless"] == {}
        assert manifest.skipped == []
        assert set(manifest.versions) >= {"numpy", "pillow"}

    def test_the_checksums_are_those_of_the_file(self, lossless: Path) -> None:
        manifest = load_manifest(lossless)
        assert manifest is not None
        checksums = manifest.checksums
        region = page_region(lossless.stat().st_size, 37, len(checksums.pages), checksums.page_size)
        assert checksum_file(lossless, checksums.page_size, *region) == checksums
        assert digest_of(checksums) == manifest.digest

    def test_the_statistics_are_those_of_the_stored_pixels(self, lossless: Path) -> None:
        manifest, beton = load_manifest(lossless), Beton(lossless)
        assert manifest is not None
        means = [decode(beton.record(i)).mean(axis=(0, 1)) for i in range(37)]
        assert manifest.statistics.images == 37
        assert manifest.statistics.mean == pytest.approx(np.mean(means, axis=0), abs=8), "crops against whole images"
        assert load_mean_image(lossless).shape == (224, 224, 3)

    @pytest.mark.parametrize(
        ("images", "counted"), [(1, 1), (2000, 2000), (9000, 2000), (50_000, 6250), (1_281_167, 10_000)]
    )
    def test_the_statistics_of_a_large_data_set_are_of_a_sample(self, images: int, counted: int) -> None:
        assert statistics_images(images) == counted

    @pytest.mark.parametrize("store", [Store.JPEG, Store.LOSSLESS])
    def test_a_very_long_image_is_stored_summed_up_and_verified(self, tmp_path: Path, store: Store, cli: Cli) -> None:
        (tmp_path / "images" / "n01").mkdir(parents=True)
        (tmp_path / "images" / "n01" / "long.JPEG").write_bytes(jpeg(smooth_image(17000, 100, 0)))
        out = tmp_path / "x.beton"
        convert(Options(tmp_path / "images", out, store=store))
        assert Beton(out).widths.tolist() == [17000]
        assert cli("verify", str(out)).returncode == 0

    def test_by_default_all_is_encoded_again_in_colour_within_the_cap(self, folder: Path, tmp_path: Path) -> None:
        convert(Options(folder, tmp_path / "x.beton", max_short_side=24, limit=9))
        beton = Beton(tmp_path / "x.beton")
        assert len(beton) == 9
        assert (beton.modes == MODE_JPEG).all()
        assert (np.minimum(beton.widths, beton.heights) == 24).all()
        for i in range(9):
            assert decode(beton.record(i)).shape == (beton.heights[i], beton.widths[i], 3)
            assert PIL.Image.open(io.BytesIO(beton.record(i))).mode == "RGB"

    def test_validation_keeps_the_order_of_the_source_and_the_size(
        self, folder: Path, images: Tree, tmp_path: Path
    ) -> None:
        manifest = convert(Options(folder, tmp_path / "x.beton", split="val", store=Store.LOSSLESS, limit=9, seed=4))
        assert manifest.options["max_short_side"] == 0
        beton, order = Beton(tmp_path / "x.beton"), select(37, "val", 4, 9)
        names = sorted(images)
        assert [bytes(beton.record(i)) for i in range(9)] == [transcode(images[names[i]]) for i in order]

    def test_class_indices_follow_the_class_file(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "classes.txt").write_text("n02\nn03\nunused\n\nn01\n")
        manifest = convert(Options(folder, tmp_path / "x.beton", classes=tmp_path / "classes.txt"))
        assert manifest.classes == ["n02", "n03", "unused", "n01"]
        assert manifest.counts == [12, 11, 0, 14]
        assert np.bincount(Beton(tmp_path / "x.beton").labels).tolist() == [12, 11, 0, 14]

    @pytest.mark.parametrize("store", [Store.JPEG, Store.LOSSLESS])
    def test_every_jpeg_is_restart_marked(self, folder: Path, tmp_path: Path, store: Store) -> None:
        convert(Options(folder, tmp_path / "x.beton", store=store, max_short_side=44))
        beton = Beton(tmp_path / "x.beton")
        assert (beton.modes == MODE_JPEG).all()
        assert all(is_restart_marked(beton.record(i)) for i in range(37))

    def test_what_is_not_lossless_is_counted_by_reason(
        self, images: Tree, write: Write, encoded: Encode, photo: Photo, tmp_path: Path, cli: Cli
    ) -> None:
        odd = {"n01/cmyk.JPEG": encoded(photo(0).convert("CMYK")), "n01/large.JPEG": encoded(photo(1, 99, 99))}
        odd |= {f"n02/{i}.JPEG": encoded(photo(i), "PNG") for i in range(2)}
        write(tmp_path / "images", {**images, **odd})
        done = cli("convert", tmp_path / "images", tmp_path / "x.beton", "--lossless", "--max-short-side", 60)
        manifest = load_manifest(tmp_path / "x.beton")
        assert manifest is not None
        assert manifest.source["not_lossless"] == {
            "PNG, not JPEG": 2,
            "its colours are CMYK, not YCbCr": 1,
            "shorter side above 60": 1,
        }
        assert (
            "4 images not kept losslessly but encoded at quality 90 "
            "(PNG, not JPEG: 2; its colours are CMYK, not YCbCr: 1; shorter side above 60: 1)"
        ) in done.stdout


class TestSameInputSameBytes:
    def test_whatever_the_number_of_workers(
        self, folder: Path, one_worker: dict[str, bytes], tmp_path: Path, cli: Cli
    ) -> None:
        done = cli("convert", folder, tmp_path / "x.beton", "--workers", 3, "--lossless")
        assert done.returncode == 0
        assert outputs(tmp_path / "x.beton") == one_worker
        assert len(list(tmp_path.iterdir())) == 3, "nothing else is left"

    def test_another_seed_is_another_order(self, folder: Path, one_worker: dict[str, bytes], tmp_path: Path) -> None:
        convert(Options(folder, tmp_path / "x.beton", store=Store.LOSSLESS, seed=1))
        assert outputs(tmp_path / "x.beton")["x.beton"] != one_worker["x.beton"]

    @pytest.mark.parametrize("store", [Store.JPEG, Store.LOSSLESS])
    def test_a_folder_and_the_official_train_tar_give_equal_betons(
        self, folder: Path, images: Tree, class_tars: ClassTars, tmp_path: Path, store: Store
    ) -> None:
        (tmp_path / "train.tar").write_bytes(class_tars(images))
        for source, name in ((folder, "folder"), (tmp_path / "train.tar", "tar")):
            convert(Options(source, tmp_path / f"{name}.beton", store=store, max_short_side=44))
        assert (tmp_path / "folder.beton").read_bytes() == (tmp_path / "tar.beton").read_bytes()

    def test_class_folders_and_the_official_val_tar_give_equal_betons(
        self, images: Tree, write: Write, tar: Tar, tmp_path: Path
    ) -> None:
        labels = {f"ILSVRC2012_val_{i:08d}.JPEG": name for i, name in enumerate(images, 1)}
        flat = {new: images[name] for new, name in labels.items()}
        classes = {new: name.split("/")[0] for new, name in labels.items()}
        write(tmp_path / "val", {f"{classes[name]}/{name}": data for name, data in flat.items()})
        (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(tar(flat))
        (tmp_path / "map.txt").write_text("".join(f"{name} {classes[name]}\n" for name in flat))
        convert(Options(tmp_path / "val", tmp_path / "a.beton"))
        convert(Options(tmp_path / "ILSVRC2012_img_val.tar", tmp_path / "b.beton", val_map=tmp_path / "map.txt"))
        assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()

    def test_the_order_of_a_seed_never_changes(self) -> None:
        assert select(12, "train", 0, None).tolist() == GOLDEN_ORDER
        assert select(12, "train", 0, 4).tolist() == GOLDEN_ORDER[:4]
        assert select(12, "val", 0, 4).tolist() == sorted(GOLDEN_ORDER[:4])
        assert select(12, "val", 0, None).tolist() == list(range(12))


GOLDEN_ORDER = [1, 3, 7, 5, 6, 9, 10, 11, 4, 2, 8, 0]


class TestCifar:
    @pytest.fixture
    def batches(self, tmp_path: Path, write: Write) -> tuple[Path, np.ndarray]:
        pixels = np.random.default_rng(0).integers(0, 256, (20, 3072), np.uint8)
        records = np.column_stack([np.arange(20, dtype=np.uint8) % 2, pixels]).tobytes()
        files = {"data_batch_1.bin": records, "test_batch.bin": records, "batches.meta.txt": b"cat\ndog\n"}
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return write(tmp_path / "cifar-10-batches-bin", files), images

    def test_batches_are_stored_as_pixels(self, batches: tuple[Path, np.ndarray], tmp_path: Path) -> None:
        folder, images = batches
        manifest = convert(Options(folder, tmp_path / "x.beton", split="val"))
        beton = Beton(tmp_path / "x.beton")
        assert (beton.modes == MODE_RAW).all()
        assert [bytes(beton.record(i)) for i in range(20)] == [image.tobytes() for image in images]
        assert beton.labels.tolist() == [0, 1] * 10
        assert (manifest.classes, manifest.options["store"]) == (["cat", "dog"], "raw")
        assert np.allclose(load_mean_image(tmp_path / "x.beton"), images.mean(axis=0), atol=1e-4)

    def test_a_quality_asks_for_jpegs(self, batches: tuple[Path, np.ndarray], tmp_path: Path, cli: Cli) -> None:
        assert cli("convert", batches[0], tmp_path / "x.beton", "--quality", 95).returncode == 0
        assert (Beton(tmp_path / "x.beton").modes == MODE_JPEG).all()


class TestBadImages:
    def test_all_are_listed_and_nothing_is_written(self, damaged: Path, tmp_path: Path, cli: Cli) -> None:
        done = cli("convert", damaged, tmp_path / "x.beton", "--workers", 2)
        assert done.returncode == 2
        listed = sorted(line for line in done.stderr.splitlines() if line.startswith("bad image: "))
        assert [line.split(": ")[1] for line in listed] == [
            "n01/cut.JPEG",
            "n02/empty.JPEG",
            "n02/tall.JPEG",
            "n03/page.JPEG",
        ]
        assert "runcated" in listed[0]
        assert "empty file" in listed[1]
        assert "a side is above 65500" in listed[2]
        assert "not a JPEG" in listed[3]
        assert done.stderr.splitlines()[-1].startswith("error: 4 of 41 images are bad")
        assert not list(tmp_path.iterdir())

    def test_skipped_on_request_and_recorded(
        self, damaged: Path, lossless: Path, tmp_path: Path, cli: Cli, images: Tree
    ) -> None:
        done = cli("convert", damaged, tmp_path / "x.beton", "--skip-bad", "--lossless")
        assert done.returncode == 0
        assert "4 bad images left out" in done.stdout
        manifest, beton = load_manifest(tmp_path / "x.beton"), Beton(tmp_path / "x.beton")
        assert manifest is not None
        assert (manifest.num_samples, manifest.counts) == (37, [14, 12, 11])
        assert {image["name"] for image in manifest.skipped} >= {"n02/empty.JPEG", "n01/cut.JPEG"}
        good = Beton(lossless)
        stored, expected = ({(int(b.labels[i]), bytes(b.record(i))) for i in range(len(b))} for b in (beton, good))
        assert stored == expected

    def test_a_file_that_cannot_be_read_is_no_bad_image(self, folder: Path, tmp_path: Path, cli: Cli) -> None:
        root = tmp_path / "images"
        root.mkdir()
        (root / "n01").symlink_to(folder / "n01")
        (root / "n02").mkdir()
        (root / "n02/gone").symlink_to(tmp_path / "nowhere")
        done = cli("convert", root, tmp_path / "x.beton", "--skip-bad")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == f"error: {root}/n02/gone: cannot read it: No such file or directory"

    def test_nothing_but_bad_images(self, tmp_path: Path, write: Write) -> None:
        write(tmp_path / "images", {"n01/a": b"", "n01/b": b""})
        with pytest.raises(UsageError, match="all of the 2 images are bad"):
            convert(Options(tmp_path / "images", tmp_path / "x.beton", skip_bad=True))


class TestRefusals:
    @pytest.fixture(autouse=True)
    def _keep_signals(self) -> Iterator[None]:
        before = signal.getsignal(signal.SIGTERM)
        yield
        signal.signal(signal.SIGTERM, before)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["{folder}", "{tmp}/x.bin"], "must be called NAME.beton"),
            (["{folder}", "{tmp}/nowhere/x.beton"], "nowhere does not exist"),
            (["{tmp}/nowhere", "{tmp}/x.beton"], "nowhere: cannot read it"),
            (["{folder}", "{tmp}/x.beton", "--limit", "0"], "--limit 0: must be 1 or more"),
            (["{folder}", "{tmp}/x.beton", "--workers", "0"], "--workers 0: must be 1 or more"),
            (["{folder}", "{tmp}/x.beton", "--max-short-side", "-1"], "--max-short-side -1: must be 0 or more"),
            (["{folder}", "{tmp}/x.beton", "--quality", "101"], "--quality 101: must be from 1 to 100"),
            (["{folder}", "{tmp}/x.beton", "--raw", "--quality", "90"], "--raw stores pixels"),
            (["{folder}", "{tmp}/x.beton", "--classes", "{tmp}/none"], "none: cannot read it: No such file"),
            (["{folder}", "{tmp}/x.beton", "--classes", "/dev/null"], "no class name in it"),
        ],
    )
    def test_wrong_input_in_a_line(self, folder: Path, tmp_path: Path, arguments: list[str], expected: str) -> None:
        with pytest.raises(UsageError) as error:
            main(["convert", *(argument.format(folder=folder, tmp=tmp_path) for argument in arguments)])
        assert expected in str(error.value)
        assert "\n" not in str(error.value)
        assert not list(tmp_path.iterdir())

    def test_a_class_that_comes_twice(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "classes").write_text("n01\nn02\nn01\n")
        with pytest.raises(UsageError, match="class 'n01' comes twice"):
            convert(Options(folder, tmp_path / "x.beton", classes=tmp_path / "classes"))

    @pytest.mark.parametrize("name", ["two\nlines", "\x1b[2J", "\udcff"])
    def test_a_class_that_could_not_be_printed(self, tmp_path: Path, write: Write, name: str) -> None:
        write(tmp_path / "images", {"n01/a": b"", f"{name}/a": b""})
        with pytest.raises(UsageError, match=r"images: class \d is '.*', expected a name of .* in one line; rename it"):
            convert(Options(tmp_path / "images", tmp_path / "x.beton"))

    @pytest.mark.parametrize("suffix", ["", ".json", ".mean.npy"])
    def test_nothing_is_replaced_without_being_asked(self, folder: Path, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"x.beton{suffix}").write_text("mine")
        with pytest.raises(UsageError, match="exists; give --overwrite"):
            convert(Options(folder, tmp_path / "x.beton"))
        assert (tmp_path / f"x.beton{suffix}").read_text() == "mine"

    def test_overwrite_replaces_only_when_it_succeeds(self, folder: Path, tmp_path: Path, write: Write) -> None:
        out = tmp_path / "x.beton"
        convert(Options(folder, out, limit=3))
        before = outputs(out)
        write(tmp_path / "bad", {"n01/a": b""})
        with pytest.raises(UsageError, match="all of the 1 images"):
            convert(Options(tmp_path / "bad", out, overwrite=True))
        assert outputs(out) == before
        convert(Options(folder, out, limit=4, overwrite=True))
        assert len(Beton(out)) == 4


class TestSplit:
    @pytest.mark.parametrize(
        ("name", "split"),
        [
            ("train", "train"),
            ("val", "val"),
            ("ILSVRC2012_img_val", "val"),
            ("test2", "val"),
            ("Validation", "val"),
            ("latest", "train"),
            ("values", "train"),
        ],
    )
    def test_by_the_name_of_the_source(
        self, tmp_path: Path, name: str, split: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(UsageError, match="No such file"):
            convert(Options(tmp_path / name, tmp_path / "x.beton"))
        reason = f"by the name '{name}'" if split == "val" else "the default"
        assert f"split: {split} ({reason}; --split decides otherwise)" in capsys.readouterr().err


def test_a_limit_on_the_size_of_files(large: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("convert", large, tmp_path / "x.beton", "--raw", preexec_fn=limit_file_size)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {tmp_path}/x.beton: cannot write it: File too large"
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 << 20, 10 << 20))


class TestConsole:
    def test_the_summary(self, folder: Path, tmp_path: Path, cli: Cli) -> None:
        done = cli("convert", folder, tmp_path / "x.beton")
        manifest = json.loads((tmp_path / "x.beton.json").read_text())
        first, second = done.stdout.splitlines()
        assert first.startswith(f"{tmp_path}/x.beton: 37 images, 3 classes, ")
        assert first.endswith(" images/s)")
        assert second == f"digest {manifest['digest']}"

    def test_plain_lines_without_a_terminal(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("data_prep.progress.LINE_SECONDS", 0.0)
        with ImageProgress("convert", 2000) as progress:
            progress.update(1000, 0)
            progress.update(2000, 3)
        one, other = capsys.readouterr().err.splitlines()
        assert one.startswith("convert: 1,000 of 2,000 images, ")
        assert one.endswith(" left")
        assert other.endswith(", 3 bad")

    def test_a_bar_on_a_terminal(self, folder: Path, tmp_path: Path) -> None:
        terminal, end = pty.openpty()
        command = [sys.executable, "-m", "data_prep", "convert", str(folder), str(tmp_path / "x.beton")]
        with subprocess.Popen(command, stderr=end, stdout=subprocess.DEVNULL) as process:
            os.close(end)
            shown = b"".join(iter(lambda: read_terminal(terminal), b"")).decode()
        os.close(terminal)
        assert process.returncode == 0
        assert "37/37" in shown
        assert "images/s" in shown

    def test_help_names_the_commands_without_loading_them(self, cli: Cli) -> None:
        done = cli("--help")
        assert done.returncode == 0
        for command in ("convert", "verify", "inspect", "synth"):
            assert f"\n    {command} " in done.stdout

    def test_neither_torch_nor_ffcv_is_loaded(self) -> None:
        code = "import sys, data_prep.convert; print({'torch', 'ffcv', 'numba', 'scipy'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "set()\n"


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
