"""What was published, as real packages load it: the same features, or no load at all."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from tests.publish.checkpoints import CLASSES, SIZE, write_checkpoint
from tests.publish.conftest import Published
from tests.samples import REPOSITORY
from trainer.publish.backbone import Facts
from trainer.publish.command import publish
from trainer.publish.formats import detectron2, detectron2_msra, mmdet, transformers
from trainer.publish.formats import timm as timm_format
from trainer.publish.formats import torchvision as torchvision_format
from trainer.publish.formats.torchvision import run_snippet
from trainer.publish.golden import INPUT, LOGITS, read_golden, relative
from trainer.publish.options import Options
from trainer.publish.verify import read_publication


def golden_of(published: Published) -> dict[str, Any]:
    return read_golden(published.folder / "golden.npz")


def facts_of(published: Published) -> Facts:
    return read_publication(published.folder).facts


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


# torchvision


@pytest.mark.parametrize("network", ["resnet18", "resnet50_v15"])
def test_torchvision_loads_it_strictly(network: str, request: pytest.FixtureRequest) -> None:
    published: Published = request.getfixturevalue(network)
    file = only(published.folder / "torchvision", "*.pth")
    arch, stride, shortcut, order, digest = file.stem.rsplit("-", 4)
    assert (arch, stride, shortcut, order) == (network[:8], "stride3x3", "shortcutB", "rgb")
    assert hashlib.sha256(file.read_bytes()).hexdigest().startswith(digest)  # as torch.hub compares
    model = torchvision.models.get_model(arch, weights=None, num_classes=len(CLASSES)).eval()
    weights = torch.load(file, weights_only=True)
    assert list(weights) == list(model.state_dict())
    model.load_state_dict(weights)
    golden = golden_of(published)
    with torch.no_grad():
        assert relative(model(torch.from_numpy(golden[INPUT])).numpy(), golden[LOGITS]) < 1e-6


@pytest.mark.parametrize("network", ["resnet18", "resnet50_v15"])
def test_a_detector_of_torchvision_trains_on_it(network: str, request: pytest.FixtureRequest) -> None:
    published: Published = request.getfixturevalue(network)
    weights = torch.load(only(published.folder / "torchvision", "*.pth"), weights_only=True)
    body = {key: value for key, value in weights.items() if not key.startswith("fc.")}
    backbone = resnet_fpn_backbone(backbone_name=network[:8], weights=None, trainable_layers=3)
    frozen = {key: value for key, value in body.items() if "num_batches_tracked" not in key}
    backbone.body.load_state_dict(frozen)
    assert any(isinstance(module, FrozenBatchNorm2d) for module in backbone.body.modules())
    golden = golden_of(published)
    with torch.no_grad():
        features = backbone.body(torch.from_numpy(golden[INPUT]))
    for number, found in enumerate(features.values(), start=1):
        assert relative(found.numpy(), golden[f"layer{number}"]) < 1e-5
    detector = FasterRCNN(backbone, num_classes=3, min_size=96, max_size=128)
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=1e-3)
    images = [torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    targets = [{"boxes": torch.tensor([[10.0, 20.0, 50.0, 70.0]]), "labels": torch.tensor([1])} for _ in images]
    for _ in range(3):
        loss = sum(detector(images, targets).values())
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = detector.eval()(images)
    assert set(found[0]) == {"boxes", "labels", "scores"}


def test_torchvisions_own_network_is_wrong_with_v1_without_a_word(resnet50_v1: Published) -> None:
    """Why it is refused: every key matches, and only the golden outputs tell."""
    folder, golden = resnet50_v1.folder / "torchvision", golden_of(resnet50_v1)
    file = only(folder, "*.pth")
    assert "stride1x1" in file.name
    model = torchvision.models.resnet50(weights=None, num_classes=len(CLASSES)).eval()
    model.load_state_dict(torch.load(file, weights_only=True))
    snippet = torchvision_format.snippet(facts_of(resnet50_v1), file.name)
    right = run_snippet(folder / torchvision_format.SNIPPET, snippet).resnet50(str(file)).eval()
    with torch.no_grad():
        pixels = torch.from_numpy(golden[INPUT])
        assert relative(model(pixels).numpy(), golden[LOGITS]) > 0.05
        assert relative(right(pixels).numpy(), golden[LOGITS]) < 1e-6


# timm


@pytest.mark.parametrize("network", ["resnet18", "resnet50_v15"])
def test_timm_loads_it_from_a_folder(network: str, request: pytest.FixtureRequest) -> None:
    published: Published = request.getfixturevalue(network)
    folder, golden = published.folder / "timm", golden_of(published)
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = cast(Any, timm.data).resolve_model_data_config(model)
    assert tuple(config["input_size"]) == (3, SIZE, SIZE)
    assert config["crop_pct"] == pytest.approx(SIZE / (SIZE + 8))
    assert list(config["mean"]) == pytest.approx([0.485, 0.456, 0.406])
    assert json.loads((folder / "config.json").read_text())["label_names"] == CLASSES
    with torch.no_grad():
        assert relative(model(torch.from_numpy(golden[INPUT])).numpy(), golden[LOGITS]) < 1e-6
    features: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    with torch.no_grad():
        stages = features(torch.from_numpy(golden[INPUT]))[1:]
    for number, found in enumerate(stages, start=1):
        assert relative(found.numpy(), golden[f"layer{number}"]) < 1e-6


def test_timm_loads_v1_once_the_snippet_has_registered_it(resnet50_v1: Published) -> None:
    folder, golden = resnet50_v1.folder / "timm", golden_of(resnet50_v1)
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "resnet50_stride_in_1x1"
    run_snippet(folder / timm_format.SNIPPET, timm_format.snippet(facts_of(resnet50_v1)))
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert relative(model(torch.from_numpy(golden[INPUT])).numpy(), golden[LOGITS]) < 1e-6


# transformers


@pytest.mark.parametrize("network", ["resnet18", "resnet50_v1", "resnet50_v15"])
def test_transformers_loads_it_with_either_stride(network: str, request: pytest.FixtureRequest) -> None:
    package = pytest.importorskip("transformers")
    published: Published = request.getfixturevalue(network)
    folder, golden = published.folder / "transformers", golden_of(published)
    model, info = package.ResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.downsample_in_bottleneck == (network == "resnet50_v1")
    assert list(model.config.id2label.values()) == CLASSES
    pixels = torch.from_numpy(golden[INPUT])
    with torch.no_grad():
        assert relative(model.eval()(pixels).logits.numpy(), golden[LOGITS]) < 1e-6
    names = ["stage1", "stage2", "stage3", "stage4"]
    backbone = package.ResNetBackbone.from_pretrained(folder, out_features=names).eval()
    with torch.no_grad():
        features = backbone(pixels).feature_maps
    for number, found in enumerate(features, start=1):
        assert relative(found.numpy(), golden[f"layer{number}"]) < 1e-6


def test_transformers_prepares_images_as_the_network_was_validated(resnet18: Published) -> None:
    package = pytest.importorskip("transformers")
    processor = package.AutoImageProcessor.from_pretrained(resnet18.folder / "transformers")
    image = np.full((100, 90, 3), (10, 100, 200), np.uint8)
    found = processor(images=image, return_tensors="pt")["pixel_values"]
    assert found.shape == (1, 3, SIZE, SIZE)
    wanted = (np.array([10, 100, 200]) - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    assert found[0, :, 5, 5].numpy() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("network", ["resnet50_v1", "resnet50_v15"])
def test_a_detector_of_transformers_takes_its_backbone(network: str, request: pytest.FixtureRequest) -> None:
    package = pytest.importorskip("transformers")
    published: Published = request.getfixturevalue(network)
    folder = published.folder / "transformers"
    backbone = package.ResNetBackbone.from_pretrained(folder, out_features=["stage4"])
    sizes: dict[str, Any] = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    sizes |= {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = package.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone.config,
        num_queries=5,
        **sizes,
    )
    detector = package.DetrForObjectDetection(config)
    holder = next(module for module in detector.modules() if type(module).__name__ == "ResNetBackbone")
    keys = holder.load_state_dict(
        {key: value for key, value in backbone.state_dict().items() if "num_batches_tracked" not in key}, strict=False
    )
    assert not keys.unexpected_keys
    assert all("num_batches_tracked" in key for key in keys.missing_keys)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}] * 2
    golden = golden_of(published)
    with torch.no_grad():
        (features,) = holder.eval()(torch.from_numpy(golden[INPUT])).feature_maps
    assert relative(features.numpy(), golden["layer4"]) < 1e-5
    loss = detector.train()(pixel_values=torch.from_numpy(golden[INPUT]), labels=labels).loss
    assert torch.isfinite(loss)


# ONNX


def test_onnx_runs_any_batch_and_size(resnet18: Published) -> None:
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    file = only(resnet18.folder / "onnx", "*.onnx")
    properties = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert (properties["stride"], properties["shortcut"], properties["channel_order"]) == ("3x3", "B", "RGB")
    session, golden = runtime.InferenceSession(file), golden_of(resnet18)
    (found,) = session.run(None, {"images": golden[INPUT]})
    assert relative(found, golden[LOGITS]) < 2e-5
    (found,) = session.run(None, {"images": np.zeros((3, 3, 96, 80), np.float32)})
    assert found.shape == (3, len(CLASSES))


# detectron2 and mmdetection: their names and their arithmetic


def test_names_of_detectron2() -> None:
    names = {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.downsample.0.weight": "res2.0.shortcut.weight",
        "layer1.0.downsample.1.bias": "res2.0.shortcut.norm.bias",
        "layer3.5.conv2.weight": "res4.5.conv2.weight",
        "layer4.2.bn3.running_mean": "res5.2.conv3.norm.running_mean",
    }
    assert {key: detectron2.renamed(key) for key in names} == names


@pytest.mark.parametrize(
    ("network", "blocks", "convolutions"),
    [("resnet18", (2, 2, 2, 2), 2), ("resnet50_v1", (3, 4, 6, 3), 3)],
)
def test_all_names_of_detectron2(
    network: str, blocks: tuple[int, ...], convolutions: int, request: pytest.FixtureRequest
) -> None:
    published: Published = request.getfixturevalue(network)
    with open(only(published.folder / "detectron2", "*.pkl"), "rb") as file:
        found = set(pickle.load(file)["model"])
    layers = ["stem.conv1"]
    for stage, count in zip(("res2", "res3", "res4", "res5"), blocks, strict=True):
        layers += [f"{stage}.{b}.conv{c}" for b in range(count) for c in range(1, convolutions + 1)]
        layers += [f"{stage}.0.shortcut"] if stage != "res2" or convolutions == 3 else []
    norm = ("weight", "bias", "running_mean", "running_var")
    assert found == {f"{x}.weight" for x in layers} | {f"{x}.norm.{y}" for x in layers for y in norm}


@pytest.mark.parametrize("network", ["resnet18", "resnet50_v1", "resnet50_v15"])
def test_the_python_of_the_card_runs(network: str, request: pytest.FixtureRequest) -> None:
    """Every block as it stands there, in the publication's folder, one process for all."""
    published: Published = request.getfixturevalue(network)
    text = (published.folder / "README.md").read_text().partition("## Use")[2].partition("## Limits")[0]
    program = "import torch\nimages = torch.zeros(1, 3, 64, 64)\n"
    for section in text.split("### ")[1:]:
        name, _, rest = section.partition("\n")
        if name in ("native", "torchvision", "timm", "transformers"):
            program += "".join(line[4:] + "\n" for line in rest.splitlines() if line.startswith("    "))
    program += "assert torch.isfinite(detector.eval()([images[0]])[0]['scores']).all()\n"
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=published.folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


def test_names_of_transformers() -> None:
    names = {
        "conv1.weight": "resnet.embedder.embedder.convolution.weight",
        "bn1.bias": "resnet.embedder.embedder.normalization.bias",
        "layer1.0.downsample.0.weight": "resnet.encoder.stages.0.layers.0.shortcut.convolution.weight",
        "layer2.0.downsample.1.weight": "resnet.encoder.stages.1.layers.0.shortcut.normalization.weight",
        "layer4.2.conv3.weight": "resnet.encoder.stages.3.layers.2.layer.2.convolution.weight",
        "layer4.2.bn1.running_var": "resnet.encoder.stages.3.layers.2.layer.0.normalization.running_var",
        "fc.bias": "classifier.1.bias",
    }
    assert {key: transformers.renamed(key) for key in names} == names


def test_a_pickle_for_detectron2_holds_arrays_and_what_its_checkpointer_asks_for(resnet50_v1: Published) -> None:
    with open(only(resnet50_v1.folder / "detectron2", "*.pkl"), "rb") as file:
        content = pickle.load(file)
    assert content.pop("matching_heuristics") is True
    assert content.pop("__author__").startswith("imagenet-trainer")
    arrays = content.pop("model")
    assert not content
    assert all(type(array) is np.ndarray and array.dtype == np.float32 for array in arrays.values())
    assert len(arrays) == 53 * 5  # convolutions, each with four arrays of its norm; no classifier
    text = (resnet50_v1.folder / "detectron2" / "config.yaml").read_text()
    for line in ("STRIDE_IN_1X1: True", 'FORMAT: "RGB"', "PIXEL_STD: [58.395, 57.12, 57.375]", "DEPTH: 50"):
        assert line in text
    assert "RES2_OUT_CHANNELS" not in text


def test_the_fold_gives_bgr_without_a_standard_deviation_the_same_features() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 3, 7, 7, generator=generator)
    rgb = torch.rand(2, 3, 32, 32, generator=generator) * 255
    mean, std = torch.tensor([120.0, 110.0, 100.0]).view(3, 1, 1), torch.tensor([60.0, 50.0, 40.0]).view(3, 1, 1)
    wanted = nn.functional.conv2d((rgb - mean) / std, weight, padding=3)
    folded = detectron2_msra.folded({"conv1.weight": weight}, (60.0, 50.0, 40.0))["conv1.weight"]
    found = nn.functional.conv2d((rgb - mean).flip(1), folded, padding=3)
    assert relative(found.numpy(), wanted.numpy()) < 1e-6
    wrong_order = nn.functional.conv2d(rgb - mean, folded, padding=3)
    assert relative(wrong_order.numpy(), wanted.numpy()) > 0.1


def test_the_configuration_for_bgr_is_detectron2s_default(resnet50_v1: Published) -> None:
    folder = resnet50_v1.folder / "detectron2-msra"
    text = (folder / "config.yaml").read_text()
    for line in ('FORMAT: "BGR"', "PIXEL_MEAN: [103.53, 116.28, 123.675]", "PIXEL_STD: [1, 1, 1]"):
        assert line in text
    assert only(folder, "*.pkl").name == "resnet50-stride1x1-shortcutB-bgr.pkl"


@pytest.mark.parametrize(("network", "style"), [("resnet50_v1", "caffe"), ("resnet50_v15", "pytorch")])
def test_mmdetection_is_told_the_style(network: str, style: str, request: pytest.FixtureRequest) -> None:
    published: Published = request.getfixturevalue(network)
    folder = published.folder / "mmdet"
    weights = torch.load(only(folder, "*.pth"), weights_only=True)
    assert {"conv1.weight", "layer1.0.downsample.0.weight", "layer4.2.bn3.running_var"} <= set(weights)
    namespace: dict[str, Any] = {}
    exec((folder / mmdet.SNIPPET).read_text(), namespace)
    backbone = namespace["model"]["backbone"]
    assert (backbone["depth"], backbone["style"]) == (50, style)
    assert backbone["init_cfg"] == {"type": "Pretrained", "checkpoint": only(folder, "*.pth").name}
    assert namespace["model"]["data_preprocessor"]["bgr_to_rgb"] is True


# Options of the paper that consumers do not have


def test_option_a_is_written_as_the_projections_that_do_the_same(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, name="resnet18", shortcut="A")
    publish(str(checkpoint), tmp_path / "out", Options(formats=("torchvision", "detectron2")))
    file = only(tmp_path / "out" / "torchvision", "*.pth")
    assert "shortcutA" in file.name
    model = torchvision.models.resnet18(weights=None, num_classes=len(CLASSES)).eval()
    model.load_state_dict(torch.load(file, weights_only=True))
    golden = read_golden(tmp_path / "out" / "golden.npz")
    with torch.no_grad():
        assert np.array_equal(model(torch.from_numpy(golden[INPUT])).numpy(), golden[LOGITS])
