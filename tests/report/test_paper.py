"""The published numbers, and what of a recipe is not the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.run_folders import CIFAR, evaluation, make_recipe, start, validation, write_evaluations, write_metrics
from tests.samples import REPOSITORY
from trainer.evaluation.protocols import TITLES
from trainer.recipe import ModelRecipe, load_recipe
from trainer.report.comparison import Measured, measured
from trainer.report.paper import published
from trainer.report.paper_recipe import STATED, differing, values
from trainer.report.runs import read_runs

RECIPES = REPOSITORY / "recipes"


@pytest.mark.parametrize(
    ("model", "shortcut", "protocol", "top1", "top5"),
    [
        ("plain34", None, "ten-crop", 28.54, 10.02),
        ("resnet18", "A", "ten-crop", 27.88, None),
        ("resnet34", None, "ten-crop", 24.52, 7.46),  # None is the paper's choice, B
        ("resnet34", "C", "multi-scale-dense", 21.53, 5.60),
        ("resnet50", "B", "center", 24.7, 7.8),
        ("cifar_resnet110", None, "center", 6.43, None),
    ],
)
def test_published_errors(model: str, shortcut: str | None, protocol: str, top1: float, top5: float | None) -> None:
    found = published(ModelRecipe(model, shortcut), protocol)  # type: ignore[arg-type]
    assert found is not None
    assert (found.top1, found.top5) == (top1, top5)


@pytest.mark.parametrize(
    ("model", "shortcut", "protocol"),
    [
        ("resnet18", "B", "ten-crop"),
        ("resnet50", "B", "multi-scale"),  # Table 4 is fully convolutional
        ("resnet50", "A", "ten-crop"),
        ("cifar_plain20", None, "center"),
        ("cifar_resnet20", "B", "center"),
        ("cifar_resnet20", None, "ten-crop"),
    ],
)
def test_what_was_not_published_has_no_number(model: str, shortcut: str | None, protocol: str) -> None:
    assert protocol in TITLES
    assert published(ModelRecipe(model, shortcut), protocol) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [{"kernel": 5}, {"skip": 1}, {"block": "bottleneck"}, {"dropout": 0.2}])
def test_a_network_of_other_blocks_is_not_the_papers(other: dict[str, Any]) -> None:
    assert published(ModelRecipe("cifar_resnet56"), "center") is not None
    assert published(ModelRecipe("cifar_resnet56", **other), "center") is None


def test_every_key_with_a_value_of_the_paper_is_one_of_the_recipe() -> None:
    assert STATED.keys() <= values(load_recipe(RECIPES / "quickstart.yaml")).keys()


def test_the_recipes_differ_from_the_paper_where_they_say_so() -> None:
    imagenet = {"precision", "model.stem_pool", "data.normalize", "schedule.budget"}
    assert differing(load_recipe(RECIPES / "imagenet" / "resnet50.yaml")) == imagenet
    assert differing(load_recipe(RECIPES / "imagenet" / "plain34.yaml")) == imagenet
    assert differing(load_recipe(RECIPES / "imagenet" / "paper_600k.yaml")) == imagenet - {"schedule.budget"}
    assert differing(load_recipe(RECIPES / "cifar10" / "resnet20.yaml")) == set()
    assert differing(load_recipe(RECIPES / "cifar10" / "resnet110.yaml")) == set()
    ablations = RECIPES / "cifar10" / "ablations"
    assert differing(load_recipe(ablations / "resnet56_bottleneck.yaml")) == {"model.block"}
    assert differing(load_recipe(ablations / "resnet20_kernel5.yaml")) == {"model.kernel"}
    growing = {"data.size", "data.first_size", "data.crop", "optimizer.label_smoothing", "optimizer.ema"}
    fast = differing(load_recipe(RECIPES / "imagenet" / "fast" / "resnet50.yaml"))
    assert growing | {"evaluation.size", "evaluation.resize", "schedule.kind", "schedule.warmup"} < fast


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("optimizer.lr=0.05", "optimizer.lr"),
        ("model.shortcut=B", "model.shortcut"),
        ("schedule.milestones=[32000it]", "schedule.milestones"),
        ("schedule.budget=64001it", "schedule.budget"),
        ("data.padding=2", "data.padding"),
    ],
)
def test_a_changed_value_differs(override: str, key: str) -> None:
    assert differing(load_recipe(RECIPES / "cifar10" / "resnet20.yaml", [override])) == {key}


@pytest.mark.parametrize(
    "override",
    [
        "evaluation.size=32",  # the whole image, as in training
        "data.min_side=200",  # of crops of another kind
        "model.stride_in=3x3",  # there are no bottlenecks
        "log.every=7it",
        "seed=3",
        "schedule.milestones=[48000it,32000it]",
    ],
)
def test_what_has_no_effect_or_is_not_stated_does_not_differ(override: str) -> None:
    assert differing(load_recipe(RECIPES / "cifar10" / "resnet20.yaml", [override])) == set()


def test_a_budget_is_compared_in_iterations() -> None:
    cap = ["schedule.budget=119.8906ep"]
    assert "schedule.budget" not in differing(load_recipe(RECIPES / "imagenet" / "resnet50.yaml", cap))
    larger = ["optimizer.global_batch=256"]
    assert differing(load_recipe(RECIPES / "cifar10" / "resnet20.yaml", larger)) == {"optimizer.global_batch"}


class TestComparison:
    """Errors of evaluations beside the paper's."""

    @staticmethod
    def of(folder: Path, *lines: dict[str, object]) -> Measured:
        """The only evaluation of a run with the paper's budget."""
        make_recipe(folder, "model.name=resnet50", "schedule.budget=600000it")
        write_metrics(folder, start())
        write_evaluations(folder, *lines)
        (found,) = measured(read_runs([folder])[0])
        return found

    def test_differences_are_in_points(self, tmp_path: Path) -> None:
        found = self.of(tmp_path / "run", evaluation("ten-crop", 0.2300))
        assert found.paper is not None
        assert found.paper.source == "Table 3"
        assert found.top1_difference == pytest.approx(0.15)
        assert found.top5_difference == pytest.approx(-0.96)
        assert found.top1_interval == pytest.approx((22.7, 23.3))
        assert found.notes == []

    def test_a_shorter_training_is_told_of(self, tmp_path: Path) -> None:
        found = self.of(tmp_path / "run", evaluation("ten-crop", 0.23, samples=300_274 * 256))
        assert found.notes == ["trained for 50.0% of the paper's budget"]

    def test_other_data_have_no_difference(self, tmp_path: Path) -> None:
        found = self.of(tmp_path / "run", evaluation("ten-crop", 0.23, images=500))
        assert found.top1_difference is None
        assert found.notes == ["other data: 500 images, the paper's 50,000"]

    def test_other_ways_to_evaluate_are_told_of(self, tmp_path: Path) -> None:
        other = {"scales": [224, 288], "score": "logits", "pool": "global", "flip": False, "ema": True}
        found = self.of(tmp_path / "run", evaluation("multi-scale-dense", 0.2, data_digest="0" * 64, **other))
        assert found.view == "multi-scale, fully convolutional, averaged weights"
        assert found.notes == [
            "shorter side 224, 288",
            "logits averaged",
            "no mirror images",
            "global pooling",
            "averaged weights",
            "not the validation data of training",
        ]

    def test_crops_of_other_sizes_are_told_apart(self, tmp_path: Path) -> None:
        make_recipe(tmp_path / "run", "model.name=resnet50", "schedule.budget=600000it")
        write_metrics(tmp_path / "run", start())
        lines = [evaluation("center", error, size=size) for size, error in ((224, 0.24), (256, 0.23))]
        write_evaluations(tmp_path / "run", *lines)
        found = measured(read_runs([tmp_path / "run"])[0])
        assert [("crops of 256" in one.notes, one.top1) for one in found] == [(False, 24.0), (True, 23.0)]

    def test_of_two_evaluations_of_one_kind_the_newer_one_counts(self, tmp_path: Path) -> None:
        assert self.of(tmp_path / "run", evaluation("center", 0.3), evaluation("center", 0.2)).top1 == 20.0

    def test_a_validation_of_its_own_size_is_called_so(self, tmp_path: Path) -> None:
        sizes = ["data.size=192", "data.crop=rrc", "evaluation.size=256", "evaluation.resize=293"]
        make_recipe(tmp_path / "run", "model.name=resnet50", *sizes)
        write_metrics(tmp_path / "run", start(), validation(256, 0.9))
        (found,) = measured(read_runs([tmp_path / "run"])[0])
        assert found.view == "while training: centre crop 256 of 293"

    def test_the_validation_of_training_counts_too(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        make_recipe(folder, *CIFAR, "model.name=cifar_resnet20", "model.shortcut=B")
        write_metrics(folder, start(), validation(64_000 * 128, 0.09))
        (found,) = measured(read_runs([folder])[0])
        assert (found.view, found.step, found.top1) == ("while training: the whole image", 64_000, 9.0)
        assert found.paper is None  # of option B
