"""The demonstration that a published backbone transfers: its data, its detector, its errors, and all of it in small."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.samples import REPOSITORY
from trainer.errors import RunError, UsageError, run_command
from trainer.models import create_model
from trainer.publish.backbone import Backbone, Facts
from trainer.publish.detect_demo import first_detector, main
from trainer.publish.detection import training
from trainer.publish.detection.detector import read_published
from trainer.publish.detection.picture import are_right
from trainer.publish.detection.recipe import DetectionRecipe, load_detection_recipe
from trainer.publish.detection.scenes import SPLITS, STREAM, draw_background, make_scene, make_scenes
from trainer.publish.formats.base import Source
from trainer.publish.formats.native import FORMAT
from trainer.publish.golden import FILE, INPUT, make_golden, relative, write_golden
from trainer.publish.verify import CHECKSUMS, FACTS, LABELS, checksums
from trainer.recipe import ModelRecipe

SHIPPED = REPOSITORY / "recipes" / "detection" / "faster_rcnn.yaml"
SMALL = ["size=64", "classes=3", "train_images=4", "val_images=2", "steps=2", "warmup=1", "batch=2", "channels=16"]


def small_recipe(*overrides: str) -> DetectionRecipe:
    return load_detection_recipe(SHIPPED, [*SMALL, *overrides])


def write_publication(folder: Path, **model: Any) -> Path:
    """The native format alone, of a network that was not trained but has statistics of batch norm."""
    facts = Facts(
        **{"name": model["name"], "model": asdict(ModelRecipe(**model)), "num_classes": 3, "size": 64, "resize": 74},
        **{"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375), "step": 1, "samples": 8},
        **{"mean_image": False, "ema": False, "recalibrated": False},
        **{"data_digest": "0" * 64, "recipe": {}, "versions": {}},
    )
    torch.manual_seed(0)
    network = create_model(num_classes=3, **facts.model)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))
    backbone = Backbone(facts, ["a", "b", "c"], network.state_dict(), None, None)
    source = Source(backbone, make_golden(backbone), "apache-2.0")
    (folder / "native").mkdir(parents=True)
    FORMAT.write(source, folder / "native")
    write_golden(folder / FILE, source.golden)
    (folder / LABELS).write_text(json.dumps(backbone.labels))
    (folder / FACTS).write_text(json.dumps(asdict(facts)))
    (folder / CHECKSUMS).write_text(checksums(folder))
    return folder


@pytest.fixture(scope="module")
def publication(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_publication(tmp_path_factory.mktemp("published") / "resnet18", name="resnet18")


# ---------------------------------------------------------------------------------------------------------------- data


def test_a_scene_depends_on_its_seed_split_and_number_alone() -> None:
    few, many = (make_scenes(3, "val", count, size=96, classes=10) for count in (2, 4))
    for one, other in zip(few, many, strict=False):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.labels, other.labels)
    others = [make_scene(*key, size=96, classes=10) for key in ((4, "val", 0), (3, "train", 0), (3, "val", 1))]
    assert not any(torch.equal(few[0].image, other.image) for other in others)


def test_boxes_hold_the_objects_and_nothing_else() -> None:
    for index in range(30):
        scene = make_scene(0, "train", index, size=128, classes=4)
        rng = np.random.default_rng((STREAM, 0, SPLITS.index("train"), index))
        empty = torch.from_numpy(np.array(draw_background(128, rng))).permute(2, 0, 1)
        drawn = (scene.image != empty).any(0)
        assert scene.image.dtype == torch.uint8
        assert 1 <= len(scene.boxes) == len(scene.labels) <= 3
        assert all(1 <= label <= 4 for label in scene.labels.tolist())
        for left, top, right, bottom in scene.boxes.int().tolist():
            assert 0 <= left < right <= 128
            assert 0 <= top < bottom <= 128
            inside = drawn[top:bottom, left:right]
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            assert inside.float().mean() > 0.7  # an ellipse fills pi / 4 of its box
            drawn[top:bottom, left:right] = False
        assert not drawn.any()


def test_a_mirrored_scene_has_its_objects_in_its_boxes() -> None:
    scene = make_scene(0, "train", 1, size=128, classes=10)
    turned = training.mirrored(scene)
    for before, after in zip(scene.boxes.int().tolist(), turned.boxes.int().tolist(), strict=True):
        piece = scene.image[:, before[1] : before[3], before[0] : before[2]]
        assert torch.equal(turned.image[:, after[1] : after[3], after[0] : after[2]], piece.flip(2))
    assert torch.equal(training.mirrored(turned).boxes, scene.boxes)


# ------------------------------------------------------------------------------------------------------------ detector


@pytest.mark.parametrize(
    "model",
    [
        {"name": "resnet50", "stride_in": "1x1", "shortcut": "C"},
        {"name": "resnet18", "shortcut": "A", "stem_pool": "caffe"},
    ],
    ids=lambda model: "-".join(str(value) for value in model.values()),
)
def test_the_body_of_a_detector_gives_the_golden_features(model: dict[str, Any], tmp_path: Path) -> None:
    published = read_published(write_publication(tmp_path / "published", **model))
    detector = first_detector("published", published, small_recipe()).train()
    golden = np.load(published.folder / FILE)
    with torch.no_grad():
        features = detector.backbone.body(torch.from_numpy(golden[INPUT]))
    assert list(features) == ["0", "1", "2"]
    for stage, feature in zip(("layer2", "layer3", "layer4"), features.values(), strict=True):
        assert relative(feature.numpy(), golden[stage]) < 1e-5


def test_what_is_frozen_of_either_detector(publication: Path) -> None:
    published = read_published(publication)
    fine_tuned, scratch = (first_detector(start, published, small_recipe()) for start in ("published", "random"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fine_tuned.modules())
    still = {name.split(".")[0] for name, p in fine_tuned.backbone.body.named_parameters() if not p.requires_grad}
    assert still == {"conv1", "layer1"}
    assert any(isinstance(module, nn.BatchNorm2d) for module in scratch.modules())
    assert all(parameter.requires_grad for parameter in scratch.parameters())


def test_the_new_layers_of_both_detectors_are_equal(publication: Path) -> None:
    published = read_published(publication)
    states = [first_detector(start, published, small_recipe()).state_dict() for start in ("published", "random")]
    new = [name for name in states[0] if not name.startswith("backbone.body.")]
    assert new
    assert all(torch.equal(states[0][name], states[1][name]) for name in new)
    assert not torch.equal(*(state["backbone.body.conv1.weight"] for state in states))


# ------------------------------------------------------------------------------------------------------ the whole of it


@pytest.mark.parametrize("package", ["torchmetrics.detection.mean_ap", "pycocotools.cocoeval"])
def test_a_missing_package_is_told_before_the_work(
    package: str, publication: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"which is missing: pip install torchmetrics pycocotools$"):
        run_small(publication, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def run_small(publication: Path, out: Path, *overrides: str) -> int:
    return main([str(publication), *SMALL, *overrides, "--out", str(out), "--recipe", str(SHIPPED)])


def test_both_detectors_are_trained_and_measured(
    publication: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycocotools")
    pytest.importorskip("torchmetrics")
    assert run_small(publication, tmp_path / "new" / "out") == 0
    results = json.loads((tmp_path / "new" / "out" / "results.json").read_text())
    assert list(results["detectors"]) == ["published", "random"]
    for outcome in results["detectors"].values():
        assert len(outcome["losses"]) == 2
        assert all(math.isfinite(loss) for loss in outcome["losses"])
        assert 0 <= outcome["map"] <= outcome["map_50"] <= 1
    assert results["recipe"]["size"] == 64
    assert (tmp_path / "new" / "out" / "detections.png").read_bytes().startswith(b"\x89PNG")
    assert "AP50" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == ["detections.png", "results.json"]


def test_a_found_object_is_right_once() -> None:
    scene = replace(make_scene(0, "val", 0, size=64, classes=3), boxes=boxes(0, 40), labels=torch.tensor([1, 2]))
    found = {"boxes": boxes(1, 1, 41, 40, 20), "labels": torch.tensor([1, 1, 1, 2, 2]), "scores": torch.ones(5)}
    assert are_right(found, scene) == [True, False, False, True, False]
    assert are_right({key: value[:0] for key, value in found.items()}, scene) == []


def boxes(*lefts: float) -> Tensor:
    """20 pixels wide and high."""
    return torch.tensor([[left, 10.0, left + 20, 30.0] for left in lefts])


class Broken(nn.Module):
    """Its second loss is not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.calls += 1
        return {"loss": self.weight * (math.nan if self.calls == 2 else 1.0)}


def test_a_loss_that_is_not_finite_ends_it() -> None:
    recipe = small_recipe("steps=5")
    scenes = make_scenes(0, "train", 4, size=64, classes=3)
    with pytest.raises(RunError, match=r"^random: the loss of step 2 is nan; try a lower lr than 0\.\d+$"):
        training.fine_tune(Broken(), scenes, recipe, "random")


# ------------------------------------------------------------------------------------------------------ recipe, errors


def test_the_rate_rises_and_falls() -> None:
    recipe = small_recipe("steps=100", "warmup=10")
    rates = [training.rate(step, recipe) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepps=3", "override 'stepps=3': unknown key 'stepps' (did you mean 'steps'?)"),
        ("steps", "override 'steps': write key=value, e.g. seed=1"),
        ("steps=many", "override 'steps=many': steps: Value 'many' of type 'str' could not be converted to Integer"),
        ("size=100", f"{SHIPPED} with overrides: size is 100, expected a multiple of 32, two or more"),
        ("classes=11", f"{SHIPPED} with overrides: classes is 11, expected 1 to 10"),
        ("warmup=2", f"{SHIPPED} with overrides: warmup is 2, expected 0 or more, fewer than steps (2)"),
        ("lr=0", f"{SHIPPED} with overrides: lr is 0.0, expected a positive rate"),
    ],
)
def test_a_wrong_value_of_the_recipe(override: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        small_recipe(override)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps: 3\nseed: 1\n", "batch, channels, .* missing; .*has every key"),
        ("- 1\n", "a recipe is a mapping of keys to values"),
        ("steps: [\n", "cannot read the recipe"),
        (None, "cannot read the recipe: .*No such file"),
    ],
)
def test_a_recipe_that_is_none(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=f"mine.yaml: {message}"):
        load_detection_recipe(path)


@pytest.mark.parametrize(
    ("name", "message"), [("cifar_resnet20", "is one for CIFAR"), ("plain18", "is a plain one, the paper's baseline")]
)
def test_networks_that_no_detector_is_built_on(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{name} {message}.*; publish one of resnet18 to resnet152"):
        read_published(write_publication(tmp_path / "published", name=name))


def test_errors_are_one_line(publication: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools")
    pytest.importorskip("torchmetrics")
    (tmp_path / "file").write_text("")
    no_place = run_command(lambda: run_small(publication, tmp_path / "file" / "out"))
    no_publication = run_command(lambda: run_small(tmp_path, tmp_path / "out"))
    lines = capsys.readouterr().err.splitlines()
    assert (no_place, no_publication) == (2, 2)
    assert len(lines) == 2
    assert all(line.startswith("error: ") and line.count(str(tmp_path)) for line in lines)


def test_a_damaged_publication(tmp_path: Path) -> None:
    folder = write_publication(tmp_path / "published", name="resnet18")
    (weights,) = (folder / "native").iterdir()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UsageError, match="not what was written"):
        read_published(folder)


def test_a_publication_without_this_projects_format(tmp_path: Path) -> None:
    folder = write_publication(tmp_path / "published", name="resnet18")
    (weights,) = (folder / "native").iterdir()
    weights.unlink()
    (folder / CHECKSUMS).write_text(checksums(folder))
    with pytest.raises(UsageError, match=r"no format here|expected a publication with native"):
        read_published(folder)
