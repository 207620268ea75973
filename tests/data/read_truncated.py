"""Reads a beton that becomes shorter: `python read_truncated.py FILE.beton HOW`. See test_bus_errors.py."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from ctypes import string_at

import numpy as np

from trainer.data.beton import Beton
from trainer.jpeg import CROP_DTYPE, Pool

path, how = sys.argv[1:]
if how.startswith("faulthandler"):
    faulthandler.enable()
beton = Beton(path)
address, place = beton.address, int(beton.offsets[-1])
others = [Beton(path) for _ in range(100)] if how == "many" else []


def read() -> None:
    string_at(address + place, 1)


if how in ("sent", "faulthandler, sent"):
    os.kill(os.getpid(), signal.SIGBUS)
elif how == "faulthandler, another signal":
    string_at(0)
elif how == "sound":
    read()
    raise SystemExit("still there")
os.truncate(path, 100)
if how == "closed":
    view = beton.record(len(beton) - 1)  # keeps the mapping
    del beton
    read()
elif how == "thread":
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
elif how == "pool":
    crops = np.zeros(8, CROP_DTYPE)
    out = np.zeros((8, 8, 8, 3), np.uint8)
    crops["data"], crops["size"] = beton.address + beton.offsets[:8], beton.sizes[:8]
    crops["width"], crops["height"] = beton.widths[:8], beton.heights[:8]
    crops["box"], crops["out_width"], crops["out_height"] = (0, 0, 8, 8), 8, 8
    crops["out"] = out.ctypes.data + np.arange(8) * out.strides[0]
    with Pool(4) as threads:
        threads.decode(crops)
elif how == "forked":
    child = os.fork()
    if child:
        print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    read()
else:
    read()
