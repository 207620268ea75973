"""Publications of random networks, made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.publish.checkpoints import write_checkpoint
from trainer.publish.command import publish
from trainer.publish.options import Options


@dataclass(frozen=True)
class Published:
    checkpoint: Path
    folder: Path


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """ResNet-18 in all formats."""
    root = tmp_path_factory.mktemp("resnet18")
    checkpoint = write_checkpoint(root, name="resnet18")
    publish(str(checkpoint), root / "out", Options())
    return Published(checkpoint, root / "out")


WITHOUT_ONNX = ("native", "torchvision", "timm", "transformers", "detectron2", "detectron2-msra", "mmdet")


@pytest.fixture(scope="session")
def resnet50_v1(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """ResNet-50 that strides in the 1x1 convolution, with the snippets that other consumers need for it."""
    root = tmp_path_factory.mktemp("resnet50_v1")
    checkpoint = write_checkpoint(root, name="resnet50")
    publish(str(checkpoint), root / "out", Options(formats=WITHOUT_ONNX, allow_v1_snippet=True))
    return Published(checkpoint, root / "out")


@pytest.fixture(scope="session")
def resnet50_v15(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """ResNet-50 that strides in the 3x3 convolution."""
    root = tmp_path_factory.mktemp("resnet50_v15")
    checkpoint = write_checkpoint(root, name="resnet50", stride_in="3x3")
    publish(str(checkpoint), root / "out", Options(formats=WITHOUT_ONNX))
    return Published(checkpoint, root / "out")
