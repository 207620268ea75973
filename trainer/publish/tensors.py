"""Tensors as bytes, the same ones for the same tensors, whatever the file is called."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from typing import Final

import safetensors.torch
import torch

from trainer.publish.backbone import Weights

_LENGTH: Final = struct.Struct("<Q")
_ALIGNMENT: Final = 8


def torch_bytes(weights: Weights) -> bytes:
    """`torch.save` of tensors alone; in memory, since it writes the name of a file into it."""
    content = io.BytesIO()
    torch.save(weights, content)
    return content.getvalue()


def safetensors_bytes(weights: Weights, metadata: dict[str, str]) -> bytes:
    """A `.safetensors` file; its header is sorted, which safetensors leaves to chance."""
    content = safetensors.torch.save({key: value.contiguous() for key, value in weights.items()}, metadata)
    (length,) = _LENGTH.unpack_from(content)
    end = _LENGTH.size + length
    header = json.dumps(json.loads(content[_LENGTH.size : end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return _LENGTH.pack(len(header)) + header + content[end:]


def hashed_name(stem: str, content: bytes, suffix: str) -> str:
    """With the first eight digits of the SHA-256 in it, which torch.hub compares."""
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}{suffix}"
