"""`trainer publish`: what it writes, what it refuses, and that its check finds what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.trainers import can_mount, mounted
from tests.publish.checkpoints import CLASSES, random_network, write_checkpoint
from tests.publish.conftest import Published
from tests.samples import REPOSITORY
from tests.small import make_run
from trainer import checkpoint
from trainer.__main__ import main
from trainer.errors import RunError, UsageError
from trainer.publish import load_backbone
from trainer.publish.backbone import identity_projection, load_backbone_of
from trainer.publish.command import publish
from trainer.publish.formats import FORMATS
from trainer.publish.golden import INPUT, read_golden, relative
from trainer.publish.options import NAMES, Options, read_labels
from trainer.publish.tensors import safetensors_bytes
from trainer.publish.verify import CHECKSUMS, checksums, verify
from trainer.recipe import ModelRecipe
from trainer.trained import plain_names

# Names and bytes


def test_the_formats_are_those_of_the_command_line() -> None:
    assert tuple(FORMATS) == NAMES


def test_the_facts_are_of_the_crops_that_it_was_validated_with(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, name="resnet18")
    state = checkpoint.load(folder)
    state["recipe"]["evaluation"] |= {"size": 80, "resize": 96}
    checkpoint.write(tmp_path / "larger", state)
    facts = load_backbone_of(tmp_path / "larger", name=None, ema=False, labels=None).facts
    assert (facts.size, facts.resize) == (80, 96)


@given(wrappers=st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=3))
def test_names_are_those_of_the_network_alone(wrappers: list[str]) -> None:
    weights = {"conv1.weight": torch.zeros(1), "layer1.0.bn1.bias": torch.ones(1)}
    wrapped = {"".join(wrappers) + name: value for name, value in weights.items()}
    assert plain_names(wrapped) == weights


def test_the_same_tensors_are_the_same_bytes() -> None:
    """The header is sorted, and still what safetensors reads; the tensors begin where its format wants them."""
    from safetensors.torch import load

    weights = {"b": torch.arange(5.0), "a": torch.ones(2, 3)}
    metadata = {name: name for name in "qwertyuiop"}
    content = safetensors_bytes(weights, metadata)
    assert content == safetensors_bytes(dict(reversed(weights.items())), dict(reversed(metadata.items())))
    (length,) = struct.unpack_from("<Q", content)
    assert length % 8 == 0
    assert list(json.loads(content[8 : 8 + length])) == ["__metadata__", "a", "b"]
    assert all(torch.equal(value, weights[name]) for name, value in load(content).items())


def test_a_projection_can_be_the_identity_bit_for_bit() -> None:
    network = random_network(ModelRecipe(name="resnet18", shortcut="A"), 2, seed=0)
    block = network.layer2[0]
    weights = identity_projection("p", block)
    convolution = torch.nn.Conv2d(64, 128, 1, stride=2, bias=False)
    projection = torch.nn.Sequential(convolution, torch.nn.BatchNorm2d(128)).eval()
    projection.load_state_dict({name.removeprefix("p."): value for name, value in weights.items()})
    x = torch.randn(1, 64, 9, 9)
    with torch.no_grad():
        assert torch.equal(projection(x), block.downsample(x))


# What is written


def test_a_publication_has_everything(resnet18: Published) -> None:
    folder = resnet18.folder
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    name = "resnet18-stride3x3-shortcutB"
    assert {"README.md", "SHA256SUMS", "golden.npz", "labels.json", "publication.json"} <= found
    assert {"timm/config.json", "timm/model.safetensors"} <= found
    assert {
        "transformers/config.json",
        "transformers/model.safetensors",
        "transformers/preprocessor_config.json",
    } <= found
    assert {f"detectron2/{name}-rgb.pkl", f"detectron2-msra/{name}-bgr.pkl", f"onnx/{name}-rgb.onnx"} <= found
    assert {"detectron2/config.yaml", "detectron2-msra/config.yaml", "mmdet/config.py"} <= found
    assert json.loads((folder / "labels.json").read_text()) == CLASSES
    assert not list(folder.parent.glob(".*partial"))
    listed = {line.split("  ")[1] for line in (folder / CHECKSUMS).read_text().splitlines()}
    assert found - listed == {CHECKSUMS}  # the check has left nothing
    onnx = (folder / "onnx" / f"{name}-rgb.onnx").read_bytes()
    assert b".py" not in onnx  # no places of this machine
    assert str(REPOSITORY).encode() not in onnx


def test_the_same_checkpoint_gives_the_same_bytes(resnet18: Published, tmp_path: Path) -> None:
    publish(str(resnet18.checkpoint), tmp_path / "again", Options())
    again = set((tmp_path / "again" / CHECKSUMS).read_text().splitlines())
    assert again == set((resnet18.folder / CHECKSUMS).read_text().splitlines())


def test_the_card_is_what_a_hub_reads(resnet50_v1: Published) -> None:
    card = ModelCard.load(resnet50_v1.folder / "README.md")
    assert card.data.library_name == "timm"
    assert {"stride-1x1", "shortcut-B"} <= set(card.data.tags)
    assert "stride in the 3x3 (torchvision's and timm's" in card.text.replace("\n", " ")
    assert "Not evaluated." in card.text
    assert "RGB" in card.text


def test_the_card_has_the_errors_and_the_curve_of_its_run(tmp_path: Path) -> None:
    make_run(tmp_path).train()
    options = Options(formats=("native",), labels=("ant", "bee"), license="mit")
    publish(str(tmp_path / "run"), tmp_path / "out", options)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    (top1, top5) = card.data.eval_results
    assert top1.metric_name == "top-1 accuracy, while training: the whole image"
    assert f"| 16 | {100 - 100 * top1.metric_value:.2f} | {100 - 100 * top5.metric_value:.2f} | 8.75 |" in card.text
    assert card.data.license == "mit"
    assert (tmp_path / "out" / "training.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in card.text


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        ({"name": "resnet50"}, {"torchvision": "strides in the 3x3", "timm": "strides in the 3x3"}),
        ({"name": "resnet18", "shortcut": "C"}, dict.fromkeys(NAMES[1:-1], "projections")),
        ({"name": "plain18"}, dict.fromkeys(NAMES[1:-1], "without shortcuts")),
        ({"name": "resnet18", "stem_pool": "caffe"}, dict.fromkeys(NAMES[1:-1], "pads the stem's pooling")),
        ({"name": "resnet34", "mean_image": True}, dict.fromkeys(NAMES[1:-1], "with a mean image")),
        ({"name": "cifar_resnet20"}, dict.fromkeys(NAMES[1:-1], "no network for images of 16 pixels")),
    ],
)
def test_a_network_that_a_consumer_would_run_as_another_is_not_written_for_it(
    tmp_path: Path, model: dict[str, Any], refused: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_checkpoint(tmp_path, **model)
    for name, reason in refused.items():
        with pytest.raises(UsageError, match=f"--formats {name}: .*{reason}"):
            publish(str(path), tmp_path / "out", Options(formats=(name,)))
    if model["name"] != "resnet50":  # all: those that can hold it, and why not the others
        publish(str(path), tmp_path / "out", Options(formats=("native",)))
        network = load_backbone(tmp_path / "out")
        golden = read_golden(tmp_path / "out" / "golden.npz")
        with torch.no_grad():
            found = network.forward_features(torch.from_numpy(golden[INPUT])).numpy()
        last = max(stage for stage in golden if stage.startswith("layer"))
        assert relative(found, golden[last]) < 1e-6
    assert "native" in capsys.readouterr().out or model["name"] == "resnet50"


def test_all_leaves_out_what_would_be_wrong_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_checkpoint(tmp_path, name="plain18")
    assert main(["publish", str(path), str(tmp_path / "out"), "--name", "mine"]) == 0
    out = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["native", "onnx"]
    for name in NAMES[1:-1]:
        assert f"{name}: not written: " in out
    assert list((tmp_path / "out" / "native").glob("mine-stride3x3-shortcutnone-rgb-*.safetensors"))


# The check


def test_a_changed_file_is_named(resnet18: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(resnet18.folder, folder)
    content = bytearray((folder / "timm" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "timm" / "model.safetensors").write_bytes(content)
    assert main(["publish", "--verify", str(folder)]) == 2
    assert "timm/model.safetensors: not what was written" in capsys.readouterr().err
    (folder / "timm" / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"model\.safetensors: missing"):
        verify(folder)


def test_weights_that_give_other_features_fail(
    resnet18: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(
        resnet18.folder, folder, ignore=shutil.ignore_patterns("timm", "transformers", "onnx", "detectron2*")
    )
    (file,) = (folder / "torchvision").glob("*.pth")
    weights = torch.load(file, weights_only=True)
    weights["layer3.0.conv1.weight"] *= 1.01
    torch.save(weights, file)
    (file,) = (folder / "mmdet").glob("*.pth")
    weights = torch.load(file, weights_only=True)
    del weights["layer1.0.conv1.weight"]
    torch.save(weights, file)
    (folder / CHECKSUMS).write_text(checksums(folder))
    assert main(["publish", "--verify", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert "torchvision, mmdet failed" in err
    assert "layer" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("layer1.0.conv1.weight"), "Missing key.*layer1.0.conv1.weight"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "Unexpected key.*extra"),
        (lambda weights: weights.update({"conv1.weight": torch.zeros(1)}), "size mismatch.*conv1.weight"),
    ],
)
def test_a_backbone_is_loaded_strictly(resnet18: Published, tmp_path: Path, change: object, message: str) -> None:
    from safetensors import safe_open

    (file,) = (resnet18.folder / "native").glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dict)
    change(weights)  # type: ignore[operator]
    (tmp_path / "changed.safetensors").write_bytes(safetensors_bytes(weights, metadata))
    with pytest.raises(UsageError, match=message):
        load_backbone(tmp_path / "changed.safetensors")
    assert load_backbone(file).num_classes == 0
    assert load_backbone(resnet18.folder).num_features == 512


def test_what_is_no_publication_has_no_backbone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a publication"):
        load_backbone(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(UsageError, match="cannot read it"):
        load_backbone(tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="no SHA256SUMS here"):
        verify(tmp_path)


def test_what_a_consumer_raises_does_not_hide_the_others(
    resnet18: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(resnet18.folder, folder, ignore=shutil.ignore_patterns("transformers", "onnx", "detectron2-msra"))
    (file,) = (folder / "torchvision").glob("*.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, file)
    (file,) = (folder / "detectron2").glob("*.pkl")
    file.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    (folder / CHECKSUMS).write_text(checksums(folder))
    assert main(["publish", "--verify", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert "torchvision, detectron2 failed" in err
    assert "system" in out
    assert "mmdet" in out


def test_what_is_not_listed_or_damaged_is_named(resnet18: Published, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(resnet18.folder, folder, ignore=shutil.ignore_patterns("t*", "onnx", "detectron2*", "mmdet"))
    (folder / CHECKSUMS).write_text(checksums(folder))
    (folder / "native" / "more.txt").write_text("")
    with pytest.raises(UsageError, match=r"more\.txt: not in SHA256SUMS"):
        verify(folder)
    (folder / "native" / "more.txt").unlink()
    (folder / "golden.npz").write_bytes(b"PK" * 50)
    (folder / CHECKSUMS).write_text(checksums(folder))
    with pytest.raises(UsageError, match="cannot read the golden outputs"):
        verify(folder)
    (folder / CHECKSUMS).write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="no SHA256SUMS here"):
        verify(folder)


# What is refused


def test_wrong_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["x", "y", "--formats", "torchvison"], "'torchvison' is not a format (did you mean 'torchvision'?)"),
        (["x", "y", "--formats", ","], "expected some of all, native"),
        (["x", "y", "--name", "a/b"], "--name 'a/b'"),
        (["x", "y", "--ema", "yes"], "--ema: 'yes'"),
        (["x"], "give CHECKPOINT and OUT_DIR"),
        (["x", "y", "--verify", "z"], "--verify checks a folder"),
        (["x", str(tmp_path / "a" / "b")], "cannot write into"),
        (["x", str(tmp_path / "out")], "x: no such checkpoint"),
    ):
        assert main(["publish", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, name="cifar_resnet20")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="full: not empty"):
        publish(str(path), tmp_path / "full", Options(formats=("native",)))
    (tmp_path / "empty").mkdir()
    publish(str(path), tmp_path / "empty", Options(formats=("native",)))


def test_a_checkpoint_that_is_damaged_or_diverged_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, name="cifar_resnet20")
    state = checkpoint.load(path)
    with open(path / "state.pt", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(UsageError, match="damaged"):
        publish(str(path), tmp_path / "out", Options())
    state["model"]["fc.bias"][0] = float("nan")
    checkpoint.write(tmp_path / "diverged", state)
    with pytest.raises(UsageError, match=r"fc\.bias is not finite"):
        publish(str(tmp_path / "diverged"), tmp_path / "out", Options())
    assert not (tmp_path / "out").exists()


def test_classes_without_names_need_a_list_of_them(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, name="cifar_resnet20", classes=["0", "1", "2"])
    with pytest.raises(UsageError, match=r"its classes have no names.*--labels FILE"):
        publish(str(path), tmp_path / "out", Options(formats=("native",)))
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\n")
    with pytest.raises(UsageError, match="--labels has 2 names"):
        publish(str(path), tmp_path / "out", Options(formats=("native",), labels=read_labels(names)))
    names.write_text("red\ngreen\nred\n")
    with pytest.raises(UsageError, match="'red' a second time"):
        read_labels(names)
    names.write_text("red\ngreen\nblue\n")
    publish(str(path), tmp_path / "out", Options(formats=("native",), labels=read_labels(names)))
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == ["red", "green", "blue"]


def test_the_moving_average_of_the_weights_is_published_if_wanted(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, name="cifar_resnet20")
    state = checkpoint.load(path)
    average = random_network(ModelRecipe(name="cifar_resnet20"), len(CLASSES), seed=7).state_dict()
    state["ema"] = {"model": {f"module.{key}": value for key, value in average.items()}, "batch_norm_of_ranks": None}
    checkpoint.write(tmp_path / "with", state)
    publish(str(tmp_path / "with"), tmp_path / "out", Options(formats=("native",), ema=True))
    assert torch.equal(load_backbone(tmp_path / "out").conv1.weight, average["conv1.weight"])
    with pytest.raises(UsageError, match="no moving average"):
        publish(str(path), tmp_path / "none", Options(formats=("native",), ema=True))


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, name="resnet18")
    with mounted(tmp_path / "disk", "size=60m") as disk:
        with pytest.raises(RunError, match="cannot write it: No space left"):
            publish(str(path), disk / "out", Options(formats=("native", "torchvision", "timm")))
        assert os.listdir(disk) == []


def test_the_mean_image_goes_with_the_network_that_needs_it(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, name="cifar_resnet20")
    state = checkpoint.load(path)
    state["mean_image"] = torch.full((16, 16, 3), 7.0)
    checkpoint.write(tmp_path / "with", state)
    publish(str(tmp_path / "with"), tmp_path / "out", Options(formats=("native",)))
    golden = read_golden(tmp_path / "out" / "golden.npz")
    assert np.array_equal(golden[INPUT], golden["images"].transpose(0, 3, 1, 2) - np.float32(7))
    assert load_backbone(tmp_path / "out").num_features == 64
