"""What networks cost, counted on the real ones, against the paper."""

from __future__ import annotations

import pytest

from trainer.plan.constants import DEVICES
from trainer.plan.network import network_cost
from trainer.plan.saved import Saved
from trainer.plan.speed import resnet50, speed_of
from trainer.recipe import ModelRecipe


@pytest.mark.parametrize(("depth", "flops"), [(18, 1.8e9), (34, 3.6e9), (50, 3.8e9), (101, 7.6e9), (152, 11.3e9)])
def test_multiply_adds_are_those_of_the_papers_table_1(depth: int, flops: float) -> None:
    assert network_cost(ModelRecipe(f"resnet{depth}"), 224, 1000).macs == pytest.approx(flops, rel=0.025)


def test_striding_in_the_3x3_convolution_costs_more() -> None:
    assert resnet50().macs == pytest.approx(4.1e9, rel=0.01)  # what everybody publishes of v1.5
    assert resnet50().parameters == 25_557_032  # torchvision's


def test_cost_goes_with_the_area_of_the_image() -> None:
    model = ModelRecipe("cifar_resnet20")
    small, large = network_cost(model, 32, 10), network_cost(model, 64, 10)
    assert large.macs == pytest.approx(4 * small.macs, rel=0.001)
    assert large.parameters == small.parameters
    assert large.layers == small.layers == 20 + 19  # no batch norm after the classifier; option A has no projection


# images/s that timm published for an RTX 3090, of which the table has only ResNet-50's (source: see `constants`).
@pytest.mark.parametrize(("depth", "published"), [(18, 3481.8), (34, 2036.5), (50, 1218.0), (101, 747.9), (152, 501.4)])
def test_the_rate_of_one_depth_foretells_that_of_others(depth: int, published: float) -> None:
    network = network_cost(ModelRecipe(f"resnet{depth}", stride_in="3x3"), 224, 1000)
    predicted = 1 / speed_of("rtx3090", network, "fp16", Saved()).image
    assert predicted == pytest.approx(published, rel=0.10)


@pytest.mark.parametrize("name", [name for name, device in DEVICES.items() if device.half])
def test_no_gpu_is_faster_than_its_data_sheet(name: str) -> None:
    device = DEVICES[name]
    assert device.half is not None
    assert 1 / speed_of(name, resnet50(), "fp16", Saved()).image < device.half / (6 * resnet50().macs)
