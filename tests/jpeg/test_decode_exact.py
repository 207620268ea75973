"""Exact crops: bit for bit libjpeg-turbo's pixels, and Pillow's resizing of them.

The NumPy version of Pillow's arithmetic is what resizing has to equal. The Pillow that is installed may be pillow-simd,
whose weights have fewer bits: a value that is almost in the middle between two grey levels may come out as the other.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import PIL.features
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.jpeg.pictures import KINDS, SAMPLINGS, picture, restarted
from tests.jpeg.references import PILLOW_SIMD, bilinear, resized
from tests.jpeg.surgery import in_three_scans
from tests.samples import jpeg, smooth_image
from trainer.jpeg import CROP_DTYPE, FILL, KIND_JPEG, KIND_RGB, Box, Decoder, Pixels, Pool, read_info, transcode

DECODERS = [Decoder(), Decoder(portable=True)]
needs_turbo = pytest.mark.skipif(
    not PIL.features.check_feature("libjpeg_turbo"), reason="Pillow's libjpeg is not libjpeg-turbo"
)


def crop(
    data: bytes, size: tuple[int, int], box: Box, out_size: tuple[int, int], flip: bool = False, kind: int = KIND_JPEG
) -> Pixels:
    """By both code paths, which must agree. Sizes are width and height."""
    out = [np.full((out_size[1], out_size[0], 3), 7, np.uint8) for _ in DECODERS]
    for decoder, pixels in zip(DECODERS, out, strict=True):
        decoder.decode_crop(data, size, box, flip, pixels, kind, exact=True)
    np.testing.assert_array_equal(*out)
    return out[0]


def whole(data: bytes) -> Pixels:
    info = read_info(data)
    return crop(data, (info.width, info.height), (0, 0, info.width, info.height), (info.width, info.height))


def crop_rgb(pixels: Pixels, box: Box, out_size: tuple[int, int], flip: bool = False) -> Pixels:
    height, width, _ = pixels.shape
    return crop(pixels.tobytes(), (width, height), box, out_size, flip, KIND_RGB)


def pillow(data: bytes) -> Pixels:
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))


def cut_box(size: tuple[int, int], resized_to: tuple[int, int], cut: tuple[int, int, int, int]) -> Box:
    """In the image, of a cut of whole pixels of the resized image."""
    (width, height), (across, down), (left, top, right, bottom) = size, resized_to, cut
    right_edge, bottom_edge = min(right * width / across, width), min(bottom * height / down, height)
    return left * width / across, top * height / down, right_edge, bottom_edge


def ends(data: st.DataObject, length: int) -> tuple[int, int]:
    """Of a part of at least one pixel."""
    low = data.draw(st.integers(0, length - 1))
    return low, data.draw(st.integers(low + 1, length))


@needs_turbo
class TestPixelsOfLibjpeg:
    @pytest.mark.parametrize("kind", KINDS)
    def test_of_every_kind_and_what_transcoding_makes_of_it(self, kind: str) -> None:
        for width, height in ((83, 61), (64, 48), (16, 31)):
            source = KINDS[kind](picture(width, height), 85)
            np.testing.assert_array_equal(whole(source), pillow(source))
            np.testing.assert_array_equal(whole(transcode(source)), pillow(source))

    @pytest.mark.parametrize("sampling", SAMPLINGS)
    def test_of_every_small_size(self, sampling: str) -> None:
        pixels = picture(40, 40)
        for width in range(1, 41):
            source = SAMPLINGS[sampling](pixels[: 1 + width * 7 % 40, :width], 90)
            np.testing.assert_array_equal(whole(source), pillow(source))

    @given(
        kind=st.sampled_from(sorted(KINDS)),
        width=st.integers(1, 40),
        height=st.integers(1, 40),
        quality=st.integers(1, 100),
        seed=st.integers(0, 5),
    )
    @settings(max_examples=200, deadline=None)
    def test_of_every_size_and_quality(self, kind: str, width: int, height: int, quality: int, seed: int) -> None:
        source = KINDS[kind](picture(width, height, seed), quality)
        np.testing.assert_array_equal(whole(source), pillow(source))

    @given(
        data=st.data(),
        sampling=st.sampled_from(sorted(SAMPLINGS)),
        policy=st.sampled_from(["none", "1", "own", "row", "across rows"]),
        flip=st.booleans(),
    )
    @settings(max_examples=150, deadline=None)
    def test_of_a_part(self, data: st.DataObject, sampling: str, policy: str, flip: bool) -> None:
        """Chroma around the box takes part in its edges."""
        source = restarted(SAMPLINGS[sampling], picture(150, 110), 80, policy)
        expected = pillow(source)
        height, width, _ = expected.shape
        (left, right), (top, bottom) = ends(data, width), ends(data, height)
        own = crop(source, (width, height), (left, top, right, bottom), (right - left, bottom - top), flip)
        np.testing.assert_array_equal(own[:, ::-1] if flip else own, expected[top:bottom, left:right])

    @pytest.mark.parametrize(
        "factors",
        [
            ((4, 1), (2, 1), (1, 1)),
            ((2, 2), (1, 2), (2, 1)),
            ((2, 1), (1, 4), (1, 2)),
            ((1, 1), (2, 2), (1, 2)),
            ((1, 3), (1, 1), (1, 3)),
        ],
    )
    def test_of_a_resolution_for_each_component(self, factors: Sequence[tuple[int, int]]) -> None:
        for width, height in ((90, 70), (5, 9), (16, 3)):
            most_h, most_v = (max(of_all) for of_all in zip(*factors, strict=True))
            sizes = [(-(-width * h // most_h), -(-height * v // most_v)) for h, v in factors]
            planes = [jpeg(picture(*size, seed), 90, "L") for seed, size in enumerate(sizes)]
            source = in_three_scans(planes, factors)
            np.testing.assert_array_equal(whole(source), pillow(source))

    def test_that_are_stored_as_rgb(self) -> None:
        source = jpeg(picture(50, 40), 90, keep_rgb=True)
        np.testing.assert_array_equal(whole(source), pillow(source))

    def test_that_are_clipped(self) -> None:
        """Colours outside of the cube, of every luma and chroma."""
        steps = np.stack(np.meshgrid(np.arange(0, 256, 5), np.arange(0, 256, 5), [0, 60, 128, 190, 255]), -1)
        colours = np.moveaxis(steps, 2, 0).reshape(-1, 52, 3).astype(np.uint8)
        file = io.BytesIO()
        PIL.Image.fromarray(colours, "YCbCr").save(file, "JPEG", quality=100, subsampling=0)
        np.testing.assert_array_equal(whole(file.getvalue()), pillow(file.getvalue()))


class TestResizing:
    @given(
        data=st.data(),
        width=st.integers(1, 90),
        height=st.integers(1, 70),
        across=st.integers(1, 120),
        down=st.integers(1, 120),
        flip=st.booleans(),
    )
    @settings(max_examples=200, deadline=None)
    def test_is_that_of_pillow(
        self, data: st.DataObject, width: int, height: int, across: int, down: int, flip: bool
    ) -> None:
        """Of the whole image, and of a part of what comes out."""
        pixels, size = picture(width, height), (width, height)
        expected = bilinear(pixels, (across, down))
        mirror = slice(None, None, -1 if flip else 1)
        np.testing.assert_array_equal(crop_rgb(pixels, (0, 0, *size), (across, down), flip)[:, mirror], expected)
        (left, right), (top, bottom) = ends(data, across), ends(data, down)
        box = cut_box(size, (across, down), (left, top, right, bottom))
        own = crop_rgb(pixels, box, (right - left, bottom - top), flip)[:, mirror]
        # Corners of a box are rounded: a sum that is hardest at the middle between two levels may fall to the other.
        difference = np.abs(own.astype(int) - expected[top:bottom, left:right])
        assert difference.max() <= 1
        assert difference.mean() <= 1e-3

    @pytest.mark.parametrize(
        ("size", "out_size"),
        [
            ((500, 375), (341, 256)),
            ((500, 375), (853, 640)),
            ((640, 480), (320, 240)),  # where sums end in the middle between two levels
            ((640, 480), (640, 240)),
            ((640, 480), (320, 480)),
            ((700, 90), (5, 3)),
            ((40, 3000), (200, 100)),  # in several strips
            ((30, 9000), (70, 9000)),
            ((2, 2000), (1, 1)),
            ((1, 1), (50, 70)),
        ],
    )
    def test_of_many_taps_and_of_few(self, size: tuple[int, int], out_size: tuple[int, int]) -> None:
        pixels = picture(*size)
        expected = bilinear(pixels, out_size)
        np.testing.assert_array_equal(crop_rgb(pixels, (0, 0, *size), out_size), expected)
        np.testing.assert_array_equal(crop_rgb(pixels, (0, 0, *size), out_size, flip=True), expected[:, ::-1])

    @pytest.mark.parametrize("colour", [0, 255])
    def test_keeps_black_and_white(self, colour: int) -> None:
        pixels = np.full((37, 61, 3), colour, np.uint8)
        for out_size in ((61, 36), (23, 17), (100, 90), (7, 1)):
            assert (crop_rgb(pixels, (0, 0, 61, 37), out_size) == colour).all()

    @pytest.mark.parametrize("out_size", [(341, 256), (853, 640), (299, 224), (40, 600)])
    def test_is_that_of_the_installed_pillow(self, out_size: tuple[int, int]) -> None:
        for pixels in (picture(500, 375), smooth_image(500, 375, 3)):
            own = crop_rgb(pixels, (0, 0, 500, 375), out_size)
            difference = np.abs(own.astype(int) - resized(pixels, (0, 0, 500, 375), out_size))
            if PILLOW_SIMD:
                assert difference.max() <= 1
                assert difference.mean() <= 0.01
            else:
                assert difference.max() == 0

    @needs_turbo
    @pytest.mark.parametrize("sampling", SAMPLINGS)
    def test_of_a_jpeg_is_that_of_its_pixels(self, sampling: str) -> None:
        source = SAMPLINGS[sampling](picture(170, 130), 85)
        pixels = pillow(source)
        height, width, _ = pixels.shape
        for resize, side in ((100, 64), (200, 130), (64, 64)):
            shorter = min(width, height)
            resized_to = resize * width // shorter, resize * height // shorter
            expected = bilinear(pixels, resized_to)
            left, top = (resized_to[0] - side) // 2, (resized_to[1] - side) // 3
            cut = (left, top, left + side, top + side)
            own = crop(source, (width, height), cut_box((width, height), resized_to, cut), (side, side))
            np.testing.assert_array_equal(own, expected[top : top + side, left : left + side])


class TestPool:
    @pytest.mark.parametrize("threads", [1, 3])
    def test_makes_exact_crops_and_others_of_one_image(self, threads: int) -> None:
        source = np.frombuffer(SAMPLINGS["4:2:0"](picture(170, 130), 85), np.uint8)
        box = (10.5, 8.25, 150.5, 120)
        expected = [np.empty((50, 60, 3), np.uint8) for _ in range(2)]
        for exact in (0, 1):
            DECODERS[0].decode_crop(source.data, (170, 130), box, False, expected[exact], exact=bool(exact))
        assert (expected[0] != expected[1]).any()
        out = np.empty((12, 50, 60, 3), np.uint8)
        crops = np.zeros(12, CROP_DTYPE)
        crops["data"], crops["size"] = source.ctypes.data, len(source)
        crops["width"], crops["height"], crops["out_width"], crops["out_height"] = 170, 130, 60, 50
        crops["box"] = box
        crops["out"] = [pixels.ctypes.data for pixels in out]
        crops["exact"] = [0, 0, 0, 1, 1, 1, 0, 1, 0, 1, 1, 0]
        with Pool(threads) as pool:
            assert pool.decode(crops) == 0
        for pixels, exact in zip(out, crops["exact"], strict=True):
            np.testing.assert_array_equal(pixels, expected[exact])

    def test_puts_them_on_a_field_of_a_colour(self) -> None:
        source = np.frombuffer(SAMPLINGS["4:2:0"](picture(50, 40), 85), np.uint8)
        out = np.empty((24, 32, 3), np.uint8)
        crops = np.zeros(1, CROP_DTYPE)
        crops["data"], crops["size"], crops["out"] = source.ctypes.data, len(source), out.ctypes.data
        crops["width"], crops["height"], crops["out_width"], crops["out_height"] = 50, 40, 32, 24
        crops["box"], crops["fill"], crops["exact"] = (-5, -3, 27, 21), FILL | 0x102030, 1
        with Pool(1) as pool:
            assert pool.decode(crops) == 0
        np.testing.assert_array_equal(out[3:, 5:], whole(source.tobytes())[:21, :27])
        assert (out[:3] == (0x10, 0x20, 0x30)).all()
        assert (out[:, :5] == (0x10, 0x20, 0x30)).all()
