"""Stock FFCV reads what `convert` writes (law 6)."""

from __future__ import annotations

import ctypes
import ctypes.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

from data_prep.convert import Options, convert
from data_prep.images import Store
from data_prep.restarts import is_restart_marked
from trainer.data.beton import MODE_RAW, Beton
from trainer.jpeg import decode

pytest.importorskip("ffcv")
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # numba's finalizers


@pytest.fixture(scope="module", params=[Store.JPEG, Store.LOSSLESS, Store.RAW])
def beton(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    photo: Callable[..., PIL.Image.Image],
    encoded: Callable[..., bytes],
    write: Callable[[Path, Mapping[str, bytes]], Path],
) -> Path:
    """Images of one size, which FFCV's decoder of whole images needs; one is skipped, one gray, one progressive."""
    root = tmp_path_factory.mktemp("ffcv")
    files = {f"n{i % 3}/{i}.JPEG": encoded(photo(i, 64, 48), quality=95) for i in range(22)}
    files["n2/progressive.JPEG"] = encoded(photo(31, 64, 48), progressive=True, subsampling=0)
    files["n1/gray.JPEG"] = encoded(photo(30, 64, 48).convert("L"))
    files["n1/bad.JPEG"] = b""
    write(root / "images", files)
    convert(Options(root / "images", root / "x.beton", store=request.param, skip_bad=True, seed=2))
    return root / "x.beton"


def test_its_reader_sees_the_same_table_of_contents(beton: Path) -> None:
    from ffcv.reader import Reader

    reader, ours = Reader(str(beton)), Beton(beton)
    assert reader.field_names == ["image", "label"]
    assert [type(handler).__name__ for handler in reader.handlers.values()] == ["RGBImageField", "IntField"]
    image = reader.metadata["f0"]
    assert len(image) == len(ours) == 24
    assert image["mode"].tolist() == ours.modes.tolist()
    assert image["width"].tolist() == ours.widths.tolist()
    assert image["height"].tolist() == ours.heights.tolist()
    assert reader.metadata["f1"].tolist() == ours.labels.tolist()
    assert reader.alloc_table["sample_id"].tolist() == list(range(24))
    assert reader.alloc_table["ptr"].tolist() == image["data_ptr"].tolist() == ours.offsets.tolist()
    assert reader.alloc_table["size"].tolist() == ours.sizes.tolist()


@pytest.mark.slow  # FFCV compiles its pipeline
def test_its_loader_yields_the_same_labels_and_pixels(beton: Path, tmp_path: Path) -> None:
    script, out = Path(__file__).with_name("read_with_ffcv.py"), tmp_path / "read.npz"
    subprocess.run([sys.executable, script, beton, out], check=True, capture_output=True, timeout=240)
    read, ours = np.load(out), Beton(beton)
    for os_cache in (True, False):
        assert read[f"labels_{os_cache}"].tolist() == ours.labels.tolist()
        for i, image in enumerate(read[f"images_{os_cache}"]):
            if ours.modes[i] == MODE_RAW:
                assert image.tobytes() == ours.record(i)
            else:
                assert is_restart_marked(ours.record(i))
                assert np.array_equal(image, decode_with_libjpeg(bytes(ours.record(i)), image.shape))
                assert np.abs(image.astype(int) - decode(ours.record(i))).mean() < 3


def decode_with_libjpeg(data: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """What libjpeg-turbo itself makes of a JPEG with the flag that FFCV always sets: the fast inverse transform."""
    library = ctypes.CDLL(ctypes.util.find_library("turbojpeg"))
    library.tjInitDecompress.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(library.tjInitDecompress())
    pixels = np.zeros(shape, np.uint8)
    out = pixels.ctypes.data_as(ctypes.c_void_p)
    rgb, fast_dct = 0, 2048
    status = library.tjDecompress2(handle, data, ctypes.c_ulong(len(data)), out, shape[1], 0, shape[0], rgb, fast_dct)
    library.tjDestroy(handle)
    assert status == 0
    return pixels
