"""The formats of a publication, one module for each consumer."""

from __future__ import annotations

from trainer.publish.formats import detectron2, detectron2_msra, mmdet, native, onnx, timm, torchvision, transformers
from trainer.publish.formats.base import Check, Format, NotInstalled, Publication, Source

FORMATS: dict[str, Format] = {
    found.name: found
    for found in (
        native.FORMAT,
        torchvision.FORMAT,
        timm.FORMAT,
        transformers.FORMAT,
        detectron2.FORMAT,
        detectron2_msra.FORMAT,
        mmdet.FORMAT,
        onnx.FORMAT,
    )
}

__all__ = ["FORMATS", "Check", "Format", "NotInstalled", "Publication", "Source"]
