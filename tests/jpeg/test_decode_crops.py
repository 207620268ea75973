"""Crops: close to libjpeg and Pillow, the same region of the whole image at scale 1, the same in every code path."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.jpeg.pictures import KINDS, SAMPLINGS, picture, restarted
from tests.jpeg.references import pillow_crop, resized
from tests.jpeg.surgery import APP0, Segment, put_together, take_apart
from tests.samples import jpeg, smooth_image
from trainer.jpeg import (
    KIND_RGB,
    Box,
    DecodeError,
    Decoder,
    Pixels,
    crop_pixels,
    decode,
    decode_crop,
    transcode,
)

DECODERS = [Decoder(), Decoder(portable=True)]


def crop(data: bytes, size: tuple[int, int], box: Box, out_size: tuple[int, int], flip: bool = False) -> Pixels:
    """By both code paths, which must agree. Sizes are width and height."""
    out = [np.full((out_size[1], out_size[0], 3), 7, np.uint8) for _ in DECODERS]
    for decoder, pixels in zip(DECODERS, out, strict=True):
        decoder.decode_crop(data, size, box, flip, pixels)
    np.testing.assert_array_equal(*out)
    return out[0]


def crop_rgb(pixels: Pixels, box: Box, out_size: tuple[int, int], flip: bool = False) -> Pixels:
    """`crop` of stored pixels."""
    height, width, _ = pixels.shape
    out = [np.full((out_size[1], out_size[0], 3), 7, np.uint8) for _ in DECODERS]
    for decoder, into in zip(DECODERS, out, strict=True):
        decoder.decode_crop(pixels.tobytes(), (width, height), box, flip, into, KIND_RGB)
    np.testing.assert_array_equal(*out)
    return out[0]


def whole_image(data: bytes, size: tuple[int, int], out_size: tuple[int, int]) -> Pixels:
    return crop(data, size, (0, 0, *size), out_size)


def pillow_whole_image(data: bytes, size: tuple[int, int], out_size: tuple[int, int]) -> Pixels:
    return pillow_crop(data, (0, 0, *size), out_size)


def difference(a: Pixels, b: Pixels) -> np.ndarray:
    return np.abs(a.astype(int) - b)


def boxes(width: int, height: int, least: float = 1) -> st.SearchStrategy[Box]:
    """Boxes of at least `least` pixels a side, corners at any fraction."""

    def side(length: int) -> st.SearchStrategy[tuple[float, float]]:
        ends = st.tuples(st.floats(0, length - least), st.floats(least, length))
        return ends.map(lambda drawn: (drawn[0], min(length, drawn[0] + drawn[1])))

    return st.tuples(side(width), side(height)).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))


class TestCloseToLibjpegAndPillow:
    @pytest.mark.parametrize("sampling", SAMPLINGS)
    @pytest.mark.parametrize(
        ("out_size", "scale"), [((112, 112), 1.8), ((224, 224), 0.9), ((50, 37), 4), ((16, 16), 13)]
    )
    def test_a_crop_of_a_picture(self, sampling: str, out_size: tuple[int, int], scale: float) -> None:
        source = SAMPLINGS[sampling](smooth_image(320, 256, 3), 90)
        height, width, _ = decode(source).shape
        box_width, box_height = min(width, out_size[0] * scale), min(height, out_size[1] * scale)
        for at in (0, 0.37, 1):
            left, top = at * (width - box_width), at * (height - box_height)
            box = (left, top, left + box_width, top + box_height)
            own, reference = crop(source, (width, height), box, out_size), pillow_crop(source, box, out_size)
            assert difference(own, reference).mean() <= 0.6

    @pytest.mark.parametrize("sampling", ["gray", "4:4:4", "4:2:2", "4:2:0"])
    @pytest.mark.parametrize(
        ("size", "out_size"),
        [((500, 375), (299, 224)), ((500, 375), (853, 640)), ((240, 600), (640, 1600)), ((1400, 560), (2100, 840))],
    )
    def test_a_whole_image_resized(self, sampling: str, size: tuple[int, int], out_size: tuple[int, int]) -> None:
        source = SAMPLINGS[sampling](smooth_image(*size, 2), 90)
        own, reference = (make(source, size, out_size) for make in (whole_image, pillow_whole_image))
        assert difference(own, reference).mean() <= 0.6

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_whole_image_of_every_kind(self, kind: str) -> None:
        source = KINDS[kind](smooth_image(211, 163, 1), 90)
        own = decode(source)
        height, width, _ = own.shape
        replicated = kind in ("4:1:1", "1x4")  # libjpeg smooths only between two samples
        delta = difference(own, pillow_crop(source, (0, 0, width, height), (width, height)))
        assert delta.mean() <= (1.5 if replicated else 0.6)

    def test_an_image_that_is_stored_as_rgb(self) -> None:
        pixels = smooth_image(120, 90, 5)
        source = jpeg(pixels, 95, keep_rgb=True)
        assert difference(decode(source), pixels).mean() < 2
        assert difference(decode(source), pillow_crop(source, (0, 0, 120, 90), (120, 90))).max() <= 1

    def test_an_image_of_no_declared_colours_is_ycc(self) -> None:
        source = jpeg(smooth_image(64, 48, 2))
        bare = put_together(segment for segment in take_apart(source) if segment.marker != APP0)
        np.testing.assert_array_equal(decode(bare), decode(source))

    def test_adobe_says_what_the_colours_are(self) -> None:
        """Its transform 0 means RGB, unless the file is JFIF."""
        source = jpeg(smooth_image(64, 48, 2), subsampling="4:4:4")
        adobe = Segment(0xEE, b"Adobe" + bytes((0, 100, 0, 0, 0, 0, 0)))
        rest = [segment for segment in take_apart(source) if segment.marker != APP0]
        rgb = put_together([adobe, *rest])
        assert difference(decode(rgb), pillow_crop(rgb, (0, 0, 64, 48), (64, 48))).max() <= 1
        assert difference(decode(rgb), decode(source)).max() > 50
        np.testing.assert_array_equal(decode(put_together([adobe, *take_apart(source)])), decode(source))


class TestResize:
    """Of pixels, so that only the filter differs from Pillow's."""

    @pytest.mark.parametrize("scale", [0.3, 0.5, 0.77, 1, 1.001, 1.5, 2, 2.9, 3.3, 4, 5.7, 7.99, 8, 8.01, 12, 20])
    @pytest.mark.parametrize("out_size", [(32, 32), (33, 17), (7, 9), (1, 1), (64, 1)])
    def test_is_within_2_of_pillow(self, scale: float, out_size: tuple[int, int]) -> None:
        width, height = out_size[0] * scale, out_size[1] * scale
        pixels = picture(int(width) + 9, int(height) + 7)
        for left, top in ((0.0, 0.0), (3.3, 2.6), (pixels.shape[1] - width, pixels.shape[0] - height)):
            box = (left, top, left + width, top + height)
            for flip in (False, True):
                delta = difference(crop_rgb(pixels, box, out_size, flip), resized(pixels, box, out_size, flip))
                assert delta.max() <= 2
                assert out_size == (1, 1) or delta.mean() < 0.5

    @given(st.data(), st.integers(1, 200), st.integers(1, 120), st.booleans())
    @settings(max_examples=200, deadline=None)
    def test_any_box_to_any_size(self, data: st.DataObject, width: int, height: int, flip: bool) -> None:
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        box = data.draw(boxes(width, height))
        out_size = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
        delta = difference(crop_rgb(pixels, box, out_size, flip), resized(pixels, box, out_size, flip))
        assert delta.max() <= 2

    def test_a_flat_image_stays_flat(self) -> None:
        for value in (0, 1, 127, 128, 254, 255):
            pixels = np.full((90, 100, 3), value, np.uint8)
            for box in ((0, 0, 100, 90), (0.5, 0.25, 3.5, 88), (11, 7, 12, 8), (10, 10, 10.5, 10.25)):
                for out_size in ((32, 32), (100, 90), (5, 3)):
                    assert (crop_rgb(pixels, box, out_size) == value).all()

    def test_two_axes_of_very_different_scales(self) -> None:
        pixels = picture(900, 40)
        box = (1.5, 3.25, 897, 36)
        for out_size in ((20, 90), (900, 2), (3, 3)):
            assert difference(crop_rgb(pixels, box, out_size), resized(pixels, box, out_size)).max() <= 2

    @pytest.mark.parametrize("size", [(500, 375), (375, 500), (90, 225), (2000, 820)])
    @pytest.mark.parametrize("shorter", [224, 256, 384, 480, 640])
    def test_a_whole_image_of_any_shorter_side(self, size: tuple[int, int], shorter: int) -> None:
        """As for fully convolutional evaluation: up to 1600 pixels long, up and down."""
        pixels = picture(*size)
        out_size = (round(size[0] * shorter / min(size)), round(size[1] * shorter / min(size)))
        delta = difference(crop_rgb(pixels, (0, 0, *size), out_size), resized(pixels, (0, 0, *size), out_size))
        assert delta.max() <= 2
        assert delta.mean() < 0.5

    def test_the_largest_output(self) -> None:
        pixels = picture(5, 4)
        own = crop_rgb(pixels, (0, 0, 5, 4), (16384, 3))
        assert difference(own, resized(pixels, (0, 0, 5, 4), (16384, 3))).max() <= 2


class TestScaleOne:
    @given(
        data=st.data(),
        sampling=st.sampled_from([name for name in SAMPLINGS if name != "gray 3x4"]),
        policy=st.sampled_from(["none", "1", "own", "row", "across rows"]),
        width=st.integers(1, 90),
        height=st.integers(1, 90),
        flip=st.booleans(),
    )
    @settings(max_examples=300, deadline=None)
    def test_a_crop_is_the_same_region_of_the_whole_image(
        self, data: st.DataObject, sampling: str, policy: str, width: int, height: int, flip: bool
    ) -> None:
        source = restarted(SAMPLINGS[sampling], picture(width, height), 80, policy)
        whole = decode(source)
        height, width, _ = whole.shape
        left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
        own = crop(source, (width, height), (left, top, right, bottom), (right - left, bottom - top), flip)
        expected = whole[top:bottom, left:right]
        np.testing.assert_array_equal(own, expected[:, ::-1] if flip else expected)

    @given(st.data(), st.integers(1, 60), st.integers(1, 60), st.booleans())
    @settings(max_examples=100, deadline=None)
    def test_of_pixels_is_a_copy(self, data: st.DataObject, width: int, height: int, flip: bool) -> None:
        pixels = picture(width, height)
        left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
        own = crop_rgb(pixels, (left, top, right, bottom), (right - left, bottom - top), flip)
        expected = pixels[top:bottom, left:right]
        np.testing.assert_array_equal(own, expected[:, ::-1] if flip else expected)

    def test_the_first_and_the_last_pixel(self) -> None:
        source = jpeg(picture(35, 21), subsampling="4:2:0")
        whole = decode(source)
        for x, y in ((0, 0), (34, 0), (0, 20), (34, 20)):
            assert (crop(source, (35, 21), (x, y, x + 1, y + 1), (1, 1)) == whole[y, x]).all()


class TestAnyCrop:
    @given(
        data=st.data(),
        kind=st.sampled_from(sorted(KINDS)),
        width=st.integers(1, 120),
        height=st.integers(1, 80),
        flip=st.booleans(),
    )
    @settings(max_examples=200, deadline=None)
    def test_flipping_mirrors_and_transcoding_changes_nothing(
        self, data: st.DataObject, kind: str, width: int, height: int, flip: bool
    ) -> None:
        source = KINDS[kind](picture(width, height), 85)
        height, width, _ = decode(source).shape
        box = data.draw(boxes(width, height, least=0.01))
        out_size = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
        own = crop(source, (width, height), box, out_size)
        np.testing.assert_array_equal(crop(source, (width, height), box, out_size, flip=True), own[:, ::-1])
        np.testing.assert_array_equal(crop(transcode(source), (width, height), box, out_size), own)

    def test_gray_is_the_same_in_all_channels(self) -> None:
        own = crop(jpeg(picture(60, 50), 90, "L"), (60, 50), (3.5, 2, 55, 49), (41, 30))
        assert (own == own[..., :1]).all()

    def test_pixels_around_the_box_take_part_at_its_edges(self) -> None:
        """As if the whole image had been resized, and then cropped."""
        source = jpeg(picture(160, 120), 95, subsampling="4:4:4")
        whole = crop(source, (160, 120), (0, 0, 160, 120), (80, 60))
        part = crop(source, (160, 120), (40, 20, 120, 100), (40, 40))
        np.testing.assert_array_equal(part, whole[10:50, 20:60])

    def test_rows_of_the_output_alone_are_written(self) -> None:
        source = jpeg(picture(64, 48))
        for width in (1, 31, 32, 33, 64):
            memory = np.full((10 * width + 200, 3), 201, np.uint8)
            out = memory[100:-100].reshape(10, width, 3)
            for decoder in DECODERS:
                decoder.decode_crop(source, (64, 48), (1, 1, 60, 40), False, out)
                assert (memory[:100] == 201).all()
                assert (memory[-100:] == 201).all()


class TestRefused:
    """Every mismatch of header, box and buffers, with its message."""

    SOURCE = jpeg(picture(40, 30))

    @pytest.mark.parametrize(
        "box",
        [
            (0, 0, 0, 30),
            (0, 0, 40, 0),
            (10, 0, 10, 30),
            (20, 0, 10, 30),
            (0, 20, 40, 10),
            (-0.001, 0, 40, 30),
            (0, -1, 40, 30),
            (0, 0, 40.001, 30),
            (0, 0, 40, 31),
            (5, 5, 5.0001, 6),
            (float("nan"), 0, 40, 30),
            (0, 0, float("nan"), 30),
            (0, 0, float("inf"), 30),
            (float("-inf"), 0, 40, 30),
            (1e308, 0, -1e308, 30),
        ],
    )
    @pytest.mark.parametrize("kind", ["JPEG", "pixels"])
    def test_a_box_that_is_empty_or_leaves_the_image(self, box: Box, kind: str) -> None:
        out = np.empty((8, 8, 3), np.uint8)
        make = {
            "JPEG": lambda: decode_crop(self.SOURCE, (40, 30), box, False, out),
            "pixels": lambda: crop_pixels(picture(40, 30), box, False, out),
        }
        with pytest.raises(DecodeError, match="is outside of the image of 40x30"):
            make[kind]()

    @pytest.mark.parametrize("size", [(30, 40), (40, 31), (41, 30), (80, 60)])
    def test_another_size_than_the_header_says(self, size: tuple[int, int]) -> None:
        out = np.empty((8, 8, 3), np.uint8)
        with pytest.raises(DecodeError, match=f"the JPEG is 40x30, its record says {size[0]}x{size[1]}"):
            decode_crop(self.SOURCE, size, (0, 0, 8, 8), False, out)
        progressive = jpeg(picture(40, 30), progressive=True)
        with pytest.raises(DecodeError, match="the JPEG is 40x30"):
            decode_crop(progressive, size, (0, 0, 8, 8), False, out)

    @pytest.mark.parametrize("size", [(0, 30), (40, 0), (-1, 30), (65536, 30)])
    def test_a_size_that_no_image_has(self, size: tuple[int, int]) -> None:
        with pytest.raises(DecodeError, match="no or too large an output"):
            decode_crop(self.SOURCE, size, (0, 0, 8, 8), False, np.empty((8, 8, 3), np.uint8))

    @pytest.mark.parametrize("length", [0, 3599, 3601])
    def test_pixels_of_another_length(self, length: int) -> None:
        out = np.empty((8, 8, 3), np.uint8)
        with pytest.raises(DecodeError, match=f"{length} bytes are not the pixels of an image of 40x30"):
            Decoder().decode_crop(bytes(length), (40, 30), (0, 0, 8, 8), False, out, KIND_RGB)

    @pytest.mark.parametrize("shape", [(0, 8, 3), (8, 0, 3), (16385, 1, 3), (1, 16385, 3)])
    def test_an_output_of_no_or_too_large_a_size(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DecodeError, match="no or too large an output"):
            decode_crop(self.SOURCE, (40, 30), (0, 0, 40, 30), False, np.empty(shape, np.uint8))

    @pytest.mark.parametrize(
        "make",
        [
            lambda: np.empty((8, 8, 3), np.int8),
            lambda: np.empty((8, 8, 4), np.uint8),
            lambda: np.empty((8, 8), np.uint8),
            lambda: np.empty((8, 16, 3), np.uint8)[:, ::2],
            lambda: np.frombuffer(bytes(192), np.uint8).reshape(8, 8, 3),
        ],
    )
    def test_an_output_of_another_form(self, make: Callable[[], np.ndarray]) -> None:
        with pytest.raises(ValueError, match="out must be writable contiguous uint8"):
            decode_crop(self.SOURCE, (40, 30), (0, 0, 40, 30), False, make())


@pytest.mark.parametrize(("width", "height"), [(16385, 20), (65500, 3), (9, 33000)])
def test_an_image_longer_than_an_output_may_be_decodes_in_parts(width: int, height: int) -> None:
    source = jpeg(picture(width, height))
    whole = decode(source)
    assert whole.shape == (height, width, 3)
    for left, top in [(0, 0), (max(width - 700, 0), max(height - 700, 0))]:
        right, bottom = min(left + 700, width), min(top + 700, height)
        part = np.empty((bottom - top, right - left, 3), np.uint8)
        decode_crop(source, (width, height), (left, top, right, bottom), False, part)
        assert np.array_equal(whole[top:bottom, left:right], part)
