"""A beton and its manifest: what belongs together is opened, what is damaged or lost is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.datasets import allocation_table, checksums_of, edit_manifest, flip_byte, write_dataset
from tests.samples import jpeg, smooth_image, write_beton
from trainer.data.beton import SAMPLE_DTYPE, metadata_offset
from trainer.data.colour import colour_statistics
from trainer.data.dataset import check_same_classes, explain_other_data, open_dataset
from trainer.data.manifest import digest_of, manifest_path, mean_image_path
from trainer.data.manifest_rules import MAX_CLASSES
from trainer.errors import UsageError

CLASSES = ["ant", "bee", "cat"]
COUNT = 12


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [jpeg(smooth_image(20, 16, i)) for i in range(COUNT)]
    return write_dataset(tmp_path_factory.mktemp("dataset") / "x.beton", images, [i % 3 for i in range(COUNT)], CLASSES)


@pytest.fixture
def beton(sound: Path, tmp_path: Path) -> Path:
    for path in (sound, manifest_path(sound), mean_image_path(sound)):
        shutil.copy(path, tmp_path)
    return tmp_path / sound.name


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as error:
        open_dataset(path)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestDamage:
    def test_a_sound_data_set_is_opened(self, beton: Path) -> None:
        data = open_dataset(beton)
        assert (data.classes, data.notice) == (CLASSES, None)
        assert data.digest == digest_of(checksums_of(beton))

    def test_a_flipped_label_is_refused_with_what_to_do(self, beton: Path) -> None:
        flip_byte(beton, metadata_offset(2) + 4 * SAMPLE_DTYPE.itemsize + SAMPLE_DTYPE.fields["f1"][1], mask=1)  # type: ignore[index]
        message = refusal(beton)
        assert message.startswith(f"{beton}: its table of contents (bytes 0 to ")
        assert f"run `python -m data_prep verify {beton}`" in message

    def test_a_flipped_size_is_refused(self, beton: Path) -> None:
        flip_byte(beton, allocation_table(beton) + 16, mask=1)
        assert f"{beton}: its allocation table (bytes {allocation_table(beton)} to " in refusal(beton)

    @given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255), tail=st.booleans())
    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_no_changed_byte_of_head_or_tail_goes_unnoticed(
        self, beton: Path, place: float, mask: int, tail: bool
    ) -> None:
        table, first_page = beton.stat().st_size - COUNT * 24, 8 << 20
        offset = table + int(place * COUNT * 24) if tail else int(place**4 * first_page)
        flip_byte(beton, offset, mask)
        try:
            refusal(beton)
        finally:
            flip_byte(beton, offset, mask)

    def test_other_data_under_the_same_name_are_refused(self, beton: Path) -> None:
        images = [jpeg(smooth_image(20, 16, i + 50)) for i in range(COUNT)]
        write_beton(beton, images, [i % 3 for i in range(COUNT)])
        assert "is not the one that x.beton.json is of: one of the two is damaged or of other data" in refusal(beton)
        write_beton(beton, images[:-1], [i % 3 for i in range(COUNT - 1)])
        assert "the manifest beside it is of other data (12 samples in 1 pages, the beton has 11 and" in refusal(beton)

    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("digest", "0" * 64, "damaged manifest: its digest is not that of its checksums"),
            ("counts", [5, 4, 3], "damaged manifest: its counts are not those of the labels"),
            ("counts", [4, 4, 5], "damaged manifest: its counts are not those of the labels"),
        ],
    )
    def test_a_manifest_that_contradicts_is_refused(self, beton: Path, key: str, value: Any, expected: str) -> None:
        edit_manifest(beton, lambda content: content.update({key: value}))
        assert f"{manifest_path(beton)}: damaged manifest: " in refusal(beton)
        assert expected in refusal(beton)

    @pytest.mark.parametrize("pages", [2, 10**5])
    def test_pages_that_the_file_has_no_room_for_are_of_other_data(self, beton: Path, pages: int) -> None:
        def change(content: dict[str, Any]) -> None:
            sums = checksums_of(beton)
            content["checksums"]["pages"] = sums.pages = ["0" * 32] * pages
            content["digest"] = digest_of(sums)

        edit_manifest(beton, change)
        assert f"the manifest beside it is of other data (12 samples in {pages} pages, " in refusal(beton)

    def test_classes_that_the_labels_leave_are_refused(self, beton: Path) -> None:
        edit_manifest(beton, lambda content: content.update(classes=["ant", "bee"], counts=[6, 6]))
        assert "x.beton: sample 2 (label 2, " in refusal(beton)


class TestLabels:
    @pytest.mark.parametrize("label", [-1, -(2**63), MAX_CLASSES, 2**40, 2**63 - 1])
    def test_what_no_class_could_have_is_refused_before_anything_is_counted(self, tmp_path: Path, label: int) -> None:
        path = write_beton(tmp_path / "x.beton", [smooth_image(8, 8, 0)] * 3, [0, label, 1])
        message = refusal(path)
        assert message.startswith(f"{path}: sample 1 (label {label}, ")
        assert f"labels are from 0 to {MAX_CLASSES - 1}" in message

    def test_the_largest_is_fine(self, tmp_path: Path) -> None:
        path = write_beton(tmp_path / "x.beton", [smooth_image(8, 8, 0)], [MAX_CLASSES - 1])
        assert len(open_dataset(path).classes) == MAX_CLASSES


class TestALostManifest:
    def test_a_beton_of_ffcv_is_opened_with_a_notice(self, tmp_path: Path) -> None:
        data = open_dataset(write_beton(tmp_path / "x.beton", [smooth_image(8, 8, 0)] * 2, [0, 1]))
        assert data.classes == ["0", "1"]
        assert data.notice is not None
        assert data.notice.startswith(f"{tmp_path}/x.beton: no manifest x.beton.json beside it, so its classes have no")
        assert data.notice.endswith("; right for a beton of FFCV")

    def test_one_of_ours_is_told_by_its_mean_image(self, beton: Path) -> None:
        manifest_path(beton).unlink()
        assert "its mean image is there, so copy the manifest, too" in (open_dataset(beton).notice or "")

    def test_a_run_that_was_begun_with_it_is_told_to_put_it_back(self, beton: Path) -> None:
        begun = open_dataset(beton).digest
        manifest_path(beton).unlink()
        explained = explain_other_data(open_dataset(beton), begun)
        assert explained.startswith(f"{beton}: not the data that this run was begun with, or without their manifest: ")
        assert "put x.beton.json back" in explained

    def test_a_run_that_was_begun_without_it_is_told_to_move_it_away(self, beton: Path, tmp_path: Path) -> None:
        manifest_path(beton).rename(tmp_path / "elsewhere")
        begun = open_dataset(beton).digest
        (tmp_path / "elsewhere").rename(manifest_path(beton))
        explained = explain_other_data(open_dataset(beton), begun)
        assert explained.endswith("begun with: then there was no x.beton.json beside it; move it away")

    def test_classes_with_and_without_names_are_not_compared(self, beton: Path) -> None:
        with pytest.raises(
            UsageError, match=r"x\.beton: its classes have names, those of train have none .* x\.beton\.json"
        ):
            check_same_classes(open_dataset(beton), ["0", "1", "2"], "train")

    def test_other_data_are_told_by_their_digests(self, beton: Path) -> None:
        data = open_dataset(beton)
        assert f"the digest was abcdabcdabcd... and is {data.digest[:12]}...; put the data back" in explain_other_data(
            data, "abcd" * 16
        )


def test_a_channel_without_contrast_cannot_be_normalised_by(beton: Path) -> None:
    edit_manifest(beton, lambda content: content["statistics"].update(std=[1.0, 0.0, 2.0]))
    data = open_dataset(beton)
    assert colour_statistics("imagenet", data.manifest, "x").std[1] > 0
    with pytest.raises(UsageError, match=r"x: a channel has the same value everywhere .*set data\.statistics=imagenet"):
        colour_statistics("data", data.manifest, "x")


def test_the_digest_without_a_manifest_is_of_labels_and_places(tmp_path: Path) -> None:
    images = [smooth_image(8, 8, i) for i in range(4)]
    one, same, other = (
        open_dataset(write_beton(tmp_path / f"{i}.beton", images, labels)).digest
        for i, labels in enumerate(([0, 1, 2, 0], [0, 1, 2, 0], [0, 1, 2, 1]))
    )
    assert one == same != other
    assert np.unique([len(one), len(other)]).tolist() == [64]
