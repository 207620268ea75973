"""Recoding, by which most files are transcoded: byte for byte what libjpeg writes, and left to it in any doubt.

The library is built a second time, with the function that takes one of the two ways.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.jpeg.pictures import KINDS, picture
from tests.jpeg.surgery import DHT, DQT, SOF0, Segment, put_together, take_apart, with_frame
from tests.jpeg.symbols import LENGTHS, Symbols, of_symbols, symbols_of
from tests.samples import REPOSITORY, jpeg

SOURCES: Final = REPOSITORY / "trainer" / "jpeg" / "src"
BY_RECODING, BY_LIBJPEG, WITHOUT_BMI2 = 1, 2, 4
LEFT: Final = "left to libjpeg"

SEVERAL_SCANS: Final = {kind for kind in KINDS if "progressive" in kind or "scans" in kind}


class Refused(NamedTuple):
    """Why a file is not transcoded."""

    status: int
    reason: str


class Ways:
    """The ways of transcoding, each alone."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.transcode_by.argtypes = [
            *(c_int, c_char_p, c_size_t),
            *(POINTER(c_void_p), POINTER(c_size_t), POINTER(c_char)),
        ]
        self._library.jc_free.argtypes = [c_void_p]

    def __call__(self, ways: int, source: bytes) -> bytes | Refused:
        out, size, reason = c_void_p(), c_size_t(), (c_char * 256)()
        status = self._library.transcode_by(ways, source, len(source), byref(out), byref(size), reason)
        if status:
            return Refused(status, reason.value.decode())
        try:
            return ctypes.string_at(out, size.value)
        finally:
            self._library.jc_free(out)

    def agree_on(self, source: bytes) -> bytes | Refused:
        """What libjpeg makes of it, once the other ways have made the same; recoding alone may leave it."""
        expected = self(BY_LIBJPEG, source)
        assert self(BY_RECODING | BY_LIBJPEG, source) == expected
        for portable in (0, WITHOUT_BMI2):
            recoded = self(BY_RECODING | portable, source)
            assert recoded == expected or (isinstance(recoded, Refused) and recoded.reason == LEFT)
        return expected

    def recode(self, source: bytes) -> bytes:
        """The same for a file that must not be left."""
        recoded = self(BY_RECODING, source)
        assert isinstance(recoded, bytes), recoded
        assert self.agree_on(source) == recoded
        return recoded

    def leave(self, source: bytes) -> bytes | Refused:
        """The same for a file that must be left."""
        assert self(BY_RECODING, source) == self(BY_RECODING | WITHOUT_BMI2, source)
        left = self(BY_RECODING, source)
        assert isinstance(left, Refused)
        assert left.reason == LEFT
        return self.agree_on(source)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Ways:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("ways") / "ways.so"
    sources = [str(SOURCES / "transcode.c"), *map(str, sorted(SOURCES.glob("recode*.c")))]
    flags = ["-std=c11", "-O1", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, *sources, "-ljpeg", "-o", str(library)], check=True)
    return Ways(library)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Every coefficient of it counts, also the last of a block."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


class TestSameFile:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("quality", [1, 50, 90, 100])
    def test_of_every_kind(self, ways: Ways, kind: str, quality: int) -> None:
        source = KINDS[kind](picture(83, 61), quality)
        if kind in SEVERAL_SCANS:
            assert isinstance(ways.leave(source), bytes)
        else:
            ways.recode(source)

    @pytest.mark.parametrize("quality", range(1, 101))
    def test_of_every_quality(self, ways: Ways, quality: int) -> None:
        ways.recode(jpeg(picture(70, 50), quality, subsampling="4:2:0"))
        ways.recode(jpeg(noise(40, 30), quality, subsampling="4:4:4", optimize=True))

    @given(
        size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
        kind=st.sampled_from(sorted(KINDS.keys() - SEVERAL_SCANS)),
        quality=st.integers(1, 100),
        is_noise=st.booleans(),
    )
    @settings(max_examples=150, deadline=None)
    def test_of_every_size(self, ways: Ways, size: tuple[int, int], kind: str, quality: int, is_noise: bool) -> None:
        ways.recode(KINDS[kind]((noise if is_noise else picture)(*size), quality))

    @given(
        size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
        mode=st.sampled_from(["L", "RGB"]),
        subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
        optimize=st.booleans(),
        restarts=st.integers(0, 20),
    )
    @settings(max_examples=150, deadline=None)
    def test_whatever_the_tables_and_restarts(
        self, ways: Ways, size: tuple[int, int], mode: str, subsampling: str, optimize: bool, restarts: int
    ) -> None:
        options = {"restart_marker_blocks": restarts} if restarts else {}
        once = ways.recode(jpeg(picture(*size), 85, mode, subsampling=subsampling, optimize=optimize, **options))
        assert ways.recode(once) == once

    def test_of_a_file_that_grows(self, ways: Ways) -> None:
        """Its commonest symbol has one bit, and sixteen in the standard table."""
        block = [(0, 0), *([(0x0A, 0x3FF)] * 63)]
        source = of_symbols([block] * 1000, LENGTHS["short and long"], commonest=0x0A)
        assert len(ways.recode(source)) > 2 * len(source)

    def test_of_more_restarts_than_data(self, ways: Ways) -> None:
        gray = np.full((600, 800, 3), 128, np.uint8)
        ways.recode(jpeg(gray, 50, "L", restart_marker_blocks=1))

    @pytest.mark.parametrize("padding", "01")
    def test_however_the_last_byte_is_filled_up(self, ways: Ways, padding: str) -> None:
        blocks = [[(0, 0), (1, 1), (0, 0)]]
        coded = [ways.recode(of_symbols(blocks, lengths, padding=padding)) for lengths in LENGTHS.values()]
        assert len(set(coded)) == 1


def test_the_coder_of_these_tests_is_right(ways: Ways) -> None:
    picture_blocks = [symbols_of([5, *range(-31, 32)]), symbols_of([-9] + [0] * 62 + [1]), symbols_of([0] * 64)]
    results = {of: ways.recode(of_symbols(picture_blocks, lengths)) for of, lengths in LENGTHS.items()}
    assert len(set(results.values())) == 1
    [result] = set(results.values())
    assert len(take_apart(result)) == 7


MAGNITUDES: Final = st.one_of(st.just(0), st.integers(-3, 3), st.integers(-1023, 1023))
BLOCKS: Final = st.tuples(st.integers(-60, 60), st.lists(MAGNITUDES, min_size=0, max_size=63)).map(
    lambda drawn: [drawn[0], *drawn[1], *([0] * (63 - len(drawn[1])))]
)
VALUED: Final = st.tuples(st.integers(0, 255), st.integers(0, 0x7FFF))
USUAL: Final = st.sampled_from([0, 1, 2, 0x11, 0xF1, 0xF0, 0x0A, 0xFA]).flatmap(
    lambda symbol: st.tuples(st.just(symbol), st.integers(0, 0x7FFF))
)


class TestSymbols:
    @given(st.lists(BLOCKS, min_size=1, max_size=12), st.sampled_from(sorted(LENGTHS)))
    @settings(max_examples=200, deadline=None)
    def test_any_coefficients_under_any_codes(self, ways: Ways, blocks: list[list[int]], lengths: str) -> None:
        ways.recode(of_symbols([symbols_of(block) for block in blocks], LENGTHS[lengths]))

    @given(
        st.lists(
            st.tuples(st.tuples(st.integers(0, 15), st.integers(0, 0x7FFF)), st.lists(VALUED | USUAL, max_size=70)).map(
                lambda drawn: [drawn[0], *drawn[1]]
            ),
            min_size=1,
            max_size=4,
        ),
        st.sampled_from(sorted(LENGTHS)),
    )
    @settings(max_examples=400, deadline=None)
    def test_any_symbols(self, ways: Ways, blocks: list[Symbols], lengths: str) -> None:
        ways.agree_on(of_symbols(blocks, LENGTHS[lengths]))

    @pytest.mark.parametrize("lengths", LENGTHS)
    @pytest.mark.parametrize(
        "symbols",
        [
            pytest.param([(0xF0, 0), (0, 0)], id="zeros before the end"),
            pytest.param([(0xF0, 0)] * 4, id="64 zeros"),
            pytest.param([(0xF0, 0)] * 3 + [(0xF1, 1)], id="a coefficient behind the last"),
            pytest.param([(0x30, 0)], id="a short run of zeros"),
        ],
    )
    def test_what_libjpeg_reads_and_writes_otherwise(self, ways: Ways, symbols: Symbols, lengths: str) -> None:
        assert isinstance(ways.leave(of_symbols([[(3, 5), *symbols]], LENGTHS[lengths])), bytes)

    @pytest.mark.parametrize("lengths", LENGTHS)
    @pytest.mark.parametrize("symbol", [0x0B, 0x0F, 0xFB])
    def test_coefficients_out_of_range(self, ways: Ways, symbol: int, lengths: str) -> None:
        refused = ways.leave(of_symbols([[(3, 5), (symbol, 0x7FFF), (0, 0)]], LENGTHS[lengths]))
        assert isinstance(refused, Refused)
        assert "range" in refused.reason

    @pytest.mark.parametrize("lengths", LENGTHS)
    @pytest.mark.parametrize("end", [61, 62, 63])
    def test_the_last_coefficients_of_a_block(self, ways: Ways, end: int, lengths: str) -> None:
        for value in (1, -1, 5, 1023):
            block = [7, *([1] * (end - 1)), value, *([0] * (63 - end))]
            ways.recode(of_symbols([symbols_of(block)] * 9, LENGTHS[lengths]))


class TestLeft:
    def test_tables_that_come_between_scans(self, ways: Ways) -> None:
        segments = take_apart(KINDS["4:4:4 in three scans"](picture(40, 30), 80))
        sof = next(i for i, segment in enumerate(segments) if segment.marker == SOF0)
        segments[sof] = Segment(SOF0, segments[sof].payload[:-1] + b"\x01")  # the third component has table 1
        segments.insert(-1, Segment(DQT, bytes((1, *([3] * 64)))))
        assert isinstance(ways.leave(put_together(segments)), bytes)

    def test_no_tables(self, ways: Ways) -> None:
        source = take_apart(jpeg(picture(40, 30)))
        for missing in (DQT, DHT):
            assert isinstance(ways.leave(put_together(s for s in source if s.marker != missing)), Refused | bytes)

    @pytest.mark.parametrize("behind", [b"\xff", b"\x00", b"\xff\xd0", b"\xff\x01"])
    def test_data_behind_the_scan(self, ways: Ways, behind: bytes) -> None:
        ways.leave(jpeg(picture(40, 30))[:-2] + behind + b"\xff\xd9")

    @pytest.mark.parametrize(
        ("marker", "instead"), [(b"\xff\xd1", b"\xff\xd2"), (b"\xff\xd1", b"\xff\xff\xd1"), (b"\xff\xd1", b"")]
    )
    def test_restarts_out_of_order(self, ways: Ways, marker: bytes, instead: bytes) -> None:
        source = jpeg(picture(96, 80), restart_marker_blocks=2)
        assert source.count(marker) >= 1
        ways.leave(source.replace(marker, instead, 1))

    def test_other_sampling_factors_over_the_same_data(self, ways: Ways) -> None:
        for h in range(6):
            for v in range(6):
                ways.agree_on(with_frame(jpeg(picture(45, 37)), first_sampling=(h, v)))


SMALL: Final = {
    **{kind: make(picture(45, 37), 80) for kind, make in KINDS.items() if "EXIF" not in kind},
    "noise": jpeg(noise(30, 20), 97, subsampling="4:4:4", optimize=True, restart_marker_blocks=3),
}


class TestDamage:
    """The same file, or the same refusal with the same words."""

    @pytest.mark.parametrize("kind", SMALL)
    def test_truncated_anywhere(self, ways: Ways, kind: str) -> None:
        source = SMALL[kind]
        for end in range(0, len(source), 3):
            assert isinstance(ways.agree_on(source[:end]), Refused)

    @given(st.sampled_from(sorted(SMALL)), st.data())
    @settings(max_examples=500, deadline=None)
    def test_changed_bytes(self, ways: Ways, kind: str, data: st.DataObject) -> None:
        source = bytearray(SMALL[kind])
        for at in data.draw(st.lists(st.integers(2, len(source) - 1), min_size=1, max_size=4)):
            source[at] = data.draw(st.integers(0, 255))
        ways.agree_on(bytes(source))

    @given(st.sampled_from(sorted(SMALL)), st.data())
    @settings(max_examples=300, deadline=None)
    def test_bytes_left_out_and_put_in(self, ways: Ways, kind: str, data: st.DataObject) -> None:
        source = SMALL[kind]
        start = data.draw(st.integers(2, len(source)))
        stop = data.draw(st.integers(start, min(start + 9, len(source))))
        ways.agree_on(source[:start] + data.draw(st.binary(max_size=8)) + source[stop:])

    @given(st.binary(max_size=300))
    @settings(max_examples=200, deadline=None)
    def test_noise_behind_a_header(self, ways: Ways, coded: bytes) -> None:
        source = SMALL["4:2:0"]
        header = len(source) - len(take_apart(source)[-1].coded) - 2
        ways.agree_on(source[:header] + coded.replace(b"\xff", b"\xff\x00") + b"\xff\xd9")
