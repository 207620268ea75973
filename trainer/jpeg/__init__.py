"""JPEG bytes to pixels: a full decode, and a crop resized to the network's input.

Knows nothing of betons or training. Decoding is Pillow's (pillow-simd where set-up built it): it releases the GIL, so
threads decode side by side.
"""

from trainer.jpeg.pillow import Box, DecodeError, Pixels, crop_pixels, decode, decode_crop

__all__ = ["Box", "DecodeError", "Pixels", "crop_pixels", "decode", "decode_crop"]
