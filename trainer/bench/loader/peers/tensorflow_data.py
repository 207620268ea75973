"""tf.data from memory at its fastest: only the crop is decoded, by the fast inverse transform, and not antialiased."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf

from trainer.bench.loader.work import Pixels, Work, crops_of, windows_of
from trainer.data.beton import Beton
from trainer.data.order import Request

PREFETCH: Final = 2


class TensorflowData:
    """A `tf.data.Dataset` with a private pool of `workers` threads. The JPEG bytes of an epoch are in its memory."""

    def __init__(self, work: Work, workers: int) -> None:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        self._work, self._workers = work, workers
        self._beton = Beton(work.beton)
        requests = work.requests(len(self._beton), 0)
        self._samples = np.unique(np.concatenate([request.ids for request in requests]))
        self._records = tf.constant([bytes(self._beton.record(sample)) for sample in self._samples.tolist()])
        self._requests: list[Request] = []
        self._dataset: Any = None

    def prepare(self, epoch: int) -> None:
        self._requests = self._work.requests(len(self._beton), epoch)
        crops = [crops_of(self._work, self._beton, request) for request in self._requests]
        windows = [windows_of(crop, self._beton, of) for crop, of in zip(crops, self._requests, strict=True)]
        places = np.searchsorted(self._samples, np.concatenate([request.ids for request in self._requests]))
        # TensorFlow's windows are top, left, height, width.
        order = np.concatenate(windows)[:, [1, 0, 3, 2]].astype(np.int32)
        flips = np.concatenate([crop.flips for crop in crops])
        dataset = tf.data.Dataset.from_tensor_slices((places, order, flips))
        dataset = dataset.map(self._image, num_parallel_calls=self._workers)
        dataset = dataset.batch(self._work.batch, drop_remainder=True).prefetch(PREFETCH)
        options = tf.data.Options()
        # Nothing is left to tune, and its thread sleeps for up to seconds before it lets an epoch end.
        options.autotune.enabled = False
        options.threading.private_threadpool_size = self._workers
        options.threading.max_intra_op_parallelism = 1
        self._dataset = dataset.with_options(options)

    def batches(self) -> Iterator[Any]:
        yield from self._dataset

    def pixels(self, batch: Any) -> Pixels:
        return np.asarray(batch.numpy())

    def first_request(self) -> Request:
        return self._requests[0]

    def _image(self, place: Any, window: Any, flip: Any) -> Any:
        record = tf.gather(self._records, place)
        image = tf.image.decode_and_crop_jpeg(record, window, channels=3, dct_method="INTEGER_FAST")
        image = tf.image.resize(image, (self._work.size, self._work.size), "bilinear", antialias=False)
        image = tf.cast(image, tf.uint8)
        return tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)


def open_variant(name: str, work: Work, workers: int) -> TensorflowData:
    return TensorflowData(work, workers)
