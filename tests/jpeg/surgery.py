"""JPEGs taken apart and put together: what they hold, and kinds of them that Pillow does not write."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SOF0, SOF2, DHT, SOI, EOI, SOS, DQT, DRI, APP0, APP14 = 0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class Segment:
    """A marker segment; behind SOS come its entropy-coded data, restart markers included."""

    marker: int
    payload: bytes
    coded: bytes = b""

    def __bytes__(self) -> bytes:
        return struct.pack(">BBH", 0xFF, self.marker, len(self.payload) + 2) + self.payload + self.coded


def take_apart(jpeg: bytes) -> list[Segment]:
    """The segments between SOI and EOI."""
    assert jpeg[:2] == bytes((0xFF, SOI))
    found, position = [], 2
    while jpeg[position + 1] != EOI:
        marker, length = struct.unpack_from(">xBH", jpeg, position)
        payload = jpeg[position + 4 : position + 2 + length]
        position += 2 + length
        coded = b""
        if marker == SOS:
            end = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL).search(jpeg, position)
            assert end
            coded = jpeg[position : end.start()]
            position = end.start()
        found.append(Segment(marker, payload, coded))
    return found


def put_together(segments: Iterable[Segment]) -> bytes:
    return bytes((0xFF, SOI)) + b"".join(map(bytes, segments)) + bytes((0xFF, EOI))


def frame(jpeg: bytes) -> Segment:
    """The SOF segment."""
    return next(segment for segment in take_apart(jpeg) if segment.marker in FRAMES)


def size(jpeg: bytes) -> tuple[int, int]:
    """Width and height."""
    height, width = struct.unpack_from(">HH", frame(jpeg).payload, 1)
    return width, height


def sampling(jpeg: bytes) -> list[tuple[int, int]]:
    """Horizontal and vertical factor of each component."""
    return [divmod(factors, 16) for factors in frame(jpeg).payload[7::3]]


def mcu_grid(jpeg: bytes) -> tuple[int, int]:
    """MCUs per row, and rows of them, of a file in one scan."""
    factors = sampling(jpeg)
    across, down = (1, 1) if len(factors) == 1 else (max(h for h, _ in factors), max(v for _, v in factors))
    width, height = size(jpeg)
    return -(-width // (8 * across)), -(-height // (8 * down))


def with_frame(
    jpeg: bytes,
    *,
    marker: int | None = None,
    precision: int | None = None,
    size: tuple[int, int] | None = None,
    first_sampling: tuple[int, int] | None = None,
) -> bytes:
    """The same file under another SOF: its marker, bits a sample, (width, height), factors of the first component."""
    segments = take_apart(jpeg)
    at = next(i for i, segment in enumerate(segments) if segment.marker in FRAMES)
    payload = bytearray(segments[at].payload)
    if precision is not None:
        payload[0] = precision
    if size is not None:
        struct.pack_into(">HH", payload, 1, size[1], size[0])
    if first_sampling is not None:
        payload[7] = first_sampling[0] * 16 + first_sampling[1]
    segments[at] = Segment(segments[at].marker if marker is None else marker, bytes(payload))
    return put_together(segments)


def resampled(jpeg: bytes, first_sampling: tuple[int, int]) -> bytes:
    """The same MCUs in as many rows, read as ones of another shape but as many blocks: another picture, as valid."""
    (old_h, old_v), (h, v) = sampling(jpeg)[0], first_sampling
    assert old_h * old_v == h * v
    width, height = size(jpeg)
    return with_frame(jpeg, size=(-(-width * h // old_h), -(-height * v // old_v)), first_sampling=first_sampling)


def in_three_scans(planes: Sequence[bytes], factors: Sequence[tuple[int, int]] = ((1, 1),) * 3) -> bytes:
    """Three baseline gray JPEGs of one quality and tables, as the components of one file in three scans.

    Of those with the largest factors, one has the image's size; others have their share of it.
    """
    first = [segment for segment in take_apart(planes[0]) if segment.marker in (DQT, DHT)]
    width, height = (max(sides) for sides in zip(*map(size, planes), strict=True))
    components = b"".join(bytes((number, h * 16 + v, 0)) for number, (h, v) in enumerate(factors, start=1))
    sof = Segment(SOF0, struct.pack(">BHHB", 8, height, width, 3) + components)
    scans = [
        Segment(SOS, bytes((1, number, 0, 0, 63, 0)), take_apart(plane)[-1].coded)
        for number, plane in enumerate(planes, start=1)
    ]
    return put_together([*first, sof, *scans])


def one_block(dc: int, ac: int) -> bytes:
    """A gray 8 x 8 JPEG of a DC and a first AC coefficient, with Huffman tables that have codes for just these."""

    def magnitude(value: int) -> str:
        bits = abs(value).bit_length()
        return f"{value if value > 0 else value + (1 << bits) - 1:0{bits}b}" if bits else ""

    def table(kind: int, symbols: Sequence[int]) -> Segment:
        """Codes 0, 10, 110, ... in turn."""
        return Segment(DHT, bytes((kind, *([1] * len(symbols)), *([0] * (16 - len(symbols))), *symbols)))

    coded = "0" + magnitude(dc) + "10" + magnitude(ac) + "0"
    coded += "1" * (-len(coded) % 8)
    stuffed = int(coded, 2).to_bytes(len(coded) // 8, "big").replace(b"\xff", b"\xff\x00")
    return put_together(
        [
            Segment(DQT, bytes((0, *([1] * 64)))),
            Segment(SOF0, struct.pack(">BHHBBBB", 8, 8, 8, 1, 1, 0x11, 0)),
            table(0x00, [abs(dc).bit_length()]),
            table(0x10, [0, abs(ac).bit_length()]),
            Segment(SOS, bytes((1, 1, 0, 0, 63, 0)), stuffed),
        ]
    )
