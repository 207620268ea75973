"""python read_with_ffcv.py FILE.beton OUT.npz OS_CACHE: what stock FFCV's Loader yields, whole images and labels.

A program of its own, because what FFCV compiles outlives the interpreter's patience with it when it exits.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption

path, out, os_cache = sys.argv[1:]
pipelines: dict[str, list[Any]] = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
loader = Loader(
    path,
    8,
    num_workers=1,
    os_cache=os_cache == "True",
    order=OrderOption.SEQUENTIAL,
    pipelines=pipelines,
    drop_last=False,
)
batches = [(images.copy(), labels.copy()) for images, labels in loader]
np.savez(out, images=np.concatenate([b[0] for b in batches]), labels=np.concatenate([b[1] for b in batches])[:, 0])
