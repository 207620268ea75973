"""Betons from elsewhere: whatever is in them, they are refused in a line, or all their records lie in the file."""

from __future__ import annotations

import os
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tests.data.fuzz_betons import KINDS, Kind, check, damaged, lay_out
from tests.samples import PYTHON, REPOSITORY, smooth_image
from trainer.data.beton import (
    HEADER_DTYPE,
    IMAGE_DTYPE,
    MODE_RAW,
    SAMPLE_DTYPE,
    TYPE_IMAGE,
    TYPE_INT,
    TYPE_NDARRAY,
    Beton,
    metadata_offset,
)
from trainer.errors import UsageError

OURS = KINDS["pixels"]
TABLE = int(np.frombuffer(OURS.content, HEADER_DTYPE, 1)["alloc_table_ptr"][0])


def header(field: str, value: int) -> bytes:
    """`OURS` with another number in its header."""
    changed = np.frombuffer(OURS.content, HEADER_DTYPE, 1).copy()
    changed[field] = value
    return changed.tobytes() + OURS.content[HEADER_DTYPE.itemsize :]


def image(field: str, value: int, sample: int = 2) -> bytes:
    """`OURS` with another number in the image field of one sample."""
    start = metadata_offset(2) + sample * SAMPLE_DTYPE.itemsize
    changed = np.frombuffer(OURS.content, IMAGE_DTYPE, 1, start).copy()
    changed[field] = value
    return OURS.content[:start] + changed.tobytes() + OURS.content[start + IMAGE_DTYPE.itemsize :]


def size(value: int, sample: int = 2) -> bytes:
    """`OURS` with another size of one sample in the allocation table."""
    place = TABLE + sample * 24 + 16
    return OURS.content[:place] + value.to_bytes(8, "little") + OURS.content[place + 8 :]


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        Beton(path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_sound_files_are_loaded(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "x.beton").write_bytes(kind.content)
    expected = "named a sample" if kind is KINDS["both, one damaged"] else "loaded"
    assert check(tmp_path / "x.beton") == expected
    for offset, length in kind.integers:
        assert 0 <= offset < offset + length <= len(kind.content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (header("version", 3), "not a beton of version 2 (its header says 3)"),
        (header("num_samples", 0), "the beton holds no sample"),
        (header("num_samples", 2**60), "the metadata of 1152921504606846976 samples does not fit"),
        (header("num_samples", 2**64 - 1), "the metadata of 18446744073709551615 samples does not fit"),
        (header("num_samples", 7), "does not fit the file"),
        (header("num_fields", 0), "found fields none"),
        (header("num_fields", 65535), "a header of 65535 fields does not fit"),
        (header("page_size", 0), "a page size of 0, which is no power of two, does not fit"),
        (header("page_size", 12345), "a page size of 12345, which is no power of two, does not fit"),
        (header("alloc_table_ptr", 2**63), "the allocation table does not fit"),
        (header("alloc_table_ptr", TABLE + 1), "the allocation table does not fit"),
        (header("alloc_table_ptr", TABLE + 24), "the allocation table (no entry for sample 0) does not fit"),
        (header("alloc_table_ptr", 0), "the allocation table does not fit"),
        (OURS.content + bytes(24), "the allocation table does not fit"),
        (OURS.content + b"x", "the allocation table does not fit"),
        (OURS.content[:-1], "the allocation table does not fit"),
        (OURS.content[:TABLE], "the allocation table (no entry for sample 0) does not fit"),
        (OURS.content[: TABLE - 1], "the allocation table does not fit"),
        (OURS.content[:1000], "a header of 2 fields does not fit"),
        (OURS.content[:23], "not a beton file (23 bytes)"),
        (image("width", 0), "the record of sample 2 (1 in all) does not fit"),
        (image("height", 0), "the record of sample 2 (1 in all) does not fit"),
        (image("width", 12), "the record of sample 2 (1 in all) does not fit"),
        (image("mode", 2), "the record of sample 2 (1 in all) does not fit"),
        (image("data_ptr", 0), "(no entry for sample 2)"),
        (image("data_ptr", 2**64 - 1), "(no entry for sample 2)"),
        (size(0), "the record of sample 2 (1 in all) does not fit"),
        (size(2**64 - 1), "the record of sample 2 (1 in all) does not fit"),
        (size(2**63), "the record of sample 2 (1 in all) does not fit"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_its_name(content: bytes, expected: str, tmp_path: Path) -> None:
    message = refusal(tmp_path / "x.beton", content)
    assert expected in message
    if "does not fit" in message:
        assert message.endswith(f"check it with `python -m data_prep verify {tmp_path}/x.beton` or copy it again")


@pytest.mark.parametrize("place", [0, metadata_offset(2), TABLE, 2**63, 2**64 - 10])
def test_a_record_outside_of_the_records_is_refused(place: int, tmp_path: Path) -> None:
    """In the header, in the table of contents, in the allocation table, and behind the end; the table agrees."""
    at = TABLE + 2 * 24 + 8
    content = bytearray(image("data_ptr", place))
    content[at : at + 8] = place.to_bytes(8, "little")
    assert "the record of sample 2 (1 in all) does not fit" in refusal(tmp_path / "x.beton", bytes(content))


def test_records_may_overlap(tmp_path: Path) -> None:
    pixels = smooth_image(11, 9, 0).tobytes()
    kind = lay_out([(TYPE_IMAGE, "image"), (TYPE_INT, "label")], [(MODE_RAW, 11, 9, pixels)] * 2)
    content = bytearray(kind.content)
    first = int(np.frombuffer(content, IMAGE_DTYPE, 1, metadata_offset(2))["data_ptr"][0])
    second = metadata_offset(2) + SAMPLE_DTYPE.itemsize + IMAGE_DTYPE.fields["data_ptr"][1]  # type: ignore[index]
    content[second : second + 8] = first.to_bytes(8, "little")
    (tmp_path / "x.beton").write_bytes(content)
    beton = Beton(tmp_path / "x.beton")
    assert beton.record(0) == beton.record(1) == pixels


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([(TYPE_IMAGE, "image"), (200, "own")], "a field of unknown type 200"),
        ([(TYPE_IMAGE, "a"), (TYPE_IMAGE, "b"), (TYPE_INT, "label")], "found fields a, b, label"),
        ([(TYPE_IMAGE, "a"), (TYPE_INT, "one"), (TYPE_INT, "two")], "found fields a, one, two"),
        ([(TYPE_IMAGE, "\x1b[2J\n"), (TYPE_INT, "x"), (TYPE_INT, "y")], r"found fields \x1b[2J\n, x, y"),
        ([(TYPE_NDARRAY, f"n{i}") for i in range(99)], "found fields n0, n1, n2, n3, n4, n5, n6, n7, ..."),
    ],
)
def test_other_fields_are_refused_with_their_names(
    fields: list[tuple[int, str]], expected: str, tmp_path: Path
) -> None:
    known = [(type_id if type_id < 7 else TYPE_INT, name) for type_id, name in fields]
    content = bytearray(lay_out(known, [(MODE_RAW, 1, 1, b"abc")]).content)
    for i, (type_id, _) in enumerate(fields):
        content[HEADER_DTYPE.itemsize + i * 1041] = type_id
    assert expected in refusal(tmp_path / "x.beton", bytes(content))


def test_a_pipe_a_device_or_a_folder_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.beton")
    (tmp_path / "zero.beton").symlink_to("/dev/zero")
    (tmp_path / "folder.beton").mkdir()
    for name, expected in (("pipe", "not a regular"), ("zero", "not a regular"), ("folder", "Is a directory")):
        with pytest.raises(UsageError, match=rf"{name}\.beton: .*{expected}"):
            Beton(tmp_path / f"{name}.beton")


def test_what_the_header_claims_takes_no_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        for claim in (2**20, 2**40, 2**60, 2**64 - 1):
            refusal(tmp_path / "x.beton", header("num_samples", claim))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(content=damaged())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_betons_are_refused_loaded_or_name_a_sample(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.beton").write_bytes(content)
    check(tmp_path / "x.beton")


def test_no_damaged_beton_ends_a_process_or_takes_its_memory(tmp_path: Path) -> None:
    """Where a crash would be seen, and what is asked for beyond a limit is an error."""
    command = [PYTHON, "-m", "tests.data.fuzz_betons", str(tmp_path), "--seconds", "5", "--seed", "1000"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stderr[-3000:]}\nthe file is {tmp_path}/last.beton"
    assert " files: {'refused'" in done.stdout
