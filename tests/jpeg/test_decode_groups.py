"""Crops of one JPEG side by side: decoded once, and what comes out is what crops made one by one give."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.build import SOURCES, compiler
from tests.jpeg.pictures import KINDS, SAMPLINGS, picture, restarted
from tests.jpeg.surgery import with_frame
from trainer.jpeg import CROP_DTYPE, FILL, KIND_JPEG, KIND_RGB, Box, Pixels, Pool, decode, read_info

COUNTED = ("read_header", "jc_transcode", "decode_rectangle")
STATUS_OK, STATUS_TRUNCATED, STATUS_OTHER_SIZE, STATUS_BAD_BOX, STATUS_BAD_ARGUMENT = 0, 5, 7, 8, 9


@dataclass(frozen=True)
class Crop:
    """A crop to make: `box` in pixels, `out_size` is width and height."""

    box: Box
    out_size: tuple[int, int]
    flip: bool = False
    exact: bool = False


class Group:
    """Crops of one source for a pool, as neighbours in an array of CROP_DTYPE."""

    def __init__(self, data: bytes, size: tuple[int, int], crops: list[Crop]) -> None:
        self.data = np.frombuffer(data, np.uint8)
        self.out = [np.full((crop.out_size[1], crop.out_size[0], 3), 7, np.uint8) for crop in crops]
        self.array = np.zeros(len(crops), CROP_DTYPE)
        for row, crop, out in zip(self.array, crops, self.out, strict=True):
            row["data"], row["size"], row["out"] = self.data.ctypes.data, len(self.data), out.ctypes.data
            row["width"], row["height"], row["out_width"], row["out_height"] = *size, *crop.out_size
            row["box"], row["flip"], row["exact"] = crop.box, crop.flip, crop.exact
            row["kind"], row["status"] = KIND_JPEG, -1

    def separately(self, pool: Pool) -> tuple[list[int], list[Pixels | None]]:
        """Each as a batch of its own: the statuses, and the pixels where there are any."""
        for i in range(len(self.array)):
            pool.decode(self.array[i : i + 1])
        return self.results()

    def together(self, pool: Pool) -> tuple[list[int], list[Pixels | None]]:
        for out in self.out:
            out[:] = 3
        failed = pool.decode(self.array)
        assert failed == np.count_nonzero(self.array["status"])
        return self.results()

    def results(self) -> tuple[list[int], list[Pixels | None]]:
        statuses = self.array["status"].tolist()
        return statuses, [None if status else out.copy() for status, out in zip(statuses, self.out, strict=True)]


@pytest.fixture(scope="module", params=[False, True], ids=["SIMD", "portable"])
def pools(request: pytest.FixtureRequest) -> Iterator[list[Pool]]:
    """Of one thread and of three."""
    with Pool(1, portable=request.param) as one, Pool(3, portable=request.param) as three:
        yield [one, three]


def assert_same(group: Group, pools: list[Pool]) -> list[int]:
    """Together and one by one: the same statuses, which are returned, and bytes."""
    statuses, pixels = group.separately(pools[0])
    for pool in pools:
        np.testing.assert_equal(group.together(pool), (statuses, pixels))
    return statuses


def sides(length: int) -> st.SearchStrategy[tuple[float, float]]:
    """Two corners of a box within [0, length], whole or not; seldom an empty or an impossible one."""
    corner = st.one_of(st.integers(0, length), st.floats(-0.01, length + 0.01))
    return st.tuples(corner, corner).map(lambda ends: (min(ends), max(ends)))


def crops(width: int, height: int) -> st.SearchStrategy[list[Crop]]:
    box = st.tuples(sides(width), sides(height)).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))
    out_size = st.tuples(st.integers(1, 90), st.integers(1, 70))
    groups = [st.just(False), st.just(True), st.booleans()]
    lists = [st.lists(st.builds(Crop, box, out_size, st.booleans(), exact), min_size=1, max_size=7) for exact in groups]
    return st.one_of(lists)


def five_crops(width: int, height: int, side: float, out: int, *, exact: bool = False) -> list[Crop]:
    """Corners and centre."""
    places = [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5)]
    corners = [(x * (width - side), y * (height - side)) for x, y in places]
    boxes = [(left, top, min(left + side, width), min(top + side, height)) for left, top in corners]
    return [Crop(box, (out, out), exact=exact) for box in boxes]


class TestTheSameAsOneByOne:
    @given(
        data=st.data(),
        kind=st.sampled_from(sorted(KINDS)),
        width=st.integers(1, 130),
        height=st.integers(1, 90),
    )
    @settings(max_examples=80, deadline=None)
    def test_of_every_kind(self, pools: list[Pool], data: st.DataObject, kind: str, width: int, height: int) -> None:
        source = KINDS[kind](picture(width, height), 80)
        info = read_info(source)
        assert_same(Group(source, (info.width, info.height), data.draw(crops(info.width, info.height))), pools)

    @given(
        data=st.data(),
        sampling=st.sampled_from(sorted(SAMPLINGS)),
        policy=st.sampled_from(["none", "1", "own", "row", "across rows"]),
        width=st.integers(1, 130),
        height=st.integers(1, 90),
    )
    @settings(max_examples=80, deadline=None)
    def test_of_every_restart_interval(
        self, pools: list[Pool], data: st.DataObject, sampling: str, policy: str, width: int, height: int
    ) -> None:
        source = restarted(SAMPLINGS[sampling], picture(width, height), 80, policy)
        info = read_info(source)
        assert_same(Group(source, (info.width, info.height), data.draw(crops(info.width, info.height))), pools)

    @pytest.mark.parametrize("exact", [False, True])
    def test_a_whole_image_at_many_sizes_and_its_corners(self, pools: list[Pool], exact: bool) -> None:
        """Filters of many taps, wide ones and enlarging ones, from one decoded plane."""
        source, sizes = KINDS["4:2:0"](picture(500, 375), 90), [(853, 640), (299, 224), (40, 30), (7, 900), (1, 1)]
        wholes = [Crop((0, 0, 500, 375), size, exact=exact) for size in sizes]
        group = Group(source, (500, 375), [*wholes, *five_crops(500, 375, 328.125, 224, exact=exact)])
        assert set(assert_same(group, pools)) == {STATUS_OK}

    def test_ones_that_do_not_meet(self, pools: list[Pool]) -> None:
        """They decode what is between them, too."""
        corners = [Crop((0, 0, 3, 2), (3, 2)), Crop((497, 373, 500, 375), (3, 2)), Crop((250, 180, 251, 181), (9, 9))]
        for policy in ("none", "own"):
            source = restarted(SAMPLINGS["4:2:0"], picture(500, 375), 90, policy)
            assert set(assert_same(Group(source, (500, 375), corners), pools)) == {STATUS_OK}


class TestFailures:
    """Stay with the crop that they are of."""

    @pytest.mark.parametrize("at", [0, 2, 4])
    @pytest.mark.parametrize("kind", ["4:2:0", "4:2:0 progressive"])
    def test_of_a_box_an_output_or_a_buffer(self, pools: list[Pool], kind: str, at: int) -> None:
        source = KINDS[kind](picture(80, 60), 80)
        for name, value, status in (
            ("box", (0, 0, 81, 60), STATUS_BAD_BOX),
            ("box", (float("nan"), 0, 80, 60), STATUS_BAD_BOX),
            ("out_width", 0, STATUS_BAD_ARGUMENT),
            ("out", 0, STATUS_BAD_ARGUMENT),
        ):
            group = Group(source, (80, 60), five_crops(80, 60, 40, 32))
            group.array[at][name] = value
            statuses = assert_same(group, pools)
            assert statuses == [status if i == at else STATUS_OK for i in range(5)]

    def test_of_all(self, pools: list[Pool]) -> None:
        source = KINDS["4:2:0"](picture(80, 60), 80)
        outside = [Crop((0, 0, 81, 60), (8, 8)), Crop((-1, 0, 80, 60), (8, 8))]
        assert assert_same(Group(source, (80, 60), outside), pools) == [STATUS_BAD_BOX] * 2
        assert assert_same(Group(source, (80, 61), five_crops(80, 60, 40, 8)), pools) == [STATUS_OTHER_SIZE] * 5

    @pytest.mark.parametrize("exact", [False, True])
    @pytest.mark.parametrize("damage", ["a lost end", "other bytes"])
    def test_of_what_reads_the_damage(self, pools: list[Pool], damage: str, exact: bool) -> None:
        """In the lowest rows, at the right: other boxes come out, although the rectangle of all does not decode."""
        source = restarted(SAMPLINGS["4:2:0"], picture(160, 128), 80, "row")
        rows = len(source) * 7 // 8
        damaged = source[:rows] + (bytes(40) + source[rows + 40 :] if damage == "other bytes" else b"")
        statuses = assert_same(Group(damaged, (160, 128), five_crops(160, 128, 50, 32, exact=exact)), pools)
        assert [statuses[i] for i in (0, 1, 4)] == [STATUS_OK] * 3
        assert statuses[3] != STATUS_OK

    @given(st.data(), st.sampled_from(sorted(set(KINDS) - {"EXIF, ICC and a comment"})))
    @settings(max_examples=80, deadline=None)
    def test_of_any_damage(self, pools: list[Pool], data: st.DataObject, kind: str) -> None:
        source = bytearray(KINDS[kind](picture(60, 50), 60))
        info = read_info(bytes(source))
        for _ in range(data.draw(st.integers(1, 4))):
            at, length = data.draw(st.integers(0, len(source))), data.draw(st.integers(0, 8))
            source[at : at + length] = data.draw(st.binary(max_size=8))
        assert_same(Group(bytes(source), (info.width, info.height), data.draw(crops(info.width, info.height))), pools)

    def test_of_a_header_that_promises_too_much(self, pools: list[Pool]) -> None:
        """12 GB of planes between two small boxes: refused as in one crop of all, so each box is for itself."""
        source = with_frame(KINDS["4:4:4"](picture(40, 30), 50), size=(65500, 65500))
        ends = [Crop((0, 0, 2, 2), (2, 2)), Crop((65490, 65490, 65500, 65500), (8, 8))]
        assert assert_same(Group(source, (65500, 65500), ends), pools) == [STATUS_OK, STATUS_TRUNCATED]


class TestBatch:
    def test_groups_of_several_images_and_crops_alone(self, pools: list[Pool]) -> None:
        groups = []
        for i, kind in enumerate(sorted(set(KINDS) - {"EXIF, ICC and a comment"})):
            source = KINDS[kind](picture(70 + 9 * i, 60 + 5 * i, i), 80)
            info = read_info(source)
            side = 0.8 * min(info.width, info.height)
            group = Group(source, (info.width, info.height), five_crops(info.width, info.height, side, 30 + i))
            group.separately(pools[0])
            groups.append(group)
        expected = [out.copy() for group in groups for out in group.out]
        outs = [out for group in groups for out in group.out]
        everything = np.concatenate([group.array for group in groups])
        orders = {"grouped": np.arange(len(everything)), "scattered": np.random.default_rng(0).permutation(len(outs))}
        for order in orders.values():
            for pool in pools:
                for out in outs:
                    out[:] = 0
                assert pool.decode(everything[order]) == 0
                np.testing.assert_equal(outs, expected)

    def test_neighbours_that_are_no_group(self, pools: list[Pool]) -> None:
        """The same memory as a JPEG of this size and that, as less of it, as pixels, and on a field of a colour."""
        source = KINDS["4:4:4"](picture(60, 50), 80)
        group = Group(source, (60, 50), [Crop((0, 0, 16, 8), (16, 8))] * 8)
        group.array[1]["width"] = 61
        group.array[2]["fill"] = FILL | 0x102030
        group.array[2]["box"] = (-8, -4, 8, 4)
        group.array[4]["kind"], group.array[4]["width"], group.array[4]["height"] = KIND_RGB, len(source) // 3, 1
        group.array[4]["size"], group.array[4]["box"] = len(source) // 3 * 3, (0, 0, 16, 1)
        group.array[6]["size"] = 100
        statuses = assert_same(group, pools)
        assert statuses == [STATUS_OK, STATUS_OTHER_SIZE, *[STATUS_OK] * 4, STATUS_TRUNCATED, STATUS_OK]
        whole = decode(source)
        for i in (0, 3, 5, 7):
            np.testing.assert_array_equal(group.out[i], whole[:8, :16])
        assert (group.out[2][:4] == (0x10, 0x20, 0x30)).all()
        np.testing.assert_array_equal(group.out[2][4:, 8:], whole[:4, :8])


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of groups.c, with the thread sanitizer where the compiler has it."""
    cc, folder = compiler(), tmp_path_factory.mktemp("groups")
    if not cc:
        pytest.skip("no C compiler")
    sources = [Path(__file__).with_name("groups.c"), *sorted(SOURCES.glob("*.c"))]
    wraps = ",".join(f"--wrap={name}" for name in COUNTED)
    command = [cc, "-std=c11", "-D_GNU_SOURCE", "-g", "-O0", f"-I{SOURCES}", *map(str, sources), f"-Wl,{wraps}"]
    command += ["-o", str(folder / "groups"), "-ljpeg", "-lm", "-pthread"]
    for sanitizer in (["-fsanitize=thread"], []):
        done = subprocess.run([*command, *sanitizer], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return folder / "groups"
    pytest.fail(done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_a_group_reads_one_header_and_decodes_one_rectangle(counter: Path, tmp_path: Path, threads: int) -> None:
    """And transcodes once what is progressive, which has a second header then. Threads do not race."""
    kinds, batches = ["4:2:0", "4:4:4", "4:2:0 progressive", "gray", "4:2:0 optimised", "gray progressive"], 5
    files = [tmp_path / f"{i}.jpg" for i in range(len(kinds))]
    for i, (kind, file) in enumerate(zip(kinds, files, strict=True)):
        file.write_bytes(KINDS[kind](picture(150 + 20 * i, 120, i), 80))
    done = subprocess.run(
        [counter, str(threads), str(batches), *files], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    counts = [batches * count for count in (len(kinds) + 2, 2, len(kinds), 0)]
    assert done.stdout == "{} headers, {} transcodings, {} rectangles, {} failed\n".format(*counts)
