"""Reading betons: ours, stock FFCV's, and damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.convert import Options, convert
from tests.samples import jpeg, smooth_image, write_beton
from trainer.data import beton as format
from trainer.data.beton import Beton
from trainer.data.dataset import open_dataset
from trainer.errors import UsageError


def test_what_was_written_is_read(tmp_path: Path) -> None:
    pixels = smooth_image(31, 17, 0)
    picture = jpeg(smooth_image(40, 30, 1))
    beton = Beton(write_beton(tmp_path / "a.beton", [pixels, picture], [3, 7]))
    assert len(beton) == 2
    assert beton.labels.tolist() == [3, 7]
    assert (beton.widths.tolist(), beton.heights.tolist()) == ([31, 40], [17, 30])
    assert beton.modes.tolist() == [format.MODE_RAW, format.MODE_JPEG]
    assert bytes(beton.record(0)) == pixels.tobytes()
    assert bytes(beton.record(1)) == picture


class StockData:
    """What FFCV's DatasetWriter takes."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.images[i], i % 3


@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_betons_written_by_stock_ffcv_are_read(tmp_path: Path, mode: str) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    images = [smooth_image(40 + i, 30 + i, i) for i in range(25)]
    path = tmp_path / "stock.beton"
    fields = {"image": RGBImageField(write_mode=mode), "label": IntField()}
    # Chunks of 2 make the workers' allocation tables interleave.
    DatasetWriter(str(path), fields, num_workers=2).from_indexed_dataset(StockData(images), chunksize=2)
    data = open_dataset(path)
    assert data.manifest is None
    assert data.classes == ["0", "1", "2"]
    assert data.beton.labels.tolist() == [i % 3 for i in range(25)]
    assert data.beton.widths.tolist() == [40 + i for i in range(25)]
    for i, image in enumerate(images):
        if mode == "raw":
            assert bytes(data.beton.record(i)) == image.tobytes()
        else:
            assert bytes(data.beton.record(i)[:2]) == b"\xff\xd8"


def test_the_dtypes_are_ffcvs() -> None:
    from ffcv import types
    from ffcv.fields import IntField, RGBImageField

    assert types.HeaderType == format.HEADER_DTYPE
    assert format.ALLOCATION_DTYPE == types.ALLOC_TABLE_TYPE
    assert types.FieldDescType == format.FIELD_DTYPE
    assert types.CURRENT_VERSION == format.VERSION
    assert types.get_metadata_type([RGBImageField(), IntField()]) == format.SAMPLE_DTYPE
    handlers = {type_id: handler for type_id, handler in types.TYPE_ID_HANDLER.items() if handler is not None}
    assert handlers.keys() == format.FIELD_METADATA.keys()
    assert handlers[format.TYPE_IMAGE] is RGBImageField
    assert handlers[format.TYPE_INT] is IntField


def test_a_missing_file_and_one_that_is_no_beton_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.beton: cannot open"):
        Beton(tmp_path / "nothing.beton")
    (tmp_path / "text.beton").write_text("hello" * 100)
    with pytest.raises(UsageError, match=r"text\.beton: not a beton"):
        Beton(tmp_path / "text.beton")
    (tmp_path / "empty.beton").touch()
    with pytest.raises(UsageError, match=r"empty\.beton: not a beton"):
        Beton(tmp_path / "empty.beton")


@given(length=st.integers(0, 60_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_truncated_file_is_refused(tmp_path: Path, photos: Path, length: int) -> None:
    whole = photos.read_bytes()
    path = tmp_path / "cut.beton"
    path.write_bytes(whole[: length * len(whole) // 60_001])
    with pytest.raises(UsageError, match=r"cut\.beton"):
        Beton(path)


def test_a_manifest_of_other_data_is_refused(tmp_path: Path) -> None:
    def converted(name: str, counts: tuple[int, ...]) -> Path:
        for label, count in enumerate(counts):
            folder = tmp_path / name / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").write_bytes(jpeg(smooth_image(20, 20, i)))
        convert(Options(tmp_path / name, tmp_path / f"{name}.beton"))
        return tmp_path / f"{name}.beton"

    ours, theirs = converted("ours", (3, 2)), converted("theirs", (2, 3))
    assert open_dataset(ours).classes == ["class0", "class1"]
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(UsageError, match=r"ours\.beton: its table of contents .* damaged or of other data"):
        open_dataset(ours)


def test_a_manifest_of_another_format_is_refused(tmp_path: Path, photos: Path) -> None:
    path = tmp_path / "photos.beton"
    path.write_bytes(photos.read_bytes())
    path.with_name("photos.beton.json").write_text('{"format": 99}')
    with pytest.raises(UsageError, match="not a manifest of format 2"):
        open_dataset(path)
