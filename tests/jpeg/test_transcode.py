"""Transcoding: the same coefficients as baseline with standard tables and restart markers, or a reason why not."""

from __future__ import annotations

import contextlib
import io
import re
import resource
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.jpeg.pictures import KINDS, gray_2x2, picture, three_scans
from tests.jpeg.surgery import (
    APP0,
    APP14,
    DHT,
    DQT,
    DRI,
    SOF0,
    SOF2,
    SOS,
    Segment,
    mcu_grid,
    one_block,
    put_together,
    sampling,
    size,
    take_apart,
    with_frame,
)
from tests.samples import jpeg
from trainer.jpeg.native import TranscodeError, restart_interval, transcode


def pixels(data: bytes) -> np.ndarray:
    """Pillow's decode: of this file alone, in its own mode."""
    return np.asarray(PIL.Image.open(io.BytesIO(data)))


class TestLossless:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("quality", [1, 50, 90, 100])
    def test_every_kind_decodes_to_the_same_pixels(self, kind: str, quality: int) -> None:
        source = KINDS[kind](picture(83, 61), quality)
        result = transcode(source)
        assert np.array_equal(pixels(result), pixels(source))

    @given(st.sampled_from(sorted(KINDS)), st.integers(1, 90), st.integers(1, 90), st.integers(1, 100))
    @settings(max_examples=150, deadline=None)
    def test_every_size_keeps_pixels_and_rows(self, kind: str, width: int, height: int, quality: int) -> None:
        source = KINDS[kind](picture(width, height), quality)
        result = transcode(source)
        assert size(result) == size(source)
        assert sampling(result) == sampling(source)
        assert np.array_equal(pixels(result), pixels(source))
        assert_segments_stay_in_rows(result)

    @pytest.mark.parametrize("kind", KINDS)
    def test_again_changes_nothing(self, kind: str) -> None:
        once = transcode(KINDS[kind](picture(83, 61), 90))
        assert transcode(once) == once

    def test_what_follows_the_image_is_dropped(self) -> None:
        source = jpeg(picture(40, 30))
        assert transcode(source + b"\xff\xd8 and more") == transcode(source)

    def test_a_file_of_less_than_two_bits_a_block(self) -> None:
        source = jpeg(np.full((2000, 2000, 3), 128, np.uint8), progressive=True, subsampling="4:4:4")
        assert np.array_equal(pixels(transcode(source)), pixels(source))

    def test_reads_any_buffer(self) -> None:
        source = jpeg(picture(40, 30))
        assert transcode(memoryview(b"??" + source)[2:]) == transcode(source)

    def test_threads_do_not_disturb_each_other(self) -> None:
        sources = [KINDS[kind](picture(120, 90, seed), 80) for seed in range(4) for kind in KINDS]
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(transcode, sources)) == list(map(transcode, sources))


class TestForm:
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_baseline_in_one_scan_without_metadata(self, kind: str) -> None:
        markers = [segment.marker for segment in take_apart(transcode(KINDS[kind](picture(83, 61), 90)))]
        assert set(markers) == {APP0, DQT, SOF0, DHT, DRI, SOS}
        assert markers.count(SOS) == 1

    @pytest.mark.parametrize("kind", KINDS)
    def test_has_the_standard_huffman_tables(self, kind: str) -> None:
        standard = {segment.payload for segment in take_apart(jpeg(picture(8, 8))) if segment.marker == DHT}
        own = {
            segment.payload
            for segment in take_apart(transcode(KINDS[kind](picture(83, 61), 90)))
            if segment.marker == DHT
        }
        assert own == (standard if not kind.startswith("gray") else {table for table in standard if table[0] & 15 == 0})

    @pytest.mark.parametrize("width", [1, 33, 64, 176, 200, 352, 353, 1040])
    @pytest.mark.parametrize("kind", ["gray", "gray 2x2", "4:4:4", "4:2:2", "4:2:0", "4:1:1", "4:4:0"])
    def test_every_restart_segment_lies_in_one_row_of_mcus(self, kind: str, width: int) -> None:
        assert_segments_stay_in_rows(transcode(KINDS[kind](picture(width, 50), 90)))

    def test_a_gray_file_counts_mcus_of_one_block_whatever_its_factors(self) -> None:
        result = transcode(gray_2x2(picture(56, 40), 90))
        assert mcu_grid(result) == (7, 5)
        assert restart_interval_of(result) == 7
        assert_segments_stay_in_rows(result)


def restart_interval_of(data: bytes) -> int:
    return next(int.from_bytes(segment.payload, "big") for segment in take_apart(data) if segment.marker == DRI)


def assert_segments_stay_in_rows(data: bytes) -> None:
    """The restart markers come in turn, one after each interval, and each row of MCUs is so many intervals."""
    across, down = mcu_grid(data)
    interval = restart_interval_of(data)
    assert interval == restart_interval(across)
    markers = [int(marker[1]) - 0xD0 for marker in re.findall(rb"\xff[\xd0-\xd7]", take_apart(data)[-1].coded)]
    assert markers == [i % 8 for i in range(across * down // interval - 1)]


class TestRestartInterval:
    @pytest.mark.parametrize(
        ("mcus_per_row", "interval"),
        [
            *((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (7, 7), (8, 8), (9, 9), (12, 6), (14, 7), (22, 11), (23, 23)),
            *((24, 8), (26, 13), (28, 7), (30, 6), (40, 8), (46, 23), (8179, 8179), (8188, 4)),
        ],
    )
    def test_is_the_largest_divisor_from_4_to_8_or_else_the_next_larger(self, mcus_per_row: int, interval: int) -> None:
        assert restart_interval(mcus_per_row) == interval

    @given(st.integers(1, 8188))
    def test_never_crosses_a_row(self, mcus_per_row: int) -> None:
        divisors = [n for n in range(1, mcus_per_row + 1) if mcus_per_row % n == 0]
        preferred = [n for n in divisors if 4 <= n <= 8]
        larger = [n for n in divisors if n > 8]
        assert restart_interval(mcus_per_row) == (preferred[-1] if preferred else larger[0] if larger else mcus_per_row)

    @pytest.mark.parametrize("nonsense", [0, -1, -(2**31)])
    def test_of_no_mcus_is_one(self, nonsense: int) -> None:
        assert restart_interval(nonsense) == 1


def with_adobe(transform: int) -> bytes:
    """A file whose Adobe marker, without a JFIF one, says which colours it has."""
    segments = [segment for segment in take_apart(jpeg(picture(20, 20))) if segment.marker != APP0]
    return put_together([Segment(APP14, b"Adobe\0\x64\0\0\0\0" + bytes((transform,))), *segments])


def with_quantisation(step: int) -> bytes:
    """A file of the extended process, whose quantisation tables are of 16 bits."""
    segments = [segment for segment in take_apart(jpeg(picture(20, 20))) if segment.marker != DQT]
    tables = [Segment(DQT, bytes((0x10 | slot,)) + step.to_bytes(2, "big") * 64) for slot in (0, 1)]
    return with_frame(put_together([*tables, *segments]), marker=SOF0 + 1)


def without_scans(data: bytes, start: int, stop: int | None = None) -> bytes:
    segments = take_apart(data)
    scans = [segment for segment in segments if segment.marker == SOS]
    dropped = scans[start:stop]
    return put_together([segment for segment in segments if not any(segment is scan for scan in dropped)])


def with_last_scan_again(data: bytes, times: int) -> bytes:
    segments = take_apart(data)
    return put_together([*segments, *([segments[-1]] * times)])


def whole(mode: str = "RGB", **options: object) -> bytes:
    return jpeg(picture(96, 80), 90, mode, **options)


class TestRefused:
    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            pytest.param(whole("CMYK"), "CMYK", id="CMYK"),
            pytest.param(with_adobe(0), "RGB", id="Adobe RGB"),
            pytest.param(whole(keep_rgb=True), "RGB", id="components R, G and B"),
            pytest.param(with_frame(whole(), marker=0xC9), "arithmetic coding", id="arithmetic coding"),
            pytest.param(
                with_frame(whole(progressive=True), marker=0xCA), "arithmetic coding", id="arithmetic, progressive"
            ),
            pytest.param(with_frame(whole(), marker=0xC1, precision=12), "12", id="12 bits"),
            pytest.param(with_frame(whole(), marker=0xC5), "SOF type 0xc5", id="hierarchical"),
            pytest.param(with_quantisation(300), "quantisation step of 300", id="16-bit quantisation"),
            pytest.param(with_adobe(7), "libjpeg warns: .*Adobe", id="a warning"),
        ],
    )
    def test_kinds_that_cannot_be_kept(self, source: bytes, reason: str) -> None:
        assert_refused(source, reason)

    @pytest.mark.parametrize(("dc", "ac"), [(-1024, 0), (1023, 0), (0, 1023), (0, -1023), (-1024, -1023), (3, 0)])
    def test_not_the_largest_coefficients_of_baseline(self, dc: int, ac: int) -> None:
        source = one_block(dc, ac)
        assert np.array_equal(pixels(transcode(source)), pixels(source))

    @pytest.mark.parametrize(("dc", "ac"), [(-1025, 0), (1024, 0), (0, 1024), (0, -1024), (4095, 0), (0, 32767)])
    def test_coefficients_that_the_standard_tables_have_no_code_for(self, dc: int, ac: int) -> None:
        assert_refused(one_block(dc, ac), "coefficient outside of baseline's range")

    def test_scans_that_have_not_come(self) -> None:
        planes = three_scans(picture(96, 80), 90)
        assert_refused(without_scans(planes, -1), "component 3 has no scan")
        assert_refused(without_scans(planes, 0, 1), "component 1 has no scan")
        for last in range(1, 10):  # of the ten of libjpeg's script
            assert_refused(without_scans(whole(progressive=True), last), "full precision|has no scan")

    def test_scans_that_should_not_come(self) -> None:
        assert_refused(with_last_scan_again(whole(), 1), "more than one scan")
        assert_refused(with_last_scan_again(three_scans(picture(96, 80), 90), 200), "more than 100 scans")

    @pytest.mark.parametrize("progressive", [False, True])
    def test_headers_that_promise_more_than_the_file_can_hold(self, progressive: bool) -> None:
        source = whole(progressive=progressive)
        assert_refused(with_frame(source, size=(65500, 65500)), "65500 x 65500 pixels are more than 134217728")
        assert_refused(with_frame(source, size=(10000, 10000)), "bytes cannot hold 10000 x 10000 pixels")

    @pytest.mark.parametrize(
        "source", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"GIF89a", whole()[1:], b"\xff" * 999, bytes(999)]
    )
    def test_what_is_no_jpeg(self, source: bytes) -> None:
        assert_refused(source, ".")


def assert_refused(source: bytes, reason: str) -> None:
    with pytest.raises(TranscodeError, match=reason) as refusal:
        transcode(source)
    assert "\n" not in str(refusal.value)


def assert_same_or_refused(source: bytes) -> None:
    """What is kept looks to Pillow as before (if Pillow can tell); what is refused has a reason."""
    try:
        result = transcode(source)
    except TranscodeError:
        assert_refused(source, r"^[ -~]+$")
        return
    assert_segments_stay_in_rows(result)
    try:
        before = pixels(source)
    except Exception:
        return
    assert np.array_equal(pixels(result), before)


SMALL = {kind: make(picture(45, 37), 80) for kind, make in KINDS.items()}


class TestDamage:
    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "EXIF, ICC and a comment"])
    def test_every_truncation_is_refused(self, kind: str) -> None:
        source = SMALL[kind]
        for end in range(0, len(source) - 2, 7):
            assert_refused(source[:end], ".")

    @given(st.sampled_from(sorted(KINDS)), st.data())
    @settings(max_examples=400, deadline=None)
    def test_flipped_bytes(self, kind: str, data: st.DataObject) -> None:
        source = bytearray(SMALL[kind])
        for at in data.draw(st.lists(st.integers(2, len(source) - 1), min_size=1, max_size=4)):
            source[at] = data.draw(st.integers(0, 255))
        assert_same_or_refused(bytes(source))

    @given(st.sampled_from(sorted(KINDS)), st.data())
    @settings(max_examples=300, deadline=None)
    def test_bytes_moved_within_the_header(self, kind: str, data: st.DataObject) -> None:
        source = SMALL[kind]
        header = len(source) - len(take_apart(source)[-1].coded)
        start = data.draw(st.integers(2, header))
        stop = data.draw(st.integers(start, header))
        assert_same_or_refused(source[:start] + data.draw(st.binary(max_size=8)) + source[stop:])

    @given(st.binary(max_size=300))
    @settings(max_examples=200, deadline=None)
    def test_noise_behind_a_header(self, noise: bytes) -> None:
        source = SMALL["4:2:0"]
        assert_same_or_refused(source[: len(source) - len(take_apart(source)[-1].coded) - 2] + noise + b"\xff\xd9")

    def test_other_frames_over_the_same_data(self) -> None:
        for source in SMALL.values():
            for marker, h, v in product((SOF0, SOF2), range(6), range(6)):
                assert_same_or_refused(with_frame(source, marker=marker, first_sampling=(h, v)))
            assert_same_or_refused(with_frame(source, size=(1, 65500)))

    def test_no_memory_is_lost_on_the_way_out(self) -> None:
        source = jpeg(picture(512, 512), subsampling="4:4:4")
        halves = [source[: len(source) // 2], source[:-2], with_last_scan_again(source, 1), source]

        def transcode_all() -> None:
            for half in halves:
                with contextlib.suppress(TranscodeError):
                    transcode(half)

        transcode_all()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(10):
            transcode_all()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 8192, f"{grown} KiB; one leak is 1.5 MiB a file"
