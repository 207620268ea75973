"""`verify` finds every damage, says where it is, and praises only what is sound."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.convert import Options, convert
from data_prep.images import Record, Store
from data_prep.verify import _ranges, verify
from data_prep.writer import PAGE_SIZE, BetonWriter
from trainer.data.beton import MODE_JPEG, SAMPLE_DTYPE, Beton, metadata_offset
from trainer.data.manifest import Manifest, Statistics, digest_of, load_manifest, manifest_path, mean_image_path
from trainer.errors import UsageError

Cli = Callable[..., subprocess.CompletedProcess[str]]
Encode = Callable[..., bytes]
Photo = Callable[..., PIL.Image.Image]
Tree = dict[str, bytes]


def copy_of(beton: Path, folder: Path) -> Path:
    for path in (beton, manifest_path(beton), mean_image_path(beton)):
        if path.exists():
            shutil.copy(path, folder)
    return folder / beton.name


def flip_byte(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x5A]))


def edit_manifest(beton: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(manifest_path(beton).read_text())
    change(content)
    manifest_path(beton).write_text(json.dumps(content))


def edit_metadata(beton: Path, sample: int, field: str, value: int) -> None:
    """Change one number of the image field of one sample."""
    image = SAMPLE_DTYPE["f0"]
    kind, start = image.fields[field][:2]  # type: ignore[index]
    data = np.array(value, kind).tobytes()
    with open(beton, "r+b") as file:
        file.seek(metadata_offset(2) + sample * SAMPLE_DTYPE.itemsize + start)
        file.write(data)


@pytest.fixture(scope="module")
def sound(
    tmp_path_factory: pytest.TempPathFactory,
    tree: Callable[..., Tree],
    write: Callable[[Path, Mapping[str, bytes]], Path],
) -> Path:
    """13 images of three classes, one page."""
    root = tmp_path_factory.mktemp("sound")
    write(root / "images", tree({"ant": 4, "bee": 5, "cat": 4}))
    convert(Options(root / "images", root / "x.beton"))
    return root / "x.beton"


@pytest.fixture
def beton(sound: Path, tmp_path: Path) -> Path:
    return copy_of(sound, tmp_path)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, photo: Photo, encoded: Encode) -> Path:
    """Three pages of two images each, padded after their end as decoders allow; with a manifest."""
    path = tmp_path_factory.mktemp("pages") / "x.beton"
    data = encoded(photo(0)).ljust(PAGE_SIZE // 2, b"\0")
    with open(path, "xb") as file:
        writer = BetonWriter(file, 6)
        for i in range(6):
            writer.append(Record(MODE_JPEG, 48, 40, data), i % 2)
        checksums = writer.finish()
    np.save(mean_image_path(path), np.zeros((4, 4, 3), np.float32))
    statistics = Statistics(6, [0.0] * 3, [1.0] * 3, [1.0] * 3, np.eye(3).tolist(), mean_image_path(path).name)
    manifest = Manifest(6, ["a", "b"], [3, 3], {}, {}, {}, checksums, digest_of(checksums), statistics)
    manifest_path(path).write_text(manifest.to_json())
    return path


class TestSoundFiles:
    @pytest.mark.parametrize("workers", [1, 3])
    def test_have_no_problems(self, sound: Path, pages: Path, workers: int) -> None:
        assert verify(sound, workers) == []
        assert verify(pages, workers) == []

    @pytest.mark.parametrize("store", list(Store))
    def test_whatever_is_stored(
        self, tmp_path: Path, tree: Callable[..., Tree], write: Callable[..., Path], store: Store
    ) -> None:
        write(tmp_path / "images", {**tree({"a": 3, "b": 3}), "b/bad.jpg": b"no image"})
        convert(Options(tmp_path / "images", tmp_path / "x.beton", store=store, skip_bad=True))
        assert verify(tmp_path / "x.beton", 2) == []

    def test_without_a_manifest_the_rest_is_checked(self, beton: Path) -> None:
        manifest_path(beton).unlink()
        assert verify(beton, 2) == []
        flip_byte(beton, int(Beton(beton).offsets[3]))  # the start of a JPEG
        (problem,) = verify(beton, 2)
        assert problem.startswith("sample 3 ")


class TestDamage:
    def test_in_the_head(self, beton: Path) -> None:
        flip_byte(beton, PAGE_SIZE - 1)  # zeros that nothing refers to
        (problem,) = verify(beton, 2)
        assert problem == f"head (bytes 0 to {PAGE_SIZE - 1}) is not what was written (its checksum differs)"

    def test_in_a_page_names_it_and_its_samples(self, pages: Path, tmp_path: Path) -> None:
        beton = copy_of(pages, tmp_path)
        flip_byte(beton, 2 * PAGE_SIZE + PAGE_SIZE - 1)  # the padding after an image: it decodes all the same
        (problem,) = verify(beton, 2)
        where = f"page 1 of 3 (bytes {2 * PAGE_SIZE} to {3 * PAGE_SIZE - 1})"
        assert problem == f"{where} is not what was written (its checksum differs); in it: samples 2-3"

    def test_in_the_tail(self, beton: Path) -> None:
        flip_byte(beton, beton.stat().st_size - 24)  # a sample id of the allocation table
        (problem,) = verify(beton, 2)
        assert problem.startswith("tail (bytes ")

    def test_everywhere_at_once_is_listed_in_the_order_of_the_file(self, pages: Path, tmp_path: Path) -> None:
        beton = copy_of(pages, tmp_path)
        for offset in (PAGE_SIZE - 1, 2 * PAGE_SIZE - 1, 4 * PAGE_SIZE - 1, beton.stat().st_size - 24):
            flip_byte(beton, offset)
        assert [problem.split(" (")[0] for problem in verify(beton, 3)] == [
            "head", "page 0 of 3", "page 2 of 3", "tail",
        ]  # fmt: skip

    def test_of_an_image_is_told_with_its_page(self, beton: Path) -> None:
        opened = Beton(beton)
        flip_byte(beton, int(opened.offsets[7]) + 1)
        page, image = verify(beton, 2)
        assert page.startswith("page 0 of 1 (")
        assert image == (
            f"sample 7 (label {opened.labels[7]}, {opened.sizes[7]} bytes at offset {opened.offsets[7]}): "
            f"not a JPEG ({opened.sizes[7]} bytes)"
        )

    def test_of_the_size_in_the_metadata(self, beton: Path) -> None:
        manifest_path(beton).unlink()
        width, height = Beton(beton).widths[5], Beton(beton).heights[5]
        edit_metadata(beton, 5, "width", int(width) + 1)
        (problem,) = verify(beton, 2)
        assert problem.endswith(f"decodes to {width}x{height}, its metadata says {width + 1}x{height}")

    def test_of_the_header_still_lets_the_pages_be_checked(self, pages: Path, tmp_path: Path) -> None:
        beton = copy_of(pages, tmp_path)
        flip_byte(beton, 0)  # the version
        flip_byte(beton, 2 * PAGE_SIZE + 5)
        opening, head, page = verify(beton, 2)
        assert "not a beton of version 2" in opening
        assert head.startswith("head ")
        assert page.startswith("page 1 of 3 ")

    def test_records_that_overlap(self, beton: Path) -> None:
        manifest_path(beton).unlink()
        edit_metadata(beton, 4, "data_ptr", int(Beton(beton).offsets[3]))
        problems = verify(beton, 2)
        assert any("overlaps sample" in problem for problem in problems)

    @given(place=st.floats(0, 1, exclude_max=True))
    @settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_of_any_byte_is_found(self, beton: Path, place: float) -> None:
        offset = int(place * beton.stat().st_size)
        flip_byte(beton, offset)
        assert verify(beton, 2)
        flip_byte(beton, offset)  # mended for the next example


class TestLength:
    def test_a_file_that_is_cut_off_has_only_the_missing_pages_wrong(self, pages: Path, tmp_path: Path) -> None:
        beton = copy_of(pages, tmp_path)
        length = beton.stat().st_size
        os.truncate(beton, 2 * PAGE_SIZE + 1000)
        opening, short, *regions = verify(beton, 2)
        assert "truncated or damaged" in opening
        assert "verify" not in opening
        assert short == f"the file has {2 * PAGE_SIZE + 1000} bytes, it should have {length}"
        assert [region.split(" (")[0] for region in regions] == ["page 1 of 3", "page 2 of 3", "tail"]
        assert all("is cut off" in region for region in regions)

    def test_a_file_that_goes_on_after_its_end(self, pages: Path, tmp_path: Path) -> None:
        beton = copy_of(pages, tmp_path)
        with open(beton, "ab") as file:
            file.write(bytes(10))
        problems = verify(beton, 2)
        assert any("bytes, it should have" in problem for problem in problems)
        assert not any(problem.startswith("page") for problem in problems)

    @pytest.mark.parametrize("length", [0, 10, 2000])
    def test_hardly_anything_is_left(self, beton: Path, length: int) -> None:
        os.truncate(beton, length)
        assert verify(beton, 2)


class TestManifest:
    def test_counts_of_the_classes(self, beton: Path) -> None:
        edit_manifest(beton, lambda content: content.update(counts=[4, 4, 5]))
        assert verify(beton, 2) == [
            "class 1 (bee): 5 images, the manifest says 4",
            "class 2 (cat): 4 images, the manifest says 5",
        ]

    def test_labels_without_a_class(self, beton: Path) -> None:
        edit_manifest(beton, lambda content: content.update(counts=[4, 5], classes=["ant", "bee"]))
        problems = verify(beton, 2)
        assert len(problems) == 4
        assert all("(label 2, " in problem and problem.endswith(": there are 2 classes") for problem in problems)

    def test_number_of_images(self, beton: Path) -> None:
        edit_manifest(beton, lambda content: content.update(num_samples=12))
        assert "the file has 13 images, its manifest says 12" in verify(beton, 2)

    def test_digest(self, beton: Path) -> None:
        edit_manifest(beton, lambda content: content.update(digest="0" * 64))
        (problem,) = verify(beton, 2)
        assert problem.startswith("manifest: its digest is 000")

    def test_missing_mean_image(self, beton: Path) -> None:
        mean_image_path(beton).unlink()
        (problem,) = verify(beton, 2)
        assert "cannot read the mean image" in problem

    def test_unreadable_manifest(self, beton: Path) -> None:
        manifest_path(beton).write_text("{")
        (problem,) = verify(beton, 2)
        assert "x.beton.json: damaged manifest: Expecting property name" in problem

    def test_manifest_of_another_file(self, beton: Path, pages: Path) -> None:
        shutil.copy(manifest_path(pages), manifest_path(beton))
        assert len(verify(beton, 2)) > 3


def test_a_missing_file_is_a_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        verify(tmp_path / "x.beton", 1)


def test_sample_ids_are_written_as_ranges() -> None:
    assert _ranges(np.array([3, 4, 5, 9, 11, 12])) == "3-5, 9, 11-12"


class TestCommand:
    def test_sound(self, beton: Path, cli: Cli) -> None:
        done = cli("verify", beton, "--workers", 2)
        assert (done.returncode, done.stderr) == (0, "")
        manifest = load_manifest(beton)
        assert manifest
        assert done.stdout == (
            f"{beton}: sound: 13 images, every JPEG decodes to its stated size; restart-marked: all of 13; "
            f"every checksum matches; digest {manifest.digest}\n"
        )

    def test_damaged(self, beton: Path, cli: Cli) -> None:
        flip_byte(beton, int(Beton(beton).offsets[7]) + 1)
        done = cli("verify", beton)
        assert done.returncode == 1
        assert len(done.stdout.splitlines()) == 2
        assert done.stderr.startswith(f"error: {beton}: 2 problems, listed above")

    def test_without_manifest_it_says_so(self, beton: Path, cli: Cli) -> None:
        manifest_path(beton).unlink()
        done = cli("verify", beton)
        assert done.returncode == 0
        assert "no manifest x.beton.json beside it" in done.stdout

    def test_missing(self, tmp_path: Path, cli: Cli) -> None:
        done = cli("verify", tmp_path / "x.beton")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: {tmp_path}/x.beton: no such file\n"
