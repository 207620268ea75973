"""The Python face of the C library in src/ (its contract is src/jpegcrop.h and src/bus_error.h), loaded with ctypes.

ctypes releases the GIL during every call, and one build serves every version of Python.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
import weakref
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from trainer.errors import NotBuilt

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the stored image, fractions allowed."""

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""

KIND_JPEG: Final = 0
KIND_RGB: Final = 1
FILL: Final = 0x1000000
"""Added to a colour 0xRRGGBB: what stands outside of the image, where the box may lie."""

CROP_DTYPE: Final = np.dtype(
    [
        ("data", "<u8"),
        ("size", "<u8"),
        ("out", "<u8"),
        ("box", "<f8", (4,)),
        ("width", "<i4"),
        ("height", "<i4"),
        ("out_width", "<i4"),
        ("out_height", "<i4"),
        ("kind", "<i4"),
        ("flip", "<i2"),
        ("exact", "<i2"),
        ("fill", "<i4"),
        ("status", "<i4"),
    ]
)
"""`jc_crop`: one crop to make. `data` and `out` are addresses of memory that the caller keeps alive; `exact` asks for
the pixels of libjpeg-turbo and Pillow."""

_VERSION: Final = 3
_REASON: Final = 256
_PORTABLE: Final = 1
_MAX_OUT: Final = 16384  # JC_MAX_OUT
_MOST_THREADS: Final = 1024


class DecodeError(Exception):
    """These bytes cannot be decoded, or not to what was asked for; the message says why."""


class TranscodeError(Exception):
    """This JPEG cannot be kept losslessly; the message says why."""


class _Info(ctypes.Structure):
    _fields_ = (
        ("width", c_int32),
        ("height", c_int32),
        ("components", c_int32),
        ("plane_width", c_int32 * 3),
        ("plane_height", c_int32 * 3),
        ("h", c_int32 * 3),
        ("v", c_int32 * 3),
        ("progressive", c_int32),
        ("restart_interval", c_int32),
        ("mcus_per_row", c_int32),
    )


@dataclass(frozen=True)
class Info:
    """What the header of a JPEG says. Planes are (width, height) in samples."""

    width: int
    height: int
    planes: tuple[tuple[int, int], ...]
    sampling: tuple[tuple[int, int], ...]
    """Horizontal and vertical sampling factor of each component."""
    progressive: bool
    restart_interval: int
    """MCUs; 0 without restart markers."""
    mcus_per_row: int


class Decoder:
    """Scratch memory for one crop after another. Not for two threads at once.

    Args:
        portable: leave the SIMD of this CPU unused; the result is the same.
    """

    def __init__(self, *, portable: bool = False) -> None:
        self._decoder = _LIBRARY.jc_decoder_new(_PORTABLE if portable else 0)
        if not self._decoder:
            raise MemoryError("no memory for a JPEG decoder")
        weakref.finalize(self, _LIBRARY.jc_decoder_free, self._decoder).atexit = False

    def decode_crop(
        self,
        data: bytes | memoryview,
        size: tuple[int, int],
        box: Box,
        flip: bool,
        out: Pixels,
        kind: int = KIND_JPEG,
        *,
        exact: bool = False,
    ) -> None:
        """See the function `decode_crop`.

        Args:
            exact: give, for more time, the pixels that libjpeg-turbo's defaults and Pillow's resizing of the whole
                image give, bit for bit.
        """
        source = np.frombuffer(data, np.uint8)
        if out.dtype != np.uint8 or out.ndim != 3 or out.shape[2] != 3 or not out.flags.carray:
            raise ValueError("out must be writable contiguous uint8 [height, width, 3]")
        addresses = source.ctypes.data, len(source), out.ctypes.data
        crop = np.array((*addresses, box, *size, out.shape[1], out.shape[0], kind, flip, exact, 0, 0), CROP_DTYPE)
        status = _LIBRARY.jc_decode_crop(self._decoder, crop.ctypes.data)
        if status:
            raise DecodeError(explain(status, data, size, box))

    def decode(self, data: bytes | memoryview) -> Pixels:
        """See the function `decode`."""
        info = read_info(data)
        size = info.width, info.height
        whole = _empty((info.height, info.width, 3))
        if max(size) <= _MAX_OUT:
            self.decode_crop(data, size, (0, 0, *size), False, whole)
            return whole
        for top, left in itertools.product(range(0, info.height, _MAX_OUT), range(0, info.width, _MAX_OUT)):
            bottom, right = min(top + _MAX_OUT, info.height), min(left + _MAX_OUT, info.width)
            part = _empty((bottom - top, right - left, 3))
            self.decode_crop(data, size, (left, top, right, bottom), False, part)
            whole[top:bottom, left:right] = part
        return whole

    def decode_planes(self, data: bytes | memoryview) -> list[npt.NDArray[np.uint8]]:
        """The components as stored, each uint8 [height, width] in samples: Y, or Y, Cb and Cr."""
        info = read_info(data)
        source = np.frombuffer(data, np.uint8)
        planes = [_empty((height, width)) for width, height in info.planes]
        addresses = (c_void_p * 3)(*[plane.ctypes.data for plane in planes])
        status = _LIBRARY.jc_decode_planes(self._decoder, source.ctypes.data, len(source), addresses)
        if status:
            raise DecodeError(explain(status, data))
        return planes


class Pool:
    """Threads that make the crops of a batch, the calling one among them. For one caller at a time.

    Close it (or leave its `with`) when its work is done. It stays behind in the process that made it: threads do not
    follow into a forked child, where using it raises RuntimeError and closing it does nothing.

    Args:
        threads: 1 to 1024.
        portable: leave the SIMD of this CPU unused; the result is the same.
    """

    def __init__(self, threads: int, *, portable: bool = False) -> None:
        if not 1 <= threads <= _MOST_THREADS:
            raise ValueError(f"a pool has 1 to {_MOST_THREADS} threads, not {threads}")
        self._process = os.getpid()
        self._pool = _LIBRARY.jc_pool_new(threads, _PORTABLE if portable else 0)
        if not self._pool:
            raise MemoryError(f"cannot start {threads} decoding threads")
        self._free = weakref.finalize(self, _free_pool, self._pool, self._process)
        self._free.atexit = False  # a daemon thread may still be using it

    def decode(self, crops: np.ndarray) -> int:
        """Make all `crops` (of `CROP_DTYPE`); returns how many failed: those whose `status` is not 0.

        Neighbours of the same JPEG (`data`, `size`, `width`, `height`, `exact` are equal, `fill` is 0) are made by one
        thread, which decodes once the smallest rectangle that has all of their boxes: put the crops of an image side
        by side.
        Bytes and statuses are those of crops made one by one.
        """
        if crops.dtype != CROP_DTYPE or not crops.flags.carray:
            raise ValueError("crops must be a writable contiguous array of CROP_DTYPE")
        if not self._pool:
            raise ValueError("the pool is closed")
        if self._process != os.getpid():
            raise RuntimeError("the pool's threads are in another process: make a pool after forking")
        return int(_LIBRARY.jc_pool_decode(self._pool, crops.ctypes.data, len(crops)))

    def close(self) -> None:
        self._free()
        self._pool = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _empty(shape: tuple[int, ...]) -> Pixels:
    """Memory for what a header says, which may be damaged."""
    try:
        return np.empty(shape, np.uint8)
    except MemoryError as error:
        raise DecodeError(f"there is no memory for {shape[1]}x{shape[0]} pixels") from error


def _free_pool(pool: int, process: int) -> None:
    """Nothing in a forked child: it has no threads to wait for."""
    if process == os.getpid():
        _LIBRARY.jc_pool_free(pool)


def decode(data: bytes | memoryview) -> Pixels:
    """Decode a whole JPEG to uint8 [height, width, 3]. Grayscale becomes RGB; EXIF orientation is ignored.

    Raises:
        DecodeError: the bytes do not decode.
    """
    return _own_decoder().decode(data)


def decode_crop(data: bytes | memoryview, size: tuple[int, int], box: Box, flip: bool, out: Pixels) -> None:
    """Decode a JPEG of `size` (width, height); write its crop `box`, resized and mirrored if `flip`, into `out`.

    Only what the crop needs is decoded. The result is what resizing the whole image (antialiased bilinear) and then
    cropping gives: pixels around the box take part in the filter at its edges.

    Raises:
        DecodeError: the bytes do not decode, the image has another size, or the box leaves it.
    """
    _own_decoder().decode_crop(data, size, box, flip, out)


def crop_pixels(pixels: Pixels, box: Box, flip: bool, out: Pixels) -> None:
    """`decode_crop` for an image that is stored as pixels, uint8 [height, width, 3]."""
    height, width, _ = pixels.shape
    data = np.ascontiguousarray(pixels).data.cast("B")
    _own_decoder().decode_crop(data, (width, height), box, flip, out, KIND_RGB)


def decode_planes(data: bytes | memoryview) -> list[npt.NDArray[np.uint8]]:
    """The components of a JPEG as stored, each uint8 [height, width] in samples: Y, or Y, Cb and Cr.

    Raises:
        DecodeError: the bytes do not decode.
    """
    return _own_decoder().decode_planes(data)


def read_info(data: bytes | memoryview) -> Info:
    """The header of a JPEG.

    Raises:
        DecodeError: it has none that can be decoded.
    """
    source, info = np.frombuffer(data, np.uint8), _Info()
    status = _LIBRARY.jc_read_info(source.ctypes.data, len(source), byref(info))
    if status:
        raise DecodeError(explain(status, data))
    components = range(info.components)
    return Info(
        info.width,
        info.height,
        tuple((info.plane_width[i], info.plane_height[i]) for i in components),
        tuple((info.h[i], info.v[i]) for i in components),
        bool(info.progressive),
        info.restart_interval,
        info.mcus_per_row,
    )


def restart_interval(mcus_per_row: int) -> int:
    """The restart interval, in MCUs, that `transcode` gives an image with this many MCUs in a row."""
    return int(_LIBRARY.jc_restart_interval(mcus_per_row))


def transcode(data: bytes | memoryview) -> bytes:
    """Rewrite a JPEG losslessly so that crops of it decode fast: baseline, standard tables, restart markers.

    Its coefficients, and so every decoder's pixels, stay the same; its metadata (EXIF, comments, profiles) go.

    Raises:
        TranscodeError: it cannot be kept losslessly (CMYK, RGB, arithmetic coding, 12 bits) or libjpeg warns of it.
    """
    source, out, size = np.frombuffer(data, np.uint8), c_void_p(), c_size_t()
    reason = (c_char * _REASON)()
    if _LIBRARY.jc_transcode(source.ctypes.data, len(source), byref(out), byref(size), reason):
        raise TranscodeError(reason.value.decode("ascii", "replace"))
    try:
        return ctypes.string_at(out, size.value)
    finally:
        _LIBRARY.jc_free(out)


def explain_bus_errors(owner: object, address: int, length: int, message: str) -> None:
    """For as long as `owner` lives, end the process with `error: message` and status 1 when these bytes of a mapped
    file cannot be read: the file has become shorter, or its disk fails. Without this it would be killed by SIGBUS.

    Of more than 64 such ranges the further ones stay as they are.
    """
    # A display of progress may have hidden the cursor, and left it behind its last line.
    begin = "\x1b[?25h\n" if os.isatty(2) else ""
    number = _LIBRARY.jc_explain_bus_errors(address, length, os.fsencode(f"{begin}error: {message}\n"))
    # Not at the end of the process, when a daemon thread may still be reading.
    weakref.finalize(owner, _LIBRARY.jc_forget_bus_errors, number).atexit = False


def has_simd() -> bool:
    """Whether this CPU's SIMD (AVX2) is used."""
    return bool(_LIBRARY.jc_has_simd())


def explain(status: int, data: bytes | memoryview, size: tuple[int, int] = (0, 0), box: Box | None = None) -> str:
    """What a status other than 0 means, in one line, for a crop `box` of a record of `size`."""
    reason = _LIBRARY.jc_status_text(status).decode("ascii")
    if status == _STATUS_OTHER_SIZE:
        try:
            info = read_info(data)
        except DecodeError:
            return f"{len(data)} bytes are not the pixels of an image of {size[0]}x{size[1]}"
        return f"the JPEG is {info.width}x{info.height}, its record says {size[0]}x{size[1]}"
    if status == _STATUS_BAD_BOX:
        return f"crop {box} is outside of the image of {size[0]}x{size[1]}"
    return f"{reason} ({len(data)} bytes)"


_STATUS_OTHER_SIZE: Final = 7
_STATUS_BAD_BOX: Final = 8


def _load() -> ctypes.CDLL:
    found = sorted(Path(__file__).parent.glob("_jpegcrop*.so"))
    if not found:
        raise NotBuilt(
            "trainer.jpeg's C library is not built; build it with `make setup`, or with `pip install -e .` in the "
            "project's folder (it needs a C compiler and libjpeg-turbo's headers)"
        )
    try:
        library = ctypes.CDLL(str(found[0]))
    except OSError as error:
        raise NotBuilt(f"trainer.jpeg's C library does not load ({error}); build it again: `make setup`") from error
    library.jc_version.restype, library.jc_version.argtypes = c_int, []
    if library.jc_version() != _VERSION:
        raise NotBuilt(f"{found[0]} is of another version of this project; run `make setup` again")
    signatures = {
        "jc_has_simd": (c_int, []),
        "jc_status_text": (c_char_p, [c_int]),
        "jc_decoder_new": (c_void_p, [c_int]),
        "jc_decoder_free": (None, [c_void_p]),
        "jc_decode_crop": (c_int, [c_void_p, c_void_p]),
        "jc_decode_planes": (c_int, [c_void_p, c_void_p, c_size_t, POINTER(c_void_p)]),
        "jc_read_info": (c_int, [c_void_p, c_size_t, c_void_p]),
        "jc_pool_new": (c_void_p, [c_int, c_int]),
        "jc_pool_free": (None, [c_void_p]),
        "jc_pool_decode": (c_int64, [c_void_p, c_void_p, c_int64]),
        "jc_restart_interval": (c_int, [c_int]),
        "jc_transcode": (c_int, [c_void_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_char)]),
        "jc_free": (None, [c_void_p]),
        "jc_explain_bus_errors": (c_int, [c_void_p, c_size_t, c_char_p]),
        "jc_forget_bus_errors": (None, [c_int]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_LIBRARY: Final = _load()
_of_thread = threading.local()


def _own_decoder() -> Decoder:
    """This thread's decoder, made at its first use."""
    if not hasattr(_of_thread, "decoder"):
        _of_thread.decoder = Decoder()
    decoder: Decoder = _of_thread.decoder
    return decoder
