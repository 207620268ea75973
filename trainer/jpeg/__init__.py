"""JPEG bytes to pixels: a crop resized to the network's input, decoding only what it needs; and lossless transcoding
that makes it fast.

Knows nothing of betons or training. The C library is in `src/`, its contract is `src/jpegcrop.h`; beside it is
`src/bus_error.h`, for mapped files that cannot be read.
"""

from trainer.jpeg.native import (
    CROP_DTYPE,
    FILL,
    KIND_JPEG,
    KIND_RGB,
    Box,
    DecodeError,
    Decoder,
    Pixels,
    Pool,
    TranscodeError,
    crop_pixels,
    decode,
    decode_crop,
    decode_planes,
    explain,
    explain_bus_errors,
    has_simd,
    read_info,
    restart_interval,
    transcode,
)

__all__ = [
    "CROP_DTYPE",
    "FILL",
    "KIND_JPEG",
    "KIND_RGB",
    "Box",
    "DecodeError",
    "Decoder",
    "Pixels",
    "Pool",
    "TranscodeError",
    "crop_pixels",
    "decode",
    "decode_crop",
    "decode_planes",
    "explain",
    "explain_bus_errors",
    "has_simd",
    "read_info",
    "restart_interval",
    "transcode",
]
