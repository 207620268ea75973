"""Figure 7: the standard deviation of each 3x3 layer's output after batch norm, before the nonlinearity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from tests.ranks import on_ranks
from tests.samples import in_order, smooth_image, write_beton
from tests.small import make_run
from trainer import checkpoint
from trainer.__main__ import main
from trainer.data.beton import Beton
from trainer.data.colour import IMAGENET, Preprocess
from trainer.data.crops import CenterCrop
from trainer.data.loader import Loader
from trainer.data.order import Request, evaluation_ids
from trainer.errors import RunError, UsageError
from trainer.models import create_model
from trainer.responses import Response, layer_responses, measure_responses, response_layers

CPU = torch.device("cpu")


def make_network(name: str) -> nn.Module:
    """A network in evaluation mode whose statistics, scales and shifts differ from layer to layer."""
    torch.manual_seed(0)
    model = create_model(name, 5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values, std=0.2)
    return model.eval()


def measure(name: str, beton: Path, batch: int, rank: int = 0, world_size: int = 1) -> list[Response]:
    loader = Loader(Beton(beton), CenterCrop(32, 36), CPU, threads=1)
    images = len(loader.beton)
    ids = evaluation_ids(images, rank, world_size)
    requests = [Request(np.zeros_like(part), part) for part in np.split(ids, range(batch, len(ids), batch))]
    return measure_responses(make_network(name), loader, requests, Preprocess(IMAGENET), images)


def measure_directly(name: str, beton: Path) -> dict[str, float]:
    """All outputs of the layers kept, and the standard deviation of each."""
    model, preprocess = make_network(name), Preprocess(IMAGENET)
    outputs: dict[str, list[torch.Tensor]] = {}

    def keep(layer: str) -> None:
        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            outputs.setdefault(layer, []).append(output.detach().clone())

        convolution = model.get_submodule(layer)
        if isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (3, 3):
            model.get_submodule(layer.replace("conv", "bn")).register_forward_hook(hook)

    for layer, _ in model.named_modules():
        if layer.rpartition(".")[2].startswith("conv"):
            keep(layer)
    loader = Loader(Beton(beton), CenterCrop(32, 36), CPU, threads=1)
    with torch.no_grad():
        for batch in loader.load(in_order(len(loader.beton), 16)):
            model(preprocess(batch.images, batch.colour))
    return {layer: float(torch.cat(parts).double().std(correction=0)) for layer, parts in outputs.items()}


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """A run of four steps."""
    make_run(tmp_path).train()
    _forget_accelerator()
    yield tmp_path / "run"
    _forget_accelerator()


def _forget_accelerator() -> None:
    AcceleratorState._reset_state(True)
    PartialState._reset_state()


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [
        ("cifar_resnet20", ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1"], 19),
        ("cifar_plain56", ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1"], 55),
        ("resnet18", ["layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1"], 16),  # its stem is 7x7
        ("plain34", ["layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1"], 32),
        ("resnet50", ["layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2", "layer2.0.conv2"], 16),
    ],
)
def test_the_layers_are_the_3x3_convolutions_in_order_of_depth(name: str, first: list[str], count: int) -> None:
    with torch.device("meta"):
        names = [layer for layer, _ in response_layers(create_model(name, 10))]
    assert names[: len(first)] == first
    assert len(names) == count


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_plain20", "resnet50"])
def test_responses_are_those_of_a_direct_computation(photos: Path, name: str) -> None:
    found = {response.name: response.std for response in measure(name, photos, 16)}
    assert found == pytest.approx(measure_directly(name, photos), rel=1e-9)


def test_the_batch_does_not_matter(photos: Path) -> None:
    whole, parts = measure("cifar_resnet20", photos, 64), measure("cifar_resnet20", photos, 7)
    assert [response.std for response in parts] == pytest.approx([response.std for response in whole], rel=1e-6)


def measure_on_rank(rank: int, beton: Path) -> list[Response]:
    return measure("cifar_resnet20", beton, 7, rank, 2)


def test_ranks_are_combined_and_see_every_image_once(photos: Path) -> None:
    alone = measure("cifar_resnet20", photos, 40)
    for found in on_ranks(2, measure_on_rank, photos):
        assert [response.name for response in found] == [response.name for response in alone]
        assert [response.std for response in found] == pytest.approx([r.std for r in alone], rel=1e-6)


def test_no_hook_stays_behind(photos: Path) -> None:
    model = make_network("cifar_resnet20")
    loader = Loader(Beton(photos), CenterCrop(32, 36), CPU, threads=1)
    measure_responses(model, loader, in_order(40, 40), Preprocess(IMAGENET), 40)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_that_diverged_is_an_error_that_names_the_layer(photos: Path) -> None:
    model = make_network("cifar_resnet20")
    model.get_submodule("layer1.0.bn2").weight.data[0] = torch.nan
    loader = Loader(Beton(photos), CenterCrop(32, 36), CPU, threads=1)
    with pytest.raises(RunError, match=r"layer1\.0\.conv2: its responses are not finite"):
        measure_responses(model, loader, in_order(40, 40), Preprocess(IMAGENET), 40)


def test_they_are_written_to_the_run_folder_and_printed(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run_dir.parent / "val.beton"
    assert main(["responses", str(run_dir), "--data", str(data)]) == 0
    written = json.loads((run_dir / "responses.json").read_text())
    assert written["step"] == 4
    assert written["samples"] == 32
    assert written["data"] == str(data)
    assert written["data_digest"] == checkpoint.load(run_dir)["val_digest"]
    assert written["images"] == 16
    assert len(written["layers"]) == 19
    assert written["layers"][0].keys() == {"name", "std"}
    printed = capsys.readouterr().out
    assert f"{written['layers'][3]['std']:.4f}" in printed
    assert "mean" in printed
    assert "19 of 19 convolutions are 3x3" in printed


def test_those_of_the_averaged_weights_are_others_and_say_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, "optimizer.ema=0.5")
    run.train()
    folder, out = run.recipe.run_dir, tmp_path / "responses.json"
    found = {}
    for ema in ("true", "false"):
        _forget_accelerator()
        arguments = ["responses", str(folder), "--data", f"{tmp_path}/val.beton", "--ema", ema, "--out", str(out)]
        assert main(arguments) == 0
        found[ema] = json.loads(out.read_text())
    assert [found[ema]["ema"] for ema in ("true", "false")] == [True, False]
    _forget_accelerator()
    assert found["true"]["layers"] != found["false"]["layers"]


def test_some_images_are_spread_over_the_file(run_dir: Path, tmp_path: Path) -> None:
    spread = [smooth_image(16, 16, seed) for seed in (0, 4, 8, 12)]
    chosen = write_beton(tmp_path / "chosen.beton", spread, [0, 1, 0, 1])
    out = tmp_path / "responses.json"
    found = layer_responses(str(run_dir), str(tmp_path / "val.beton"), images=4, out=out)
    assert json.loads(out.read_text())["images"] == 4
    assert not (run_dir / "responses.json").exists()
    assert found == layer_responses(str(run_dir), str(chosen), out=out)


def test_a_checkpoint_outside_of_a_run_folder_needs_out(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir / "checkpoints" / "step-00000004", tmp_path / "copy")
    data = str(tmp_path / "val.beton")
    with pytest.raises(UsageError, match=r"copy/state.pt: not in a run folder; .*--out"):
        layer_responses(str(tmp_path / "copy"), data)
    layer_responses(str(tmp_path / "copy"), data, out=tmp_path / "found.json")
    assert (tmp_path / "found.json").exists()


def test_what_cannot_be_measured_is_refused(run_dir: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "val.beton")
    for images in (0, 17):
        with pytest.raises(UsageError, match=f"--images is {images}, expected 1 to 16"):
            layer_responses(str(run_dir), data, images=images)
    with pytest.raises(UsageError, match=r"cannot write into .*missing: No such file"):
        layer_responses(str(run_dir), data, out=tmp_path / "missing" / "found.json")
    other = write_beton(tmp_path / "other.beton", [smooth_image(16, 16, 0)], [7])
    with pytest.raises(UsageError, match="labels up to 7"):
        layer_responses(str(run_dir), str(other))


@pytest.mark.parametrize("link", ["last", "step-00000004", "last/state.pt"])
def test_the_run_folder_of_a_checkpoint_is_found_through_links(run_dir: Path, link: str) -> None:
    file = checkpoint.find(run_dir / "checkpoints" / link)
    assert checkpoint.run_dir_of(file) == run_dir.resolve()
