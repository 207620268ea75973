"""CIFAR-10 as its authors publish it: the python batches and the binary batches.

Source: https://www.cs.toronto.edu/~kriz/cifar.html. Both hold 32x32 images as three planes, red, green and blue.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.errors import UsageError

SIDE: Final = 32
_PLANES: Final = 3 * SIDE * SIDE
_PREFIX: Final = {"train": "data_batch_", "val": "test_batch"}

_UNPICKLED: Final = {"numpy": ("ndarray", "dtype"), "_codecs": ("encode",)}
"""What the python batches are made of, besides the built-in containers, numbers and strings."""


class Batches(NamedTuple):
    """All batches of one split, in their order."""

    pixels: npt.NDArray[np.uint8]
    """uint8 [N, 32, 32, 3], RGB."""
    labels: npt.NDArray[np.int64]
    names: list[str]
    classes: list[str]


def find_batches(folder: Path, split: str) -> list[Path]:
    """The batch files of a split ("train" or "val") in `folder`, in order; empty when it holds no batches at all.

    Raises:
        UsageError: it holds those of the other split only.
    """
    found = {name: sorted(folder.glob(f"{prefix}*")) for name, prefix in _PREFIX.items()}
    if any(found.values()) and not found[split]:
        raise UsageError(f"{folder}: it has no {_PREFIX[split]}*, so no split {split!r}")
    return found[split]


def load_batches(paths: list[Path]) -> Batches:
    """Read batches, python or binary by their suffix `.bin`, and the class names beside them.

    Raises:
        UsageError: a file is missing or is not what its name says.
    """
    read = _read_binary if paths[0].suffix == ".bin" else _read_python
    pixels, labels, names = zip(*(read(path) for path in paths), strict=True)
    classes = _class_names(paths[0])
    planes = np.concatenate(pixels).reshape(-1, 3, SIDE, SIDE)
    merged = Batches(
        np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
        np.concatenate(labels).astype(np.int64),
        [name for batch in names for name in batch],
        classes,
    )
    if merged.labels.min() < 0 or merged.labels.max() >= len(classes):
        raise UsageError(f"{paths[0].parent}: labels outside of the {len(classes)} classes of its batches.meta")
    return merged


def _read_binary(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], list[str]]:
    data = np.fromfile(path, np.uint8)
    record = 1 + _PLANES
    if len(data) == 0 or len(data) % record:
        raise UsageError(f"{path}: {len(data)} bytes are no multiple of {record}, a record's length; fetch it again")
    records = data.reshape(-1, record)
    return records[:, 1:], records[:, 0], [f"{path.name}[{i}]" for i in range(len(records))]


def _read_python(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str]]:
    content = _unpickle(path)
    pixels, labels = content.get(b"data"), content.get(b"labels")
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (_PLANES,)):
        raise UsageError(f"{path}: not a CIFAR-10 batch: `data` is not uint8 [N, {_PLANES}]")
    if not (isinstance(labels, list) and len(labels) == len(pixels) > 0 and all(type(i) is int for i in labels)):
        raise UsageError(f"{path}: not a CIFAR-10 batch: `labels` is not a list of {len(pixels)} integers")
    return pixels, np.array(labels), [f"{path.name}[{i}]" for i in range(len(labels))]


def _class_names(batch: Path) -> list[str]:
    if batch.suffix == ".bin":
        return (batch.parent / "batches.meta.txt").read_text().split()
    names = _unpickle(batch.parent / "batches.meta").get(b"label_names")
    if not (isinstance(names, list) and all(isinstance(name, bytes) for name in names)):
        raise UsageError(f"{batch.parent / 'batches.meta'}: `label_names` is not a list of names")
    return [name.decode() for name in names]


class _Unpickler(pickle.Unpickler):
    """Builds arrays and plain containers only: unpickling anything else could run code of the file's author."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty_array
        if name in _UNPICKLED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _empty_array(subtype: type, shape: tuple[int, ...], dtype: bytes) -> npt.NDArray[Any]:
    """What NumPy's `_reconstruct`, which moved between its versions, does for plain arrays."""
    return np.empty(shape, np.dtype(dtype.decode("ascii")))


def _unpickle(path: Path) -> dict[bytes, Any]:
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except OSError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        raise UsageError(f"{path}: not a CIFAR-10 python batch: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: not a CIFAR-10 python batch: a {type(content).__name__} instead of a dict")
    return content
