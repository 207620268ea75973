"""Damaged and hostile JPEGs: an error or an image, the same from every code path, in bounded time and memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.jpeg.pictures import KINDS, picture
from tests.jpeg.surgery import (
    DHT,
    DQT,
    SOF0,
    SOS,
    Segment,
    put_together,
    take_apart,
    with_frame,
)
from tests.samples import REPOSITORY, jpeg
from trainer.jpeg import DecodeError, Decoder, Pixels, decode

WARM = [Decoder(), Decoder(portable=True)]
"""Decoders that have seen all the images of this file."""
ANY_ERROR = "damaged JPEG|not a JPEG|unsupported JPEG"


def outcome(decoder: Decoder, data: bytes) -> list[Pixels] | str:
    try:
        return decoder.decode_planes(data)
    except DecodeError as error:
        return str(error)


def crop_outcome(decoder: Decoder, data: bytes, size: tuple[int, int]) -> Pixels | str:
    """Of the middle of the image."""
    out = np.zeros((9, 11, 3), np.uint8)
    box = (size[0] / 3, size[1] / 3, size[0] / 1.5, size[1] / 1.5)
    try:
        decoder.decode_crop(data, size, box, False, out)
    except DecodeError as error:
        return str(error)
    return out


def assert_all_agree(data: bytes, size: tuple[int, int]) -> list[Pixels] | str:
    """Same status and, where there is one, the same image. Returns what came out."""
    first, second = (outcome(decoder, data) for decoder in WARM)
    np.testing.assert_equal(first, second)
    crops = [crop_outcome(decoder, data, size) for decoder in WARM]
    np.testing.assert_equal(*crops)
    if isinstance(first, list) and first[0].shape[::-1] == size:
        assert not isinstance(crops[0], str), crops[0]
    return first


SMALL: dict[str, bytes] = {
    "4:2:0": jpeg(picture(24, 20), 40, subsampling="4:2:0", optimize=True),
    "4:4:4 with restart markers": jpeg(picture(24, 20), 40, subsampling="4:4:4", restart_marker_rows=1),
    "4:2:0 across rows": jpeg(picture(40, 33), 40, subsampling="4:2:0", restart_marker_blocks=2),
    "gray": jpeg(picture(24, 20), 40, "L", optimize=True),
    "progressive": jpeg(picture(24, 20), 40, progressive=True),
}


class TestDamaged:
    @pytest.mark.parametrize("kind", SMALL)
    def test_every_truncation(self, kind: str) -> None:
        data = SMALL[kind]
        size = decode(data).shape[1::-1]
        whole = outcome(WARM[0], data)
        for length in range(len(data)):
            result = assert_all_agree(data[:length], size)
            if isinstance(result, str):
                assert result.split(" (")[0] in (
                    "damaged JPEG: its data end too early",
                    "damaged JPEG: corrupt data",
                    "not a JPEG",
                )
            else:  # only padding and the end of the image are missing
                assert length >= len(data) - 3
                np.testing.assert_equal(result, whole)

    @pytest.mark.parametrize("kind", SMALL)
    def test_every_change_of_a_byte(self, kind: str) -> None:
        data = SMALL[kind]
        size = decode(data).shape[1::-1]
        for at in range(len(data)):
            for value in {0, 0xFF, data[at] ^ 1, data[at] ^ 0x80} - {data[at]}:
                assert_all_agree(data[:at] + bytes((value,)) + data[at + 1 :], size)

    @given(st.data(), st.sampled_from(sorted(KINDS)))
    @settings(max_examples=300, deadline=None)
    def test_any_damage(self, data: st.DataObject, kind: str) -> None:
        source = bytearray(KINDS[kind](picture(50, 40), 60))
        if len(source) > 5000:
            source = bytearray(KINDS["4:2:0"](picture(50, 40), 60))
        size = decode(bytes(source)).shape[1::-1]
        for _ in range(data.draw(st.integers(1, 5))):
            at, length = data.draw(st.integers(0, len(source))), data.draw(st.integers(0, 8))
            source[at : at + length] = data.draw(st.binary(max_size=8))
        assert_all_agree(bytes(source), size)

    def test_the_result_does_not_depend_on_earlier_images(self) -> None:
        """Not even which error it is."""
        data = SMALL["4:4:4 with restart markers"]
        for at in range(len(data) - 300, len(data), 7):
            for broken in (data[:at], data[:at] + b"\x00" + data[at + 1 :]):
                np.testing.assert_equal(outcome(WARM[0], broken), outcome(Decoder(), broken))

    def test_after_an_error_the_next_image_is_right(self) -> None:
        good = KINDS["4:4:4"](picture(50, 40, 3), 90)
        expected = Decoder().decode_planes(good)
        for decoder in WARM:
            for length in range(len(good) // 2, len(good), 17):
                outcome(decoder, good[:length])
                np.testing.assert_equal(decoder.decode_planes(good), expected)

    def test_restart_markers_out_of_order(self) -> None:
        data = jpeg(picture(64, 64), restart_marker_rows=1)
        assert b"\xff\xd1" in data
        with pytest.raises(DecodeError, match="corrupt data"):
            decode(data.replace(b"\xff\xd1", b"\xff\xd5"))

    def test_a_lost_restart_marker(self) -> None:
        data = jpeg(picture(64, 64), restart_marker_rows=1)
        with pytest.raises(DecodeError, match=r"corrupt data|end too early"):
            decode(data.replace(b"\xff\xd1", b""))


class TestRefusedHeaders:
    SOURCE = jpeg(picture(40, 30), subsampling="4:4:4")

    @pytest.mark.parametrize(
        "data", [b"", b"\xff", b"\xff\xd8", b"\x89PNG\r\n\x1a\n" + bytes(50), b"\xff\xd8\xff\xd9", bytes(100)]
    )
    def test_what_is_no_jpeg(self, data: bytes) -> None:
        with pytest.raises(DecodeError, match="not a JPEG"):
            decode(data)

    @pytest.mark.parametrize("size", [(0, 30), (40, 0), (0, 0)])
    def test_no_pixels(self, size: tuple[int, int]) -> None:
        with pytest.raises(DecodeError, match="impossible header"):
            decode(with_frame(self.SOURCE, size=size))

    @pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF])
    def test_lossless_hierarchical_and_arithmetic(self, marker: int) -> None:
        with pytest.raises(DecodeError, match="unsupported JPEG"):
            decode(with_frame(self.SOURCE, marker=marker))

    def test_12_bits(self) -> None:
        with pytest.raises(DecodeError, match="unsupported JPEG"):
            decode(with_frame(self.SOURCE, precision=12))

    def test_cmyk(self) -> None:
        with pytest.raises(DecodeError, match="unsupported JPEG"):
            decode(jpeg(picture(40, 30), 90, "CMYK"))

    @pytest.mark.parametrize("factors", [(0, 1), (1, 0), (5, 1), (1, 5), (4, 4), (15, 15)])
    def test_impossible_sampling_factors(self, factors: tuple[int, int]) -> None:
        with pytest.raises(DecodeError, match="impossible header"):
            decode(with_frame(self.SOURCE, first_sampling=factors))

    @pytest.mark.parametrize("missing", [DQT, DHT, SOF0])
    def test_a_missing_segment(self, missing: int) -> None:
        with pytest.raises(DecodeError, match="impossible header"):
            decode(put_together(segment for segment in take_apart(self.SOURCE) if segment.marker != missing))

    def test_no_scan(self) -> None:
        with pytest.raises(DecodeError, match="end too early"):
            decode(put_together(segment for segment in take_apart(self.SOURCE) if segment.marker != SOS))

    def test_two_frames(self) -> None:
        sof = next(segment for segment in take_apart(self.SOURCE) if segment.marker == SOF0)
        with pytest.raises(DecodeError, match="impossible header"):
            decode(put_together([sof, *take_apart(self.SOURCE)]))

    @pytest.mark.parametrize(
        "counts",
        [
            (3, *[0] * 15),  # more codes than bits
            (2, *[0] * 15),  # all of them: one would be all ones
            (1, 2, *[0] * 14),
            (0, 4, *[0] * 14),
            (1, 1, 1, 3, *[0] * 12),
        ],
    )
    def test_impossible_huffman_tables(self, counts: tuple[int, ...]) -> None:
        symbols = bytes(range(sum(counts)))
        for kind in (0x00, 0x10):
            table = Segment(DHT, bytes((kind, *counts)) + symbols)
            *segments, scan = take_apart(self.SOURCE)
            with pytest.raises(DecodeError, match="impossible header"):
                decode(put_together([*segments, table, scan]))

    def test_a_table_without_codes(self) -> None:
        *segments, scan = take_apart(self.SOURCE)
        with pytest.raises(DecodeError, match=ANY_ERROR):
            decode(put_together([*segments, Segment(DHT, bytes(17)), scan]))

    def test_a_scan_of_other_components(self) -> None:
        *segments, scan = take_apart(self.SOURCE)
        payload = bytearray(scan.payload)
        payload[1], payload[3] = payload[3], payload[1]
        with pytest.raises(DecodeError, match="impossible header"):
            decode(put_together([*segments, Segment(SOS, bytes(payload), scan.coded)]))

    def test_progressive_rgb(self) -> None:
        with pytest.raises(DecodeError, match="if sequential, RGB"):
            decode(jpeg(picture(40, 30), keep_rgb=True, progressive=True))


HUGE = """
import resource, sys
from trainer.jpeg import DecodeError, Decoder
import numpy as np
data, box = sys.stdin.buffer.read(), eval(sys.argv[1])
decoder, out = Decoder(), np.empty((8, 8, 3), np.uint8)

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    if isinstance(box, str):
        getattr(decoder, box)(data)
    else:
        decoder.decode_crop(data, (65500, 65500), box, False, out)
except DecodeError as error:
    print(error, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10)
"""


class TestHuge:
    """A header of 65500 x 65500 over a few bytes: 12 GB of planes, if it were believed."""

    @pytest.mark.parametrize("box", [(0, 0, 65500, 65500), (30000, 30000, 35000, 35000), (65490, 65490, 65500, 65500)])
    @pytest.mark.parametrize("kind", ["4:4:4", "4:2:0", "4:4:4 a restart each MCU", "gray", "4:2:0 progressive"])
    def test_is_refused_without_the_memory(self, kind: str, box: tuple[int, ...]) -> None:
        data = with_frame(KINDS[kind](picture(40, 30), 50), size=(65500, 65500))
        done = subprocess.run(
            [sys.executable, "-c", HUGE, str(box)], input=data, cwd=REPOSITORY, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        reason = "unsupported JPEG" if "progressive" in kind else "damaged JPEG: its data end too early"
        assert done.stdout.decode().startswith(reason), done.stdout.decode()
        assert done.stdout.decode().strip().endswith("True")

    @pytest.mark.parametrize("function", ["decode", "decode_planes"])
    def test_is_refused_as_a_whole(self, function: str) -> None:
        data = with_frame(KINDS["4:4:4"](picture(40, 30), 50), size=(65500, 65500))
        done = subprocess.run(
            [sys.executable, "-c", HUGE, repr(function)], input=data, cwd=REPOSITORY, capture_output=True, check=False
        )
        assert done.stdout.decode().startswith("there is no memory for 65500x65500 pixels"), done.stderr.decode()

    def test_a_blank_one_of_many_bytes_decodes(self) -> None:
        """Few bits a block are no error."""
        source = jpeg(np.full((3000, 4000, 3), 200, np.uint8), optimize=True, subsampling="4:4:4")
        assert len(source) < 3000 * 4000 // 64
        assert (decode(source) == 200).all()
