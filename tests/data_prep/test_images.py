"""What becomes of one image file."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.images import BadImage, Encoding, Record, Store, encode_file, encode_pixels
from data_prep.restarts import is_restart_marked
from trainer.data.beton import MODE_JPEG, MODE_RAW
from trainer.jpeg import decode, transcode

JPEG = Encoding(Store.JPEG, 90, 0)
LOSSLESS = Encoding(Store.LOSSLESS, 90, 0)
RAW = Encoding(Store.RAW, 90, 0)

Photo = Callable[..., PIL.Image.Image]
Encode = Callable[..., bytes]


def header(record: Record) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(record.data))


def far(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def libjpeg(data: bytes) -> np.ndarray:
    """What libjpeg makes of a JPEG: uint8 [height, width, 3]."""
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))


def pixels_of(data: bytes) -> np.ndarray:
    """Stored without loss, so that conversions of colour can be seen exactly."""
    record, _ = encode_file(data, RAW)
    return np.frombuffer(record.data, np.uint8).reshape(record.height, record.width, 3)


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class TestEncoded:
    def test_by_default_every_image_is_encoded_at_the_quality_in_420(self, photo: Photo, encoded: Encode) -> None:
        source = encoded(photo(0), quality=70, subsampling=0)
        record, why_lossy = encode_file(source, JPEG)
        assert (record.mode, record.width, record.height) == (MODE_JPEG, 48, 40)
        assert header(record).layer == [(1, 2, 2, 0), (2, 1, 1, 1), (3, 1, 1, 1)]  # type: ignore[attr-defined]
        assert len(encode_file(source, Encoding(Store.JPEG, 30, 0)).record.data) < len(record.data)
        assert far(decode(record.data), decode(source)) < 5
        assert why_lossy is None, "nothing else was asked for"

    def test_a_gray_image_is_encoded_in_colour(self, photo: Photo, encoded: Encode) -> None:
        record, _ = encode_file(encoded(photo(0).convert("L")), JPEG)
        assert header(record).mode == "RGB"

    @given(width=st.integers(1, 400), height=st.integers(1, 40))
    @settings(deadline=None, max_examples=30)
    def test_it_is_restart_marked_as_transcoding_would(self, width: int, height: int) -> None:
        record = encode_pixels(np.full((height, width, 3), 99, np.uint8), JPEG)
        assert is_restart_marked(record.data)
        assert transcode(record.data) == record.data

    @pytest.mark.parametrize("encoding", [JPEG, LOSSLESS])
    def test_neither_comment_nor_exif_nor_profile_is_copied(
        self, photo: Photo, encoded: Encode, encoding: Encoding
    ) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        record, _ = encode_file(encoded(photo(0), comment=b"private", exif=exif, icc_profile=b"profile"), encoding)
        assert b"private" not in record.data
        assert b"Exif" not in record.data
        assert b"profile" not in record.data

    def test_raw_stores_the_pixels(self, photo: Photo, encoded: Encode) -> None:
        source = encoded(photo(0))
        record, _ = encode_file(source, RAW)
        assert record.mode == MODE_RAW
        assert record.data == libjpeg(source).tobytes()

    def test_pixels_are_stored_raw_unless_jpeg_is_asked_for(self, photo: Photo) -> None:
        pixels = np.asarray(photo(0, 32, 32))
        for encoding in (RAW, LOSSLESS):
            assert encode_pixels(pixels, encoding) == (MODE_RAW, 32, 32, pixels.tobytes())
        record = encode_pixels(pixels, JPEG)
        assert (record.mode, decode(record.data).shape) == (MODE_JPEG, (32, 32, 3))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_record_can_be_sent(protocol: int) -> None:
    record = Record(MODE_JPEG, 3, 4, b"data")
    buffers: list[pickle.PickleBuffer] = []
    sent = pickle.dumps(record, protocol, buffer_callback=buffers.append if protocol >= 5 else None)
    assert pickle.loads(sent, buffers=[bytes(buffer) for buffer in buffers]) == record
    assert len(buffers) == (protocol >= 5)


class TestLossless:
    @pytest.mark.parametrize(
        "options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_blocks": 2}]
    )
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_jpegs_keep_every_pixel_and_become_restart_marked(
        self, photo: Photo, encoded: Encode, options: dict[str, object], mode: str
    ) -> None:
        source = encoded(photo(0).convert(mode), **options)
        record, why_lossy = encode_file(source + b"bytes behind the end of the image", LOSSLESS)
        assert (record.mode, record.width, record.height, why_lossy) == (MODE_JPEG, 48, 40, None)
        assert np.array_equal(libjpeg(record.data), libjpeg(source))
        assert header(record).mode == mode
        assert is_restart_marked(record.data)
        assert "progressive" not in header(record).info

    def test_what_cannot_be_kept_is_encoded_with_a_reason(self, photo: Photo, encoded: Encode) -> None:
        source = encoded(photo(0))
        scan = source.rindex(b"\xff\xda")
        for data, reason in (
            (encoded(photo(0), "PNG"), "PNG, not JPEG"),
            (encoded(photo(0).convert("CMYK")), "its colours are CMYK, not YCbCr"),
            (encoded(photo(0), keep_rgb=True), "its colours are stored as RGB, not YCbCr"),
            (
                source[:scan] + b"abc" + source[scan:],
                "libjpeg warns: Corrupt JPEG data: N extraneous bytes before marker N",
            ),
        ):
            record, why_lossy = encode_file(data, LOSSLESS)
            assert why_lossy == reason
            assert header(record).layer[0] == (1, 2, 2, 0)  # type: ignore[attr-defined]
            assert is_restart_marked(record.data)

    def test_rgb_jpegs_are_known_by_their_component_names_too(self, photo: Photo, encoded: Encode) -> None:
        source = encoded(photo(0), keep_rgb=True)
        adobe = source.index(b"\xff\xee")
        bare = source[:adobe] + source[adobe + 2 + int.from_bytes(source[adobe + 2 : adobe + 4], "big") :]
        assert encode_file(bare, LOSSLESS).why_lossy == "its colours are stored as RGB, not YCbCr"

    def test_what_is_above_the_cap_is_encoded_and_what_is_not_is_kept(self, photo: Photo, encoded: Encode) -> None:
        source = encoded(photo(0, 48, 40))
        assert encode_file(source, Encoding(Store.LOSSLESS, 90, 40)) == encode_file(source, LOSSLESS)
        record, why_lossy = encode_file(source, Encoding(Store.LOSSLESS, 90, 20))
        assert (record.width, record.height) == (24, 20)
        assert why_lossy == "shorter side above 20"


class TestCap:
    @given(width=st.integers(1, 300), height=st.integers(1, 300), cap=st.integers(1, 200))
    @settings(deadline=None, max_examples=50)
    def test_the_shorter_side_is_at_most_the_cap_and_the_shape_is_kept(self, width: int, height: int, cap: int) -> None:
        record = encode_pixels(np.zeros((height, width, 3), np.uint8), Encoding(Store.RAW, 90, cap))
        assert min(record.width, record.height) == min(width, height, cap)
        scale = min(1.0, cap / min(width, height))
        assert abs(record.width - width * scale) <= 0.5
        assert abs(record.height - height * scale) <= 0.5

    def test_shrinking_is_antialiased(self) -> None:
        checkers = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
        record = encode_pixels(np.stack([checkers] * 3, axis=2), Encoding(Store.RAW, 90, 16))
        assert np.ptp(np.frombuffer(record.data, np.uint8).reshape(16, 16, 3)[2:-2, 2:-2]) < 20

    @pytest.mark.parametrize(
        "options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 60, "optimize": True}]
    )
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    @pytest.mark.parametrize("encoding", [Encoding(Store.RAW, 90, 100), Encoding(Store.RAW, 90, 299)])
    def test_a_jpeg_looks_as_if_pillow_had_shrunk_it(
        self, photo: Photo, encoded: Encode, mode: str, options: dict[str, object], encoding: Encoding
    ) -> None:
        source = encoded(photo(0, 400, 300).convert(mode), **options)
        record, _ = encode_file(source, encoding)
        image = PIL.Image.open(io.BytesIO(source)).convert("RGB")
        expected = image.resize((record.width, record.height), PIL.Image.Resampling.BILINEAR)
        pixels = np.frombuffer(record.data, np.uint8).reshape(record.height, record.width, 3)
        assert min(record.width, record.height) == encoding.max_short_side
        assert far(pixels, np.asarray(expected)) < 1

    def test_a_jpeg_that_only_pillow_decodes_is_shrunk_as_well(self, photo: Photo, encoded: Encode) -> None:
        source = encoded(photo(0, 400, 300).convert("CMYK"))
        record, _ = encode_file(source, Encoding(Store.JPEG, 90, 150))
        assert (record.width, record.height) == (200, 150)

    @pytest.mark.parametrize("store", [Store.JPEG, Store.LOSSLESS])
    def test_a_truncated_jpeg_above_the_cap_is_bad(self, photo: Photo, encoded: Encode, store: Store) -> None:
        source = encoded(photo(0, 400, 300))
        with pytest.raises(BadImage, match="truncated"):
            encode_file(source[: len(source) // 2], Encoding(store, 90, 150))

    @pytest.mark.parametrize("lacking", [1, 2, 10])
    def test_a_jpeg_that_lacks_its_last_bytes_is_judged_alike_above_and_below_the_cap(
        self, photo: Photo, encoded: Encode, lacking: int
    ) -> None:
        source = encoded(photo(0, 400, 300))[:-lacking]
        assert isinstance(outcome(source, Encoding(Store.JPEG, 90, 150)), str)
        assert isinstance(outcome(source, Encoding(Store.JPEG, 90, 0)), str)

    def test_a_jpeg_of_too_many_pixels_is_bad_above_the_cap_too(
        self, photo: Photo, encoded: Encode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 400 * 300 - 1)
        with (
            pytest.warns(PIL.Image.DecompressionBombWarning),
            pytest.raises(BadImage, match="above the limit of 119999"),
        ):
            encode_file(encoded(photo(0, 400, 300)), Encoding(Store.LOSSLESS, 90, 150))


class TestKinds:
    """Kinds are told apart by content and all become RGB."""

    def test_an_image_in_colour(self, photo: Photo, encoded: Encode) -> None:
        image = photo(3)
        for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("PPM", {}), ("TIFF", {})):
            assert np.array_equal(pixels_of(encoded(image, kind, **options)), np.asarray(image)), kind

    def test_palettes_and_gray(self, photo: Photo, encoded: Encode) -> None:
        for mode, kind in (("P", "PNG"), ("P", "GIF"), ("L", "PNG"), ("1", "PNG")):
            image = photo(3).convert(mode)
            assert np.array_equal(pixels_of(encoded(image, kind)), np.asarray(image.convert("RGB"))), (mode, kind)

    def test_transparency_is_dropped(self, photo: Photo, encoded: Encode) -> None:
        image = photo(3)
        for mode in ("RGBA", "LA"):
            clear = image.convert(mode)
            clear.putalpha(7)
            expected = image.convert(mode[:-1]).convert("RGB")
            assert np.array_equal(pixels_of(encoded(clear, "PNG")), np.asarray(expected)), mode

    def test_16_bits_are_scaled_to_8(self) -> None:
        gray = np.array([[0, 255, 256, 32768, 65535]], ">u2")
        expected = [0, 0, 1, 128, 255]
        assert pixels_of(png(5, 1, 16, 0, b"\0" + gray.tobytes()))[0, :, 0].tolist() == expected
        colour = np.repeat(gray, 3)
        assert pixels_of(png(5, 1, 16, 2, b"\0" + colour.tobytes()))[0, :, 2].tolist() == expected
        assert pixels_of(b"P5 5 1 65535 " + gray.tobytes())[0, :, 1].tolist() == expected

    def test_cmyk_has_the_colours_of_the_image(self, photo: Photo, encoded: Encode) -> None:
        image = photo(3)
        assert far(pixels_of(encoded(image.convert("CMYK"), quality=98)), np.asarray(image)) < 5

    def test_adobe_rgb_jpeg_has_the_colours_of_the_image(self, photo: Photo, encoded: Encode) -> None:
        image = photo(3)
        assert far(pixels_of(encoded(image, keep_rgb=True, quality=98)), np.asarray(image)) < 3

    def test_exif_orientation_is_ignored(self, photo: Photo, encoded: Encode) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        record, _ = encode_file(encoded(photo(3), exif=exif), JPEG)
        assert (record.width, record.height) == (48, 40)

    def test_of_an_animation_the_first_picture_is_taken(self, photo: Photo, encoded: Encode) -> None:
        one, other = photo(3).convert("P"), photo(4).convert("P")
        data = encoded(one, "GIF", save_all=True, append_images=[other])
        assert np.array_equal(pixels_of(data), np.asarray(one.convert("RGB")))


class TestBadImages:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty file"),
            (b"<html>404 Not Found</html>", "not a JPEG"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a JPEG"),
            (png(0, 5, 8, 2, b""), "zero-sized"),
            (b"P6 0 5 255 ", "zero-sized"),
            (png(30000, 30000, 8, 0, b""), "decompression bomb"),
            (png(10000, 10000, 8, 0, b""), "above the limit"),
            (png(4, 4, 8, 2, b"\0" * 20), "truncated"),
        ],
    )
    @pytest.mark.parametrize("encoding", [JPEG, LOSSLESS, RAW])
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_what_it_is_not(self, data: bytes, reason: str, encoding: Encoding) -> None:
        with pytest.raises(BadImage, match=reason):
            encode_file(data, encoding)

    @pytest.mark.parametrize("encoding", [JPEG, LOSSLESS, RAW])
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_truncated(self, photo: Photo, encoded: Encode, kind: str, encoding: Encoding) -> None:
        data = encoded(photo(0, 200, 200), kind)
        for length in (len(data) // 2, len(data) - len(data) // 10):
            with pytest.raises(BadImage):
                encode_file(data[:length], encoding)

    def test_sides_that_a_jpeg_cannot_have(self, encoded: Encode) -> None:
        long = encoded(PIL.Image.new("RGB", (65501, 1)), "PNG")
        with pytest.raises(BadImage, match="65501x1 pixels: a side is above 65500"):
            encode_file(long, JPEG)
        assert encode_file(long, RAW).record.width == 65501
        with pytest.raises(BadImage, match="above 65535"):
            encode_file(encoded(PIL.Image.new("RGB", (1, 65536)), "PNG"), RAW)

    def test_a_long_image_is_taken_if_its_capped_size_can_be_stored(self, encoded: Encode) -> None:
        long = encoded(PIL.Image.new("RGB", (66000, 4)), "PNG")
        assert encode_file(long, Encoding(Store.JPEG, 90, 2)).record.width == 33000

    def test_pixels_without_a_defined_range(self, encoded: Encode) -> None:
        for mode in ("F", "I"):
            with pytest.raises(BadImage, match=f"mode {mode}"):
                encode_file(encoded(PIL.Image.new(mode, (8, 8)), "TIFF"), JPEG)

    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("lacking", [1, 2, 3, 10])
    def test_a_jpeg_that_lacks_its_last_bytes_is_never_taken_for_whole(
        self, photo: Photo, encoded: Encode, progressive: bool, lacking: int
    ) -> None:
        data = encoded(photo(0, 200, 200), progressive=progressive)[:-lacking]
        with suppress(BadImage):
            assert encode_file(data, LOSSLESS).why_lossy == "libjpeg warns: Premature end of JPEG file"

    @given(data=st.data())
    @settings(deadline=None, max_examples=300)
    def test_damaged_bytes_give_a_record_or_a_reason_whatever_the_encoding(
        self, photo: Photo, encoded: Encode, data: st.DataObject
    ) -> None:
        kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF"]))
        damaged = bytearray(encoded(photo(1, 24, 16), kind))
        for _ in range(data.draw(st.integers(1, 6))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        length = data.draw(st.integers(0, len(damaged)))
        outcomes = [outcome(bytes(damaged[:length]), encoding) for encoding in (JPEG, LOSSLESS)]
        assert isinstance(outcomes[0], str) == isinstance(outcomes[1], str), "one notion of a bad image"
        for record in outcomes:
            if isinstance(record, Record):
                assert decode(record.data).shape == (record.height, record.width, 3)


def outcome(data: bytes, encoding: Encoding) -> Record | str:
    try:
        return encode_file(data, encoding).record
    except BadImage as error:
        return str(error)
