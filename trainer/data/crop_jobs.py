"""The crops of a batch as the C library takes them: from where records lie in memory to their places in a batch."""

from __future__ import annotations

from ctypes import c_uint8

import numpy as np
import numpy.typing as npt

from trainer.data.beton import MODE_JPEG
from trainer.data.crops import CropPolicy, Crops, PaddedCrop
from trainer.jpeg import CROP_DTYPE, FILL, KIND_JPEG, KIND_RGB, Pixels, explain

Ints = npt.NDArray[np.int64]


def padding(policy: CropPolicy, rgb: tuple[int, int, int]) -> int:
    """The `fill` of jobs: the colour of what stands outside of the image, 0 where `policy` never leaves it."""
    red, green, blue = rgb
    return FILL | red << 16 | green << 8 | blue if isinstance(policy, PaddedCrop) else 0


def crop_jobs(
    addresses: Ints,
    sizes: Ints,
    modes: npt.NDArray[np.uint8],
    widths: Ints,
    heights: Ints,
    crops: Crops,
    outputs: Ints,
    shape: tuple[Ints | int, Ints | int],
    fill: int,
    *,
    exact: bool = False,
) -> npt.NDArray[np.void]:
    """What `trainer.jpeg.Pool` is to do: `CROP_DTYPE` [b]. The memory of all addresses has to outlive the work.

    Args:
        addresses, sizes: int64 [b], where the bytes of each record are.
        modes, widths, heights: [b], of each record.
        outputs: int64 [b], where to write each crop, uint8 [height, width, 3] ...
        shape: ... of this height and width: of all, or int64 [b] each.
        fill: see `padding`.
        exact: the pixels that Pillow gives, for more time.
    """
    jobs = np.zeros(len(outputs), CROP_DTYPE)
    jobs["data"], jobs["size"] = addresses, sizes
    jobs["out"] = outputs
    jobs["box"], jobs["flip"] = crops.boxes, crops.flips
    jobs["width"], jobs["height"] = widths, heights
    jobs["out_height"], jobs["out_width"] = shape
    jobs["fill"] = fill
    jobs["exact"] = exact
    jobs["kind"] = np.where(modes == MODE_JPEG, KIND_JPEG, KIND_RGB)
    return jobs


def explain_job(job: np.void) -> str:
    """Why a job failed, and what to do, in one line."""
    data = bytes_at(int(job["data"]), int(job["size"])).data
    size, box = (int(job["width"]), int(job["height"])), tuple(job["box"].tolist())
    why = explain(int(job["status"]), data, size, box)
    return f"{why}; `python -m data_prep verify` lists all such records of a beton"


def bytes_at(address: int, size: int) -> Pixels:
    """Memory as uint8 [size]; it has to outlive the array."""
    return np.ctypeslib.as_array((c_uint8 * size).from_address(address))
