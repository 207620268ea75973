"""Which betons decode the fast way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from data_prep.images import Record
from data_prep.restarts import LOOKED_AT, describe_restarts, is_restart_marked
from data_prep.writer import BetonWriter
from trainer.data.beton import MODE_JPEG, MODE_RAW, Beton
from trainer.jpeg import transcode

Encode = Callable[..., bytes]
Photo = Callable[..., PIL.Image.Image]


def write(path: Path, records: list[Record]) -> Beton:
    with open(path, "xb") as file:
        writer = BetonWriter(file, len(records))
        for record in records:
            writer.append(record, 0)
        writer.finish()
    return Beton(path)


@pytest.mark.parametrize(
    ("options", "marked"),
    [
        ({}, False),
        ({"restart_marker_rows": 1}, True),
        ({"restart_marker_rows": 2}, False),
        ({"restart_marker_blocks": 2}, True),
        ({"restart_marker_blocks": 4}, False),
    ],
)
def test_segments_must_lie_in_one_row(photo: Photo, encoded: Encode, options: dict[str, int], marked: bool) -> None:
    six_mcus_wide = photo(0, 96, 40)
    assert is_restart_marked(encoded(six_mcus_wide, subsampling="4:2:0", **options)) == marked


def test_what_is_no_jpeg_is_not_marked() -> None:
    assert not is_restart_marked(b"no image")


def test_all_some_or_none(photo: Photo, encoded: Encode, tmp_path: Path) -> None:
    plain = Record(MODE_JPEG, 96, 40, encoded(photo(0, 96, 40)))
    marked = plain._replace(data=transcode(plain.data))
    raw = Record(MODE_RAW, 1, 1, bytes(3))
    assert describe_restarts(write(tmp_path / "a", [marked, raw, marked])) == "restart-marked: all of 2"
    some = write(tmp_path / "b", [marked, plain, plain])
    assert describe_restarts(some) == "restart-marked: 1 of 3 (convert again for the fast path)"
    assert describe_restarts(write(tmp_path / "c", [raw])) == ""


def test_of_many_a_part_is_looked_at(photo: Photo, encoded: Encode, tmp_path: Path) -> None:
    marked = Record(MODE_JPEG, 96, 40, transcode(encoded(photo(0, 96, 40))))
    many = write(tmp_path / "x", [marked] * (LOOKED_AT + 1))
    assert describe_restarts(many) == "restart-marked: all of 1,000 looked at"
