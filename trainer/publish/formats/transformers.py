"""transformers: `config.json`, `model.safetensors` and `preprocessor_config.json` of its ResNet.

It has both strides, as `downsample_in_bottleneck`. Written without the package: it is large, and only names change.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from trainer.models.resnet import BLOCKS_PER_STAGE
from trainer.publish.backbone import Facts, Weights
from trainer.publish.formats.base import Check, Format, Publication, Source, check_stages, package, refuse_unlike
from trainer.publish.golden import IMAGES
from trainer.publish.tensors import safetensors_bytes

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
STAGES = {f"layer{number}": f"resnet.encoder.stages.{number - 1}" for number in range(1, 5)}
_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR

_RENAMED = (
    (r"^conv1\.", "resnet.embedder.embedder.convolution."),
    (r"^bn1\.", "resnet.embedder.embedder.normalization."),
    (r"^fc\.", "classifier.1."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
    (r"^layer(\d)\.(\d+)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
    (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
)


def renamed(key: str) -> str:
    """transformers' name of a weight."""
    for pattern, name in _RENAMED:
        key = re.sub(pattern, name, key)
    return key


def write(source: Source, folder: Path) -> None:
    facts = source.backbone.facts
    weights: Weights = {renamed(key): value for key, value in source.backbone.projected().items()}
    (folder / WEIGHTS).write_bytes(safetensors_bytes(weights, {**facts.metadata(), "format": "pt"}))
    widths = [64, 128, 256, 512]
    config = {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": [width * (4 if facts.bottleneck else 1) for width in widths],
        "depths": list(BLOCKS_PER_STAGE[facts.depth]),
        "layer_type": "bottleneck" if facts.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": facts.is_v1,
        "problem_type": "single_label_classification",
        "id2label": {str(number): label for number, label in enumerate(source.backbone.labels)},
        "label2id": {label: number for number, label in enumerate(source.backbone.labels)},
        "dtype": "float32",
        "he2015": {"stride": facts.stride, "shortcut": facts.shortcut, "channel_order": "RGB"},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / PREPROCESSOR).write_text(json.dumps(preprocessor(facts), indent=2) + "\n")


def preprocessor(facts: Facts) -> dict[str, object]:
    """Resize the shorter side, crop the centre, to [0, 1], normalise. The defaults of the package are others."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": facts.resize},
        "resample": _BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": facts.size, "width": facts.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": facts.unit_mean,
        "image_std": facts.unit_std,
    }


def check(folder: Path, publication: Publication) -> Check:
    transformers = package("transformers")
    transformers.utils.logging.disable_progress_bar()
    network, info = transformers.ResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    images = list(publication.golden[IMAGES])
    prepared = processor(images=images, do_resize=False, do_center_crop=False, return_tensors="pt")
    outputs = check_stages(network, STAGES, "classifier", prepared["pixel_values"])
    missing = sorted(info["missing_keys"]) + sorted(map(str, info.get("mismatched_keys", ())))
    return Check(f"transformers {transformers.__version__}", outputs, missing, sorted(info["unexpected_keys"]))


def usage(facts: Facts, file: str) -> str:
    return """    from transformers import AutoImageProcessor, ResNetBackbone, ResNetForImageClassification

    processor = AutoImageProcessor.from_pretrained("transformers")
    model = ResNetForImageClassification.from_pretrained("transformers")
    backbone = ResNetBackbone.from_pretrained("transformers", out_features=["stage2", "stage3", "stage4"])
"""


FORMAT = Format("transformers", refuse_unlike("transformers"), write, check, usage)
