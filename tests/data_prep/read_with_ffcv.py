"""python read_with_ffcv.py FILE.beton OUT.npz: what stock FFCV's Loader yields, whole images and labels.

A program of its own, because what FFCV compiles outlives the interpreter's patience with it when it exits.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption

path, out = sys.argv[1:]
read = {}
for os_cache in (True, False):  # from a memory map, and page by page
    pipelines: dict[str, list[Any]] = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    order = OrderOption.SEQUENTIAL
    loader = Loader(path, 8, num_workers=1, os_cache=os_cache, order=order, pipelines=pipelines, drop_last=False)
    batches = [(images.copy(), labels.copy()) for images, labels in loader]
    read[f"images_{os_cache}"] = np.concatenate([images for images, _ in batches])
    read[f"labels_{os_cache}"] = np.concatenate([labels for _, labels in batches])[:, 0]
np.savez(out, **read)
