"""Damaged betons of several kinds, and what has to be true of each: `python -m tests.data.fuzz_betons FOLDER`.

The command runs for --seconds under a limit of memory; the file that it was at when it ended is left in FOLDER.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.samples import in_order, jpeg, smooth_image, without_its_scan
from trainer.data.beton import (
    ALLOCATION_DTYPE,
    FIELD_DTYPE,
    HEADER_DTYPE,
    MODE_JPEG,
    MODE_RAW,
    TYPE_BYTES,
    TYPE_FLOAT,
    TYPE_IMAGE,
    TYPE_INT,
    TYPE_JSON,
    TYPE_NDARRAY,
    VERSION,
    align_up,
    metadata_offset,
    sample_dtype,
)
from trainer.data.crops import CenterCrop, CropPolicy, RandomResizedCrop, ScaleCrop
from trainer.data.dataset import open_dataset
from trainer.data.loader import Loader
from trainer.data.manifest_rules import MAX_CLASSES
from trainer.errors import RunError, UsageError

MEMORY = 600 << 20
"""Bytes that may be asked for beyond what the process has once everything is imported."""

LOOKED_AT = 64
"""Samples that are loaded of each file, at most."""

CROPS: Sequence[CropPolicy] = (CenterCrop(8, 9), ScaleCrop(8, 9, 16, seed=0), RandomResizedCrop(8, seed=0))


class Kind(NamedTuple):
    """A sound beton, and where the integers in it are."""

    content: bytes
    integers: list[tuple[int, int]]
    """Offset and bytes of each."""


def lay_out(fields: Sequence[tuple[int, str]], images: Sequence[tuple[int, int, int, bytes]]) -> Kind:
    """A beton of these fields (type id, name) and images (mode, width, height, bytes), close together: their labels
    are 0, 1, 2, 0 and so on, and each other field that has a region has one of 5 bytes."""
    types = [type_id for type_id, _ in fields]
    dtype = sample_dtype(types)
    metadata = np.zeros(len(images), dtype)
    descriptors = np.zeros(len(fields), FIELD_DTYPE)
    for descriptor, (type_id, name) in zip(descriptors, fields, strict=True):
        descriptor["type_id"] = type_id
        descriptor["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
    position = align_up(metadata_offset(len(fields)) + metadata.nbytes, 64)
    regions, table = [], []
    for sample, (mode, width, height, data) in enumerate(images):
        for i, type_id in enumerate(types):
            region = b"" if type_id in (TYPE_INT, TYPE_FLOAT) else data if type_id == TYPE_IMAGE else b"other"
            values = {
                TYPE_INT: sample % 3,
                TYPE_FLOAT: 0.5,
                TYPE_IMAGE: (mode, width, height, position),
                TYPE_BYTES: (position, len(region)),
                TYPE_JSON: (position, len(region)),
                TYPE_NDARRAY: position,
            }
            metadata[f"f{i}"][sample] = values[type_id]
            if region:
                table.append((sample, position, len(region)))
                regions.append(region)
                position += len(region)
    header = np.array((VERSION, len(fields), 8 << 20, len(images), position), HEADER_DTYPE)
    head = (header.tobytes() + descriptors.tobytes() + metadata.tobytes()).ljust(
        position - sum(map(len, regions)), b"\0"
    )
    return Kind(
        head + b"".join(regions) + np.array(table, ALLOCATION_DTYPE).tobytes(),
        integers(fields, len(images), position, len(table)),
    )


def integers(fields: Sequence[tuple[int, str]], samples: int, table: int, entries: int) -> list[tuple[int, int]]:
    """Where the numbers of the header, the fields, the metadata and the allocation table are."""
    found = [(0, 2), (2, 2), (4, 4), (8, 8), (16, 8)]
    found += [(HEADER_DTYPE.itemsize + i * FIELD_DTYPE.itemsize, 1) for i in range(len(fields))]
    dtype = sample_dtype([type_id for type_id, _ in fields])
    for sample in range(samples):
        start = metadata_offset(len(fields)) + sample * dtype.itemsize
        for i in range(len(fields)):
            member, offset = dtype.fields[f"f{i}"][:2]  # type: ignore[index]
            inner = member.fields.values() if member.fields else [(member, 0)]
            found += [(start + offset + place, kind.itemsize) for kind, place, *_ in inner]
    found += [(table + 8 * i, 8) for i in range(3 * entries)]
    return found


def kinds() -> dict[str, Kind]:
    pixels = [smooth_image(11 + i, 9 + i % 3, i) for i in range(5)]
    jpegs = [(MODE_JPEG, p.shape[1], p.shape[0], jpeg(p)) for p in pixels]
    raw = [(MODE_RAW, p.shape[1], p.shape[0], p.tobytes()) for p in pixels]
    ours = [(TYPE_IMAGE, "image"), (TYPE_INT, "label")]
    mixed = [jpegs[0], raw[1], (*jpegs[2][:3], without_its_scan(jpegs[2][3])), raw[3]]
    several = [
        (TYPE_FLOAT, "weight"),
        (TYPE_INT, "id"),
        (TYPE_JSON, "about"),
        (TYPE_IMAGE, "picture"),
        (TYPE_NDARRAY, "mask"),
        (TYPE_INT, "label"),
        (TYPE_BYTES, "more"),
    ]
    return {
        "JPEGs": lay_out(ours, jpegs),
        "pixels": lay_out(ours, raw),
        "both, one damaged": lay_out(ours, mixed),
        "labels first": lay_out(ours[::-1], jpegs[:2]),
        "several fields": lay_out(several, [*jpegs[:2], raw[2]]),
    }


KINDS = kinds()

NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 7, 8, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**32]),
    st.sampled_from([2**40, 2**60, 2**61, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 24]),
    st.integers(0, 70_000),
    st.integers(0, 2**64 - 1),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A beton of one of the `KINDS` with up to four faults."""
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    content = bytearray(kind.content)
    for _ in range(draw(st.integers(1, 4))):
        fault = draw(st.sampled_from(["number", "number", "near", "byte", "bytes", "cut", "more", "insert", "remove"]))
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        if fault in ("number", "near"):
            offset, size = draw(st.sampled_from(kind.integers))
            value = draw(NUMBERS)
            if fault == "near":
                value = int.from_bytes(content[offset : offset + size], "little") + draw(st.integers(-30, 30))
            content[offset : offset + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
        elif fault == "byte":
            content[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif fault == "bytes":
            piece = draw(st.binary(max_size=40))
            content[place : place + len(piece)] = piece
        elif fault == "cut":
            del content[place:]
        elif fault == "more":
            content += draw(st.one_of(st.binary(max_size=100), st.integers(0, 10).map(lambda n: bytes(24 * n))))
        elif fault == "insert":
            content[place:place] = draw(st.one_of(st.binary(max_size=9), st.integers(0, 5000).map(bytes)))
        else:
            del content[place : place + draw(st.integers(0, 300))]
    return bytes(content)


def check(path: Path) -> str:
    """Open a file as training does and load its first samples; returns what became of it.

    Refused with a line, or loaded, or ended with an error that names the sample: whatever else is raised is a fault.
    """
    try:
        data = open_dataset(path)
    except UsageError as error:
        check_message(path, str(error))
        return "refused"
    beton = data.beton
    content = path.read_bytes()
    table = int(np.frombuffer(content, HEADER_DTYPE, 1)["alloc_table_ptr"][0])
    assert 0 < len(beton) <= len(content)
    assert (beton.offsets >= HEADER_DTYPE.itemsize).all()
    assert (beton.offsets + beton.sizes <= table).all()
    assert (beton.sizes > 0).all()
    assert 0 <= beton.labels.min() <= beton.labels.max() < len(data.classes) <= MAX_CLASSES
    samples = range(min(len(beton), LOOKED_AT))
    assert all(beton.record(i) == content[beton.offsets[i] : beton.offsets[i] + beton.sizes[i]] for i in samples)
    outcomes = {load(data.beton, crops) for crops in CROPS}
    return " and ".join(sorted(outcomes))


def load(beton, crops: CropPolicy) -> str:  # type: ignore[no-untyped-def]
    loader = Loader(beton, crops, torch.device("cpu"), threads=2)
    seen = 0
    try:
        for batch in loader.load(in_order(min(len(beton), LOOKED_AT), 4)):
            assert tuple(batch.images.shape[1:]) == (8, 8, 3)
            assert batch.labels.tolist() == beton.labels[batch.ids].tolist()
            seen += len(batch.ids)
    except RunError as error:
        check_message(beton.path, str(error), r": sample \d+ \(label -?\d+, \d+ bytes at offset \d+\): ")
        return "named a sample"
    assert seen == min(len(beton), LOOKED_AT)
    return "loaded"


def check_message(path: Path, message: str, names: str = "") -> None:
    """One line, of a readable length, that begins with the file and has what `names` describes."""
    assert re.search(names, message), message
    assert message.startswith(str(path)), message
    assert message.isprintable(), message
    assert len(message) < 1000, message


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.data.fuzz_betons", description=__doc__)
    parser.add_argument("folder", type=Path, help="where each file is written, and the last is left")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="other seeds, other files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.folder / "last.beton"
    outcomes: Counter[str] = Counter()

    def one(content: bytes) -> None:
        path.write_bytes(content)
        outcomes[check(path)] += 1

    for kind in KINDS.values():
        one(kind.content)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    end, turn = time.monotonic() + options.seconds, options.seed
    while time.monotonic() < end:
        fuzz = given(content=damaged())(one)
        fuzz = settings(
            max_examples=200,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(fuzz)
        seed(turn)(fuzz)()
        turn += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{outcomes.total()} files: {dict(outcomes.most_common())}; peak of {peak} MiB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
