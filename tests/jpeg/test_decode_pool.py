"""Threads: decoders beside each other, a pool of any size, its failures, its end, and forks."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.trainers import until
from tests.jpeg.pictures import KINDS, picture
from tests.samples import REPOSITORY, jpeg
from trainer.jpeg import (
    CROP_DTYPE,
    FILL,
    KIND_JPEG,
    KIND_RGB,
    DecodeError,
    Decoder,
    Pixels,
    Pool,
    decode,
    decode_crop,
    explain,
)

SIDE = 40


class Batch:
    """Crops of JPEGs to SIDE x SIDE pixels, and what must come out."""

    def __init__(self, jpegs: Sequence[bytes]) -> None:
        self.jpegs = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
        self.out = np.zeros((len(jpegs), SIDE, SIDE, 3), np.uint8)
        self.crops = np.zeros(len(jpegs), CROP_DTYPE)
        for i, (source, crop, out) in enumerate(zip(self.jpegs, self.crops, self.out, strict=True)):
            height, width, _ = decode(jpegs[i]).shape
            crop["data"], crop["size"], crop["out"] = source.ctypes.data, len(source), out.ctypes.data
            crop["width"], crop["height"], crop["out_width"], crop["out_height"] = width, height, SIDE, SIDE
            crop["box"] = (width / 9, height / 7, width / 1.1, height / 1.3)
            crop["flip"], crop["kind"], crop["status"] = i % 2, KIND_JPEG, -1

    def expected(self) -> Pixels:
        decoder, out = Decoder(), np.zeros_like(self.out)
        for source, crop, into in zip(self.jpegs, self.crops, out, strict=True):
            size, box = (int(crop["width"]), int(crop["height"])), tuple(crop["box"])
            decoder.decode_crop(source.tobytes(), size, box, bool(crop["flip"]), into)
        return out


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    """Of every kind and various sizes."""
    kinds = [kind for kind in KINDS if "EXIF" not in kind]
    return [KINDS[kind](picture(60 + 13 * i % 90, 50 + 7 * i % 80, i), 80) for i, kind in enumerate(kinds * 3)]


@pytest.fixture(scope="module")
def expected(jpegs: list[bytes]) -> Pixels:
    return Batch(jpegs).expected()


class TestBatch:
    @pytest.mark.parametrize("threads", [1, 2, 3, 8, 16])
    @pytest.mark.parametrize("portable", [False, True])
    def test_any_number_of_threads_makes_the_same_images(
        self, jpegs: list[bytes], expected: Pixels, threads: int, portable: bool
    ) -> None:
        with Pool(threads, portable=portable) as pool:
            for _ in range(3):
                batch = Batch(jpegs)
                assert pool.decode(batch.crops) == 0
                assert (batch.crops["status"] == 0).all()
                np.testing.assert_array_equal(batch.out, expected)

    def test_batches_of_every_size(self, jpegs: list[bytes], expected: Pixels) -> None:
        with Pool(4) as pool:
            for count in (0, 1, 2, 3, 4, 5, len(jpegs), 1, 0):
                batch = Batch(jpegs)
                assert pool.decode(batch.crops[:count]) == 0
                np.testing.assert_array_equal(batch.out[:count], expected[:count])
                assert (batch.out[count:] == 0).all()

    def test_many_batches_in_a_row(self, jpegs: list[bytes], expected: Pixels) -> None:
        batch = Batch(jpegs[:3])
        with Pool(8) as pool:
            for _ in range(500):
                batch.out[:] = 0
                assert pool.decode(batch.crops) == 0
                np.testing.assert_array_equal(batch.out, expected[:3])

    def test_jpegs_and_pixels_side_by_side(self, jpegs: list[bytes]) -> None:
        batch = Batch(jpegs)
        pixels = [decode(jpeg) for jpeg in jpegs]
        for i in range(0, len(jpegs), 2):
            batch.crops[i]["kind"] = KIND_RGB
            batch.crops[i]["data"], batch.crops[i]["size"] = pixels[i].ctypes.data, pixels[i].size
        with Pool(3) as pool:
            assert pool.decode(batch.crops) == 0

    def test_failures_are_counted_and_told_by_status(self, jpegs: list[bytes], expected: Pixels) -> None:
        batch = Batch(jpegs)
        batch.crops[3]["size"] = 10
        batch.crops[7]["box"] = (0, 0, 1e6, 1)
        batch.crops[8]["width"] += 1
        batch.crops[11]["out"] = 0
        with Pool(4) as pool:
            assert pool.decode(batch.crops) == 4
            failed = np.flatnonzero(batch.crops["status"])
            assert failed.tolist() == [3, 7, 8, 11]
            reasons = [explain(int(batch.crops[i]["status"]), jpegs[i], (1, 2), (0, 0, 1, 1)) for i in failed]
            for reason, words in zip(reasons, ("too early", "outside", "its record says", "buffer"), strict=True):
                assert words in reason
            good = np.setdiff1d(np.arange(len(jpegs)), failed)
            np.testing.assert_array_equal(batch.out[good], expected[good])
            assert pool.decode(Batch(jpegs).crops) == 0

    def test_an_array_of_another_form_is_refused(self, jpegs: list[bytes]) -> None:
        crops = Batch(jpegs).crops
        frozen = crops.copy()
        frozen.flags.writeable = False
        with Pool(2) as pool:
            for other in (crops[::2], frozen, np.zeros(88, np.uint8)):
                with pytest.raises(ValueError, match="contiguous array of CROP_DTYPE"):
                    pool.decode(other)


COLOUR = (11, 22, 33)


def padded_crop(source: Pixels, size: tuple[int, int], corner: tuple[int, int], out: Pixels) -> np.ndarray:
    """The crop to make of a JPEG's bytes [n], or of pixels [h, w, 3], with COLOUR outside: CROP_DTYPE [1]."""
    crop = np.zeros(1, CROP_DTYPE)
    height, width, _ = out.shape
    crop["data"], crop["size"], crop["out"] = source.ctypes.data, source.size, out.ctypes.data
    (crop["width"], crop["height"]), crop["out_width"], crop["out_height"] = size, width, height
    crop["box"] = (*corner, corner[0] + width, corner[1] + height)
    crop["kind"] = KIND_JPEG if source.ndim == 1 else KIND_RGB
    crop["fill"] = FILL | COLOUR[0] << 16 | COLOUR[1] << 8 | COLOUR[2]
    return crop


class TestFill:
    """A box that leaves the image, of whole pixels and of the output's size: a colour stands outside."""

    @given(
        st.integers(1, 50), st.integers(1, 50), st.integers(-60, 60), st.integers(-60, 60), st.booleans(), st.booleans()
    )
    @settings(max_examples=150, deadline=None)
    def test_is_a_crop_of_the_padded_image(
        self, width: int, height: int, left: int, top: int, flip: bool, is_jpeg: bool
    ) -> None:
        pixels = picture(width, height)
        source = np.frombuffer(jpeg(pixels), np.uint8) if is_jpeg else pixels
        whole = decode(source.tobytes()) if is_jpeg else pixels
        padded = np.full((height + 2 * 120, width + 2 * 120, 3), COLOUR, np.uint8)
        padded[120:-120, 120:-120] = whole
        expected = padded[120 + top : 120 + top + 24, 120 + left : 120 + left + 32]
        out = np.zeros((24, 32, 3), np.uint8)
        crop = padded_crop(source, (width, height), (left, top), out)
        crop["flip"] = flip
        with Pool(1) as pool:
            assert pool.decode(crop) == 0
        np.testing.assert_array_equal(out, expected[:, ::-1] if flip else expected)

    @pytest.mark.parametrize(
        "change",
        [
            {"out_width": 33},
            {"box": (0.5, 0, 32.5, 24)},
            {"box": (-(1 << 21), 0, 32 - (1 << 21), 24)},
            {"box": (float("nan"), 0, 32, 24)},
            {"fill": 1},
            {"fill": FILL << 1},
        ],
    )
    def test_does_not_resize(self, change: dict[str, object]) -> None:
        pixels, out = picture(20, 20), np.zeros((25, 32, 3), np.uint8)
        crop = padded_crop(pixels, (20, 20), (0, 0), out[:24])
        for name, value in change.items():
            crop[name] = value
        with Pool(1) as pool:
            assert pool.decode(crop) == 1

    @pytest.mark.parametrize("corner", [(20, 0), (0, 20), (-32, -24), (500, 500)])
    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            (jpeg(picture(20, 20)), None),
            (jpeg(picture(20, 20), progressive=True), None),
            (picture(20, 20), None),
            (b"\0" * 500, "not a JPEG"),
            (jpeg(picture(20, 20))[:200], "its data end too early"),
            (jpeg(picture(21, 20)), "the JPEG is 21x20, its record says 20x20"),
            (picture(21, 20), "1260 bytes are not the pixels of an image of 20x20"),
        ],
        ids=["a JPEG", "a progressive JPEG", "pixels", "zeros", "half a header", "a larger JPEG", "more pixels"],
    )
    def test_a_source_that_is_not_in_the_box_is_checked_all_the_same(
        self, source: bytes | Pixels, reason: str | None, corner: tuple[int, int]
    ) -> None:
        data = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else source
        out = np.zeros((24, 32, 3), np.uint8)
        crop = padded_crop(data, (20, 20), corner, out)
        with Pool(1) as pool:
            assert pool.decode(crop) == (reason is not None)
        if reason:
            assert reason in explain(int(crop["status"][0]), data.tobytes(), (20, 20))
        else:
            assert (out == COLOUR).all()


class TestLife:
    @pytest.mark.parametrize("threads", [0, -1, 1025, 1 << 40])
    def test_an_impossible_number_of_threads(self, threads: int) -> None:
        with pytest.raises(ValueError, match=f"a pool has 1 to 1024 threads, not {threads}"):
            Pool(threads)

    def test_closing_ends_the_threads(self) -> None:
        before = settled_threads()
        pools = [Pool(5) for _ in range(4)]
        assert native_threads() == before + 16
        for pool in pools:
            pool.close()
        until(lambda: native_threads() == before)

    def test_closing_again_does_nothing_and_using_it_then_is_an_error(self, jpegs: list[bytes]) -> None:
        pool = Pool(2)
        pool.close()
        pool.close()
        with pytest.raises(ValueError, match="the pool is closed"):
            pool.decode(Batch(jpegs).crops)

    def test_a_forgotten_pool_ends_its_threads(self) -> None:
        before = settled_threads()
        Pool(3)
        until(lambda: native_threads() == before)

    def test_a_pool_may_move_from_thread_to_thread(self, jpegs: list[bytes], expected: Pixels) -> None:
        with Pool(3) as pool:
            for _ in range(4):
                batch = Batch(jpegs)
                thread = threading.Thread(target=pool.decode, args=(batch.crops,))
                thread.start()
                thread.join()
                np.testing.assert_array_equal(batch.out, expected)

    @pytest.mark.parametrize("end", ["", "pool.close()", "del pool", "os._exit(0)"])
    def test_a_process_ends_with_an_open_pool(self, end: str) -> None:
        assert run(f"import os\nfrom trainer.jpeg import Decoder, Pool\npool = Pool(4); d = Decoder()\n{end}") == ""


FORK = """
import os, signal
from trainer.jpeg import CROP_DTYPE, Pool, decode
import numpy as np
from tests.samples import jpeg
picture = jpeg(np.zeros((30, 40, 3), np.uint8))
decode(picture)
pool = Pool(4)
child = os.fork()
if not child:
    signal.alarm(20)
    assert decode(picture).shape == (30, 40, 3)
    try:
        pool.decode(np.zeros(5, CROP_DTYPE))
    except RuntimeError as error:
        print(error, flush=True)
    {end}
    with Pool(2) as own:
        assert own.decode(np.zeros(5, CROP_DTYPE)) == 5
    raise SystemExit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), pool.decode(np.zeros(5, CROP_DTYPE)))
"""


class TestFork:
    @pytest.mark.parametrize("end", ["pool.close()", "del pool", "pass"])
    def test_a_child_is_told_and_does_not_hang(self, end: str) -> None:
        """Its copy of the pool has no threads; new ones, and decoding without a pool, work."""
        said = run(FORK.format(end=end))
        assert said == "the pool's threads are in another process: make a pool after forking\n0 5\n"


class TestDecoders:
    def test_threads_with_their_own_decoders_do_not_disturb_each_other(
        self, jpegs: list[bytes], expected: Pixels
    ) -> None:
        crops = Batch(jpegs).crops

        def make(i: int) -> Pixels:
            out, crop = np.zeros((SIDE, SIDE, 3), np.uint8), crops[i]
            size, box = (int(crop["width"]), int(crop["height"])), tuple(crop["box"])
            decode_crop(jpegs[i], size, box, bool(crop["flip"]), out)
            return out

        order = [i % len(jpegs) for i in range(400)]
        with ThreadPoolExecutor(8) as threads:
            for i, out in zip(order, threads.map(make, order), strict=True):
                np.testing.assert_array_equal(out, expected[i])

    def test_an_error_in_one_thread_stays_there(self, jpegs: list[bytes]) -> None:
        def attempt(i: int) -> bool:
            try:
                decode(jpegs[0][: 300 if i % 2 else None])
            except DecodeError:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(attempt, range(200))) == [i % 2 == 0 for i in range(200)]


def native_threads() -> int:
    """Of this process, Python's among them."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Threads:"))


def settled_threads() -> int:
    """As `native_threads`, once they are as many for a while: the kernel counts one a little longer than it runs."""
    counts = [native_threads()]
    while len(counts) < 10 or len(set(counts[-10:])) > 1:
        time.sleep(0.005)
        counts.append(native_threads())
    return counts[-1]


def run(code: str) -> str:
    """What a new process prints; it must end well, and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
