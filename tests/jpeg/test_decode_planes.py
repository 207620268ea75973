"""Decoding is exact: the planes of every JPEG are those of libjpeg-turbo's accurate inverse DCT, bit for bit."""

from __future__ import annotations

import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.jpeg.pictures import KINDS, SAMPLINGS, picture, restarted
from tests.jpeg.references import pillow_crop, pillow_planes, turbojpeg_planes
from tests.jpeg.surgery import (
    DQT,
    DRI,
    SOF0,
    Segment,
    mcu_grid,
    one_block,
    put_together,
    take_apart,
    with_frame,
)
from tests.samples import REPOSITORY, jpeg
from trainer.jpeg import (
    Decoder,
    Pixels,
    TranscodeError,
    decode_crop,
    decode_planes,
    has_simd,
    read_info,
    transcode,
)

SOF1 = 0xC1  # extended sequential
UNKNOWN_TO_TURBOJPEG = {"1x4"}
DECODERS = {"simd": Decoder(), "portable": Decoder(portable=True)}


def assert_exact(data: bytes, reference: Callable[[bytes], list[Pixels]] = turbojpeg_planes) -> None:
    """Both code paths, in decoders that have seen other images."""
    expected = reference(data)
    for name, decoder in DECODERS.items():
        planes = decoder.decode_planes(data)
        assert len(planes) == len(expected), name
        for own, other in zip(planes, expected, strict=True):
            np.testing.assert_array_equal(own, other, name)


class TestExact:
    @pytest.mark.parametrize("policy", ["none", "1", "3", "own", "row", "across rows"])
    @pytest.mark.parametrize("sampling", SAMPLINGS)
    def test_every_sampling_and_restart_policy(self, sampling: str, policy: str) -> None:
        for width, height in ((83, 61), (64, 48), (129, 17)):
            assert_exact(restarted(SAMPLINGS[sampling], picture(width, height), 85, policy))

    @pytest.mark.parametrize("kind", sorted(set(KINDS) - UNKNOWN_TO_TURBOJPEG))
    def test_every_kind_and_what_transcoding_makes_of_it(self, kind: str) -> None:
        for quality in (1, 50, 100):
            source = KINDS[kind](picture(83, 61), quality)
            assert_exact(source)
            assert_exact(transcode(source), lambda _, source=source: turbojpeg_planes(source))  # type: ignore[misc]

    @given(
        sampling=st.sampled_from(sorted(SAMPLINGS)),
        policy=st.sampled_from(["none", "1", "2", "3", "7", "own", "row", "across rows"]),
        width=st.integers(1, 100),
        height=st.integers(1, 100),
        quality=st.integers(1, 100),
        seed=st.integers(0, 5),
    )
    @settings(max_examples=300, deadline=None)
    def test_every_size_and_quality(
        self, sampling: str, policy: str, width: int, height: int, quality: int, seed: int
    ) -> None:
        assert_exact(restarted(SAMPLINGS[sampling], picture(width, height, seed), quality, policy))

    @pytest.mark.parametrize("sampling", SAMPLINGS)
    def test_every_small_size(self, sampling: str) -> None:
        pixels = picture(18, 18)
        for width in range(1, 19):
            assert_exact(SAMPLINGS[sampling](pixels[: 1 + width * 7 % 18, :width], 95, restart_marker_rows=1))

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("quality", [3, 75, 100])
    def test_agrees_with_pillow_where_that_gives_planes_as_stored(self, kind: str, quality: int) -> None:
        source = KINDS[kind](picture(83, 61), quality)
        for name, decoder in DECODERS.items():
            planes = decoder.decode_planes(source)
            for component, expected in pillow_planes(source).items():
                np.testing.assert_array_equal(planes[component], expected, name)

    def test_noise_of_the_longest_codes(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        for quality in (50, 95, 100):
            assert_exact(jpeg(noise, quality, subsampling="4:4:4", restart_marker_rows=1))

    @pytest.mark.parametrize("optimize", [False, True])
    @pytest.mark.parametrize(
        "pixels", [np.zeros((40, 40, 3)), np.full((40, 40, 3), 255), np.indices((40, 40, 3)).sum(0) % 2 * 255]
    )
    def test_black_white_and_checkered(self, pixels: np.ndarray, optimize: bool) -> None:
        for quality in (1, 100):
            assert_exact(jpeg(pixels.astype(np.uint8), quality, optimize=optimize))

    def test_custom_tables_of_one_image_do_not_reach_the_next(self) -> None:
        pictures = [jpeg(picture(50, 40, seed), 30 * seed + 9, optimize=True) for seed in range(4)]
        for source in (*pictures, jpeg(picture(50, 40)), *pictures[::-1]):
            assert_exact(source)

    @pytest.mark.parametrize("dc", [1, -1, 255, -1023, 1000])
    @pytest.mark.parametrize("ac", [1, -1, 100, -1023])
    def test_tables_of_a_few_codes(self, dc: int, ac: int) -> None:
        assert_exact(one_block(dc, ac))

    def test_quantisation_tables_of_16_bits(self) -> None:
        flat = (picture(64, 48) // 4 + 96).astype(np.uint8)
        for marker in (SOF0, SOF1):
            assert_exact(with_wide_quantisation(jpeg(flat, 40), marker))

    def test_extended_sequential(self) -> None:
        assert_exact(with_frame(jpeg(picture(64, 48)), marker=SOF1))

    def test_fill_bytes_before_restart_markers(self) -> None:
        source = jpeg(picture(64, 48), restart_marker_rows=1)
        scan = take_apart(source)[-1]
        filled = scan.coded
        for number in range(8):
            filled = filled.replace(bytes((0xFF, 0xD0 + number)), bytes((0xFF, 0xFF, 0xFF, 0xD0 + number)))
        assert filled != scan.coded
        segments = [*take_apart(source)[:-1], Segment(scan.marker, scan.payload, filled)]
        assert_exact(put_together(segments), lambda _: turbojpeg_planes(source))

    def test_reads_any_buffer(self) -> None:
        source = jpeg(picture(40, 30))
        for other in (bytearray(source), memoryview(b"??" + source)[2:]):
            for own, expected in zip(decode_planes(other), decode_planes(source), strict=True):  # type: ignore[arg-type]
                np.testing.assert_array_equal(own, expected)

    def test_what_follows_the_image_does_not_matter(self) -> None:
        source = jpeg(picture(40, 30))
        assert_exact(source + b"\xff\xd8 and more", lambda _: turbojpeg_planes(source))


def with_wide_quantisation(data: bytes, marker: int) -> bytes:
    """The same coefficients under four times the steps, which then take 16 bits."""
    segments = []
    for segment in take_apart(data):
        if segment.marker == DQT:
            slot, *steps = segment.payload
            wide = struct.pack(">B64H", 0x10 | slot, *(4 * step for step in steps[:64]))
            assert len(steps) == 64
            assert max(steps) * 4 > 255
            segment = Segment(DQT, wide)
        segments.append(segment)
    return with_frame(put_together(segments), marker=marker)


class TestInfo:
    @pytest.mark.parametrize("kind", KINDS)
    def test_says_what_the_header_says(self, kind: str) -> None:
        source = KINDS[kind](picture(83, 61), 90)
        info = read_info(source)
        across, _ = mcu_grid(source)
        restart = [segment.payload for segment in take_apart(source) if segment.marker == DRI]
        assert (info.width, info.height) == Decoder().decode(source).shape[1::-1]
        assert info.progressive == ("progressive" in kind or "scans" in kind)
        assert info.mcus_per_row == across
        assert info.restart_interval == (int.from_bytes(restart[0], "big") if restart else 0)
        assert [plane.shape[::-1] for plane in decode_planes(source)] == list(info.planes)

    def test_simd_is_used_where_there_is_avx2(self) -> None:
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        assert has_simd() == (" avx2 " in flags)


def photographs() -> Iterator[bytes]:
    """Real ones: a folder or tar of JPEGs, of $PHOTOGRAPHS or beside the project."""
    path = Path(os.environ.get("PHOTOGRAPHS", REPOSITORY.parent / "shared" / "data" / "imagenet-sample.tar"))
    if path.is_dir():
        yield from (file.read_bytes() for file in sorted(path.rglob("*")) if file.suffix.lower() in (".jpg", ".jpeg"))
    elif path.exists():
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith((".jpg", ".jpeg")):
                    file = tar.extractfile(member)
                    assert file
                    yield file.read()
    else:
        pytest.skip(f"no photographs in {path}")


@pytest.mark.slow
class TestPhotographs:
    def test_planes_are_exact_before_and_after_transcoding(self) -> None:
        exact = 0
        for data in islice(photographs(), int(os.environ.get("MOST_PHOTOGRAPHS", "100"))):
            expected = turbojpeg_planes(data)
            try:
                sources = (data, transcode(data))
            except TranscodeError:
                continue
            for source in sources:
                assert_exact(source, lambda _, expected=expected: expected)  # type: ignore[misc]
            exact += 1
        assert exact

    def test_random_crops_are_close_to_libjpeg_and_pillow(self) -> None:
        """On average: strong colours differ by more, for libjpeg enlarges chroma to bytes before it converts."""
        rng, means = np.random.default_rng(0), []
        for data in islice(photographs(), 60):
            info = read_info(data)
            width, height = rng.uniform(0.3, 1) * np.array((info.width, info.height))
            left, top = rng.uniform(0, info.width - width), rng.uniform(0, info.height - height)
            box, out = (left, top, left + width, top + height), np.empty((224, 224, 3), np.uint8)
            decode_crop(data, (info.width, info.height), box, False, out)
            means.append(np.abs(out.astype(int) - pillow_crop(data, box, (224, 224))).mean())
        assert np.mean(means) <= 0.6
        assert max(means) <= 2
