"""The published numbers, and what of a recipe is not the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.run_folders import CIFAR, evaluation, make_recipe, start, validation, write_evaluations, write_metrics
from tests.samples import REPOSITORY
from trainer.evaluation.protocols import TITLES
from trainer.recipe import ModelRecipe, load_recipe
from trainer.report.comparison import Measured, evaluated, measured
from trainer.report.paper import PAPER, published
from trainer.report.paper_recipe import STATED, differing, values
from trainer.report.runs import read_runs

RECIPES = REPOSITORY / "recipes"


TABLES = """
Table 2, ten-crop: plain18 27.94, resnet18-A 27.88
Table 3, ten-crop: plain34 28.54/10.02, resnet34-A 25.03/7.76, resnet34-B 24.52/7.46, resnet34-C 24.19/7.40
Table 3, ten-crop: resnet50 22.85/6.71, resnet101 21.75/6.05, resnet152 21.43/5.71
Table 4, multi-scale-dense: resnet34-B 21.84/5.71, resnet34-C 21.53/5.60
Table 4, multi-scale-dense: resnet50 20.74/5.25, resnet101 19.87/4.60, resnet152 19.38/4.49
Table 6, center: cifar_resnet20 8.75, cifar_resnet32 7.51, cifar_resnet44 7.17, cifar_resnet56 6.97
Table 6, center: cifar_resnet110 6.43, cifar_resnet1202 7.93
released models, center: resnet50 24.7/7.8, resnet101 23.6/7.1, resnet152 23.0/6.7
"""
"""As they are printed there: top-1 and, where it is given, top-5 error."""

PRINTED = [
    (source, protocol, *entry.split())
    for line in TABLES.split("\n")[1:-1]
    for source, protocol in [line.partition(": ")[0].split(", ")]
    for entry in line.partition(": ")[2].split(", ")
]


@pytest.mark.parametrize(("source", "protocol", "network", "errors"), PRINTED)
def test_published_errors(source: str, protocol: str, network: str, errors: str) -> None:
    model, _, shortcut = network.partition("-")
    found = published(ModelRecipe(model, shortcut or None), protocol)  # type: ignore[arg-type]
    assert found is not None
    top1, _, top5 = errors.partition("/")
    assert found == (float(top1), float(top5) if top5 else None, source)


def test_there_are_no_other_published_errors() -> None:
    printed = {(network.partition("-")[0], protocol) for _, protocol, network, _ in PRINTED}
    assert {(model, protocol) for model, _, protocol in PAPER} == printed
    assert len(PRINTED) == len(PAPER)


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


@pytest.mark.parametrize("override", ["schedule.warmup_lr=0.05", "schedule.warmup_until_error=0.7"])
def test_the_papers_warmup_is_known(override: str) -> None:
    assert differing(load_recipe(RECIPES / "cifar10" / "resnet110.yaml", [override])) == {override.partition("=")[0]}


@pytest.mark.parametrize(
    ("recipe", "title"),
    [
        ("imagenet/plain34.yaml", "plain34"),
        ("imagenet/resnet50.yaml", "resnet50, option B"),
        ("imagenet/fast/resnet50.yaml", "resnet50, option B, v1.5"),
        ("cifar10/resnet20.yaml", "cifar_resnet20, option A"),
        ("cifar10/ablations/resnet20_kernel5.yaml", "cifar_resnet20, option A, 5x5 kernels"),
        ("cifar10/ablations/resnet20_skip1.yaml", "cifar_resnet20, option A, shortcuts over 1 layer"),
        ("cifar10/ablations/plain56_bottleneck.yaml", "cifar_plain56, bottlenecks"),
    ],
)
def test_the_title_of_a_network_tells_it_from_the_papers(recipe: str, title: str) -> None:
    assert load_recipe(RECIPES / recipe).model.title == title


def test_a_budget_is_compared_in_iterations() -> None:
    cap = ["schedule.budget=119.8906ep"]
    assert "schedule.budget" not in differing(load_recipe(RECIPES / "imagenet" / "resnet50.yaml", cap))
    larger = ["optimizer.global_batch=256"]
    assert differing(load_recipe(RECIPES / "cifar10" / "resnet20.yaml", larger)) == {"optimizer.global_batch"}


PAPERS = ["model.name=resnet50", "data.normalize=mean_image", "batch_norm.recalibrate=true", "schedule.budget=600000it"]


class TestComparison:
    """Errors of evaluations beside the paper's."""

    @staticmethod
    def of(folder: Path, *lines: dict[str, object]) -> Measured:
        """The only evaluation of a run with the paper's budget."""
        make_recipe(folder, *PAPERS)
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
        assert found.view == "multi-scale, fully convolutional of 224, 288, averaged weights"
        assert found.notes == [
            "other shorter sides",
            "logits averaged",
            "no mirror images",
            "global pooling",
            "averaged weights",
            "not the validation data of training",
        ]

    def test_a_small_image_made_larger_is_another_view(self, tmp_path: Path) -> None:
        make_recipe(tmp_path / "run", *CIFAR, "model.name=cifar_resnet20")
        write_metrics(tmp_path / "run", start())
        more = {"images": 10_000, "samples": 64_000 * 128, "flip": False, "recalibrated": False}
        lines = [evaluation("center", 0.09, scales=[resize], **more) for resize in (32, 40)]
        lines.append(evaluation("multi-scale", 0.08, scales=[32, 40], **{**more, "flip": True}))
        write_evaluations(tmp_path / "run", *lines)
        plain, larger, several = measured(read_runs([tmp_path / "run"])[0])
        assert (plain.view, plain.notes) == ("the whole image", [])
        assert (larger.view, larger.notes) == ("centre crop 32 of 40", ["other shorter sides"])
        assert (several.view, several.paper) == ("multi-scale 10-crop 32 of 32, 40", None)

    @pytest.mark.parametrize(("flip", "notes"), [(True, ["logits averaged", "with mirror images"]), (False, [])])
    def test_one_view_has_nothing_to_average(self, tmp_path: Path, flip: bool, notes: list[str]) -> None:
        assert self.of(tmp_path / "run", evaluation("center", 0.25, score="logits", flip=flip)).notes == notes

    def test_a_recipe_that_is_not_the_papers_is_told_of(self, tmp_path: Path) -> None:
        make_recipe(tmp_path / "run", *CIFAR, "model.name=cifar_resnet20", "optimizer.momentum=0", "data.padding=2")
        write_metrics(tmp_path / "run", start(), validation(64_000 * 128, 0.09))
        (found,) = measured(read_runs([tmp_path / "run"])[0])
        assert found.notes == ["data.padding=2", "optimizer.momentum=0.0"]

    @pytest.mark.parametrize(
        ("recipe", "of_run"),
        [
            ("cifar10/resnet56.yaml", []),
            ("cifar10/ablations/resnet110_lr0.1.yaml", ["schedule.warmup_until_error=0.0"]),
            ("imagenet/paper_600k.yaml", ["data.normalize=channel", "precision=bf16"]),
            (
                "imagenet/resnet34.yaml",
                ["trained for 50.0% of the paper's budget", "data.normalize=channel", "precision=bf16"],
            ),
        ],
    )
    def test_what_of_a_shipped_recipe_is_not_the_papers(self, recipe: str, of_run: list[str]) -> None:
        loaded = load_recipe(RECIPES / recipe)
        protocol, images = ("center", 10_000) if loaded.model.is_cifar else ("ten-crop", 50_000)
        budget = loaded.samples(loaded.schedule.budget)
        line = evaluation(
            protocol, 0.1, images=images, samples=budget, scales=[loaded.evaluation.resize], recalibrated=True
        )
        found = evaluated(loaded, line)
        assert found.paper is not None
        assert found.of_run == of_run

    def test_the_papers_batch_norm_on_imagenet_is_recalibrated(self, tmp_path: Path) -> None:
        found = self.of(tmp_path / "run", evaluation("ten-crop", 0.23, recalibrated=False))
        assert "batch norm by moving averages" in found.notes
        found = self.of(tmp_path / "other", evaluation("ten-crop", 0.23, recalibrated=True))
        assert found.of_view == []

    def test_a_validation_is_an_evaluation_like_others(self, tmp_path: Path) -> None:
        make_recipe(tmp_path / "run", "model.name=resnet50", "evaluation.size=256", "evaluation.resize=293")
        write_metrics(tmp_path / "run", start(), validation(600_000 * 256, 0.25, images=50_000, recalibrated=True))
        (found,) = measured(read_runs([tmp_path / "run"])[0])
        assert found.of_view == ["other crops", "other shorter sides"]

    def test_crops_of_other_sizes_are_told_apart(self, tmp_path: Path) -> None:
        make_recipe(tmp_path / "run", *PAPERS)
        write_metrics(tmp_path / "run", start())
        lines = [evaluation("center", error, size=size) for size, error in ((224, 0.24), (256, 0.23))]
        write_evaluations(tmp_path / "run", *lines)
        found = measured(read_runs([tmp_path / "run"])[0])
        assert [("other crops" in one.notes, one.top1) for one in found] == [(False, 24.0), (True, 23.0)]

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
