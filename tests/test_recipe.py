"""Recipes: what they say, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import UsageError
from trainer.models import MODEL_NAMES
from trainer.models.cifar import BLOCKS, KERNELS, SKIPS
from trainer.models.resnet import DROPOUT_PLACES, INITS, SHORTCUTS, STEM_POOLS, STRIDES_IN
from trainer.recipe import (
    IMAGENET_SAMPLES,
    INDIFFERENT_KEYS,
    ModelRecipe,
    Recipe,
    differences,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
    samples_of,
)
from trainer.report.paper import PAPER


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text("optimizer:\n  lr: 0.2\n  momentum: 0.5\nmodel:\n  name: resnet34\n")
    path = tmp_path / "mine.yaml"
    path.write_text("extends: base.yaml\noptimizer:\n  lr: 0.3\n")
    return path


def test_a_recipe_builds_on_what_it_extends_and_overrides_have_the_last_word(recipe_file: Path) -> None:
    recipe = load_recipe(
        recipe_file, ["optimizer.weight_decay=1e-3", "schedule.milestones=[30ep,50ep]", "model.shortcut=A"]
    )
    assert (recipe.model.name, recipe.optimizer.momentum, recipe.optimizer.lr) == ("resnet34", 0.5, 0.3)
    assert recipe.optimizer.weight_decay == 0.001
    assert recipe.schedule.milestones == ["30ep", "50ep"]
    assert recipe.model.shortcut == "A"
    assert recipe.name == "mine"
    assert recipe.run_dir == Path("runs/mine")


def test_a_run_folder_is_a_recipe_too(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "recipe.yaml").write_text(recipe.to_yaml())
    again = load_recipe(tmp_path / "moved")
    assert again.run_dir == tmp_path / "moved"
    assert differences(recipe, again) == {}
    assert recipe_from_dict(recipe_to_dict(recipe), "checkpoint") == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.lr=1", r"unknown key 'optimiser' \(did you mean 'optimizer'\?\)"),
        ("lr=1", r"unknown key 'lr' \(did you mean 'optimizer.lr'\?\)"),
        ("optimizer.lrr=1", r"unknown key 'optimizer.lrr' \(did you mean 'lr'\?\)"),
        ("optimizer.lr=fast", "optimizer.lr: Value 'fast'"),
        ("optimizer.lr=-1", "optimizer.lr is -1.0, expected a positive rate"),
        ("model.shortcut=D", r"model.shortcut: Invalid value 'D', expected one of \['A', 'B', 'C'\]"),
        ("optimizer=3", "optimizer is a group of keys"),
        ("schedule.budget=60", "schedule.budget: '60' is no amount of training: write e.g. 60ep"),
        ("schedule.budget=0it", "expected more than nothing"),
        ("optimizer.micro_batch=33", r"expected a divisor of optimizer.global_batch \(256\)"),
        ("optimizer.ema=1", r"optimizer.ema is 1.0, expected a number in \[0, 1\)"),
        ("optimizer.ema=.nan", "optimizer.ema is nan"),
        ("batch_norm.images=0", "batch_norm.images is 0, expected a positive number of images"),
        ("batch_norm.recalibrate=3x", "batch_norm.recalibrate: Value '3x'"),
        ("data.size=2.5", "data.size: Value '2.5'"),
        ("data.first_size=-32", r"data.first_size is -32, expected 0 \(off\) or a number of pixels up to data.size"),
        ("data.first_size=256", r"data.first_size is 256, .* up to data.size \(224\)"),
        ("data.first_size=160", r"data.ramp is \[\], expected two amounts such as \[6ep, 13ep\] with data.first_size"),
        ("data.ramp=[6ep,13ep]", r"data.ramp is .*, and none without it"),
        ("data.ramp=[6]", "data.ramp is"),
        ("evaluation.size=-1", "evaluation.size is -1"),
        ("evaluation.size=288", r"evaluation.resize is 256, expected at least evaluation.size \(288\)"),
        ("evaluation.resize=200", r"evaluation.resize is 200, expected at least data.size \(224\)"),
        ("optimizer.label_smoothing=1", r"optimizer.label_smoothing is 1.0, expected a number in \[0, 1\)"),
        ("data.min_side=200", r"data.min_side is 200, expected at least data.size \(224\)"),
        ("data.crop=rcc", r"data.crop: Invalid value 'rcc', expected one of \['scale', 'rrc', 'padded'\]"),
        (
            "data.rrc_scale=[0,1]",
            r"data.rrc_scale is \[0.0, 1.0\], expected two areas \[smallest, largest\] in \(0, 1\]",
        ),
        ("data.rrc_scale=[0.5,1.5]", "data.rrc_scale is"),
        ("data.rrc_scale=[0.08]", "data.rrc_scale is"),
        ("data.rrc_scale=0.08", "data.rrc_scale"),
        ("data.rrc_scale=[.nan,1]", "data.rrc_scale is"),
        ("data.rrc_ratio=[2,1]", r"data.rrc_ratio is \[2.0, 1.0\], expected two ratios of width to height"),
        ("data.rrc_ratio=[1,.inf]", "data.rrc_ratio is"),
        ("data.order=sorted", r"data.order: Invalid value 'sorted', expected one of \['random', 'chunked'\]"),
        ("data.chunk_mb=0", "data.chunk_mb is 0, expected a number of MiB"),
        ("data.window=0", "data.window is 0, expected a number of chunks"),
        ("data.read_ahead=-1", r"data.read_ahead is -1, expected 0 \(off\)"),
        ("data.on_error=ignore", r"data.on_error: Invalid value 'ignore', expected one of \['stop', 'skip'\]"),
        ("data.engine=dali", r"data.engine: Invalid value 'dali', expected one of \['native', 'ffcv'\]"),
        ("schedule.kind=step", "schedule.milestones is"),
        ("schedule.warmup_until_error=1", r"schedule.warmup_until_error is 1.0, expected 0 \(off\) or"),
        ("schedule.warmup_until_error=.nan", "schedule.warmup_until_error is nan"),
        ("schedule.warmup_until_error=0.8", "schedule.warmup_lr is 0.0, expected a positive rate up to optimizer.lr"),
        ("model.kernel=4", r"model.kernel: Invalid value '4', expected one of \[1, 3, 5\]"),
        ("model.skip=0", r"model.skip: Invalid value '0', expected one of \[1, 2, 3\]"),
        ("model.block=bottle", r"model.block: Invalid value 'bottle', expected one of \['basic', 'bottleneck'\]"),
        ("model.dropout=1", r"model.dropout is 1.0, expected a probability in \[0, 1\)"),
        ("model.dropout=.nan", "model.dropout is nan"),
        ("model.dropout_at=softmax", "model.dropout_at: Invalid value 'softmax', expected one of"),
        ("seed=null", "seed: Incompatible value"),
        ("lr", "write key=value"),
        ("optimizer.lr=[1", "override 'optimizer.lr=\\[1'"),
        ("name=a/b", "name is a/b"),
        ("name=..", "name is .."),
        ("name=${nope}", "nope"),
        ("seed=-1", "seed is -1"),
        ("optimizer.lr=.inf", "optimizer.lr is inf"),
        ("checkpoint.minutes=-1", r"checkpoint.minutes is -1.0, expected 0 \(never\) or a number of minutes"),
        ("checkpoint.minutes=.inf", "checkpoint.minutes is inf"),
        ("checkpoint.minutes=.nan", "checkpoint.minutes is nan"),
        ("checkpoint.minutes=1h", "checkpoint.minutes: Value '1h'"),
        ("checkpoint.keep=0", "checkpoint.keep is 0, expected at least one"),
        ("trainer.deterministic=maybe", "trainer.deterministic: Value 'maybe'"),
        ("trainer.max_hours=-0.5", r"trainer.max_hours is -0.5, expected 0 \(no limit\) or a number of hours"),
        ("trainer.max_hours=.inf", "trainer.max_hours is inf"),
        ("trainer.max_hours=.nan", "trainer.max_hours is nan"),
        ("trainer.stop_grace=0", "trainer.stop_grace is 0.0, expected a positive number of seconds"),
        ("trainer.stop_grace=.inf", "trainer.stop_grace is inf"),
        ("trainer.stop_grace=.nan", "trainer.stop_grace is nan"),
        ("trainer.timeout=0.9", r"trainer.timeout is 0.9, expected a number of seconds in \[1, 10\*\*6\)"),
        ("trainer.timeout=1000000", "trainer.timeout is 1000000.0"),
        ("trainer.timeout=.nan", "trainer.timeout is nan"),
        ("trainer.on_nonfinite=ignore", "trainer.on_nonfinite: Invalid value 'ignore', expected one of"),
        ("trainer.max_nonfinite=-1", "trainer.max_nonfinite is -1, expected 0 or more steps"),
        ("trainer.max_nonfinite=1.5", "trainer.max_nonfinite: Value '1.5'"),
        ("trainer.grace=3", "unknown key 'trainer.grace'"),
        ("stop_grace=3", r"unknown key 'stop_grace' \(did you mean 'trainer.stop_grace'\?\)"),
        ("resume.alow=[seed]", r"unknown key 'resume.alow' \(did you mean 'allow'\?\)"),
        ("resume.allow=[optimizer.rl]", r"resume.allow: unknown key 'optimizer.rl' \(did you mean 'optimizer.lr'\?\)"),
        ("resume.allow=[seed,schedule]", r"resume.allow: unknown key 'schedule' \(did you mean 'schedule"),
        ("resume.allow=seed", "resume.allow"),
        ("resume.allow=[[seed]]", r"resume.allow: unknown key '\['seed'\]'"),
    ],
)
def test_bad_overrides_are_refused_in_one_line(recipe_file: Path, override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        load_recipe(recipe_file, [override])
    assert "\n" not in str(refused.value)


def test_a_list_is_asked_for_in_our_words(recipe_file: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.ramp: expected a list, e\.g\. \[6ep, 13ep\]"):
        load_recipe(recipe_file, ["data.ramp=foo"])


def test_a_list_of_recipes_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "table.yaml").write_text("runs: [a.yaml, b.yaml]\n")
    with pytest.raises(UsageError, match=r"table\.yaml: is a list of recipes: python -m trainer sweep"):
        load_recipe(tmp_path / "table.yaml")


def test_keys_that_do_not_go_together_are_refused(recipe_file: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.on_error is skip, expected stop: data\.engine=ffcv cannot replace"):
        load_recipe(recipe_file, ["data.engine=ffcv", "data.on_error=skip"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.ramp=[6ep]"], r"data\.ramp is \['6ep'\], expected two amounts"),
        (["data.ramp=[6ep,13]"], "data.ramp: '13' is no amount of training"),
        (["data.ramp=[13ep,6ep]"], r"data\.ramp is .*, expected two amounts in order, up to schedule\.budget"),
        (["data.ramp=[6ep,13ep]", "schedule.budget=12ep"], r"up to schedule\.budget \(12ep\)"),
        (["data.ramp=[6ep,13ep]", "data.crop=padded"], "data.crop is padded, expected scale or rrc"),
        (["data.ramp=[6ep,13ep]", "data.normalize=mean_image"], "data.normalize is mean_image, expected channel"),
        (["data.ramp=[6ep,13ep]", "data.engine=ffcv"], "data.engine is ffcv, expected native"),
    ],
)
def test_crops_grow_in_order_within_the_run_and_where_they_can(
    recipe_file: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(recipe_file, ["data.first_size=160", *overrides])


def test_crops_may_grow_at_once(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["data.first_size=160", "data.ramp=[0ep,60ep]", "schedule.budget=60ep"])
    assert recipe.crop_sizes == "160 to 224"


def test_a_mean_image_is_subtracted_from_the_crops_of_training_alone(recipe_file: Path) -> None:
    options = ["data.normalize=mean_image", "evaluation.size=192"]
    with pytest.raises(UsageError, match=r"evaluation\.size is 192, expected 0 or data\.size \(224\) with data"):
        load_recipe(recipe_file, options)


def test_validation_is_of_the_trainings_size_unless_it_has_its_own(recipe_file: Path) -> None:
    assert load_recipe(recipe_file).validation_size == 224
    assert load_recipe(recipe_file, ["evaluation.size=192"]).validation_size == 192


def test_a_warm_up_has_one_end(recipe_file: Path) -> None:
    until = ["schedule.warmup_until_error=0.8", "schedule.warmup_lr=0.01"]
    assert load_recipe(recipe_file, until).schedule.warmup_until_error == 0.8
    with pytest.raises(UsageError, match=r"schedule\.warmup is 5it, expected 0it with schedule\.warmup_until_error"):
        load_recipe(recipe_file, [*until, "schedule.warmup=5it"])
    with pytest.raises(UsageError, match=r"schedule\.warmup_lr is 0\.5, .* up to optimizer\.lr \(0\.3\)"):
        load_recipe(recipe_file, [*until, "schedule.warmup_lr=0.5"])


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "resnet50.yaml").write_text("modle: {}\n")
    with pytest.raises(UsageError, match=r"resnet5\.yaml: no such recipe \(did you mean '.*resnet50\.yaml'\?\)"):
        load_recipe(tmp_path / "resnet5.yaml")
    with pytest.raises(UsageError, match=r"resnet50\.yaml: unknown key 'modle' \(did you mean 'model'\?\)"):
        load_recipe(tmp_path / "resnet50.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(UsageError, match=r"broken\.yaml: cannot read the recipe"):
        load_recipe(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UsageError, match="a mapping of keys"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "number.yaml").write_text("extends: 3\n")
    with pytest.raises(UsageError, match="extends is 3"):
        load_recipe(tmp_path / "number.yaml")
    (tmp_path / "loop.yaml").write_text("extends: loop.yaml\n")
    with pytest.raises(UsageError, match="extends itself"):
        load_recipe(tmp_path / "loop.yaml")


def test_amounts_are_counted_in_samples() -> None:
    assert samples_of("60ep", 256) == 300_274 * 256  # T1: 300,274 iterations
    assert samples_of("600000it", 256) == 600_000 * 256
    assert samples_of("0.5ep", 1) == -(-IMAGENET_SAMPLES // 2)


@given(epochs=st.floats(0.01, 200), batch=st.integers(1, 10_000))
def test_an_amount_is_whole_iterations_and_not_less_than_asked_for(epochs: float, batch: int) -> None:
    samples = samples_of(f"{epochs:.6f}ep", batch)
    assert samples % batch == 0
    assert 0 <= samples - float(f"{epochs:.6f}") * IMAGENET_SAMPLES < batch + 1


def test_changes_that_do_not_matter_are_no_differences(recipe_file: Path) -> None:
    old = load_recipe(recipe_file)
    assert differences(old, load_recipe(recipe_file, ["data.threads=7", "log.every=1it"])) == {}
    assert differences(old, load_recipe(recipe_file, ["data.read_ahead=0", "data.on_error=skip"])) == {}
    assert differences(old, load_recipe(recipe_file, ["data.engine=ffcv"])) == {}
    assert differences(old, load_recipe(recipe_file, ["data.window=9"])) == {"data.window": "data.window: 64 -> 9"}
    assert differences(old, load_recipe(recipe_file, ["optimizer.lr=1", "seed=4", "model.shortcut=C"])) == {
        "seed": "seed: 0 -> 4",
        "model.shortcut": "model.shortcut: None -> C",
        "optimizer.lr": "optimizer.lr: 0.3 -> 1.0",
    }
    allowed = load_recipe(recipe_file, ["resume.allow=[optimizer.lr,data.train,schedule.milestones]"])
    assert allowed.resume.allow == ["optimizer.lr", "data.train", "schedule.milestones"]
    assert differences(old, allowed) == {}


OTHER_VALUES = {type(None): "true", bool: "true", int: "4", float: "0.5", str: "7it", list: "[4ep]"}


@pytest.mark.parametrize("key", INDIFFERENT_KEYS)
def test_indifferent_keys_are_keys_that_may_differ(key: str) -> None:
    content = recipe_to_dict(Recipe())
    *groups, last = key.split(".")
    group = content
    for name in groups:
        group = group[name]
    choices = {"data.engine": "ffcv", "data.on_error": "skip", "trainer.on_nonfinite": "skip"}
    other = choices.get(key) or yaml.safe_load(OTHER_VALUES[type(group[last])])
    assert other != group[last]
    group[last] = other
    assert differences(Recipe(), recipe_from_dict(content, "other")) == {}


def test_what_a_run_is_told_to_do_about_faults_changes_nothing_that_it_computes() -> None:
    groups = recipe_to_dict(Recipe())
    indifferent = {f"{group}.{key}" for group in ("trainer", "checkpoint", "resume", "log") for key in groups[group]}
    assert indifferent - set(INDIFFERENT_KEYS) == {"trainer.deterministic"}


def test_the_narrowest_bounds_are_valid(recipe_file: Path) -> None:
    recipe = load_recipe(
        recipe_file,
        [
            "checkpoint.minutes=0",
            "trainer.max_hours=0",
            "trainer.stop_grace=0.001",
            "trainer.timeout=1",
            "trainer.max_nonfinite=0",
            "resume.allow=[]",
        ],
    )
    assert (recipe.trainer.timeout, recipe.trainer.max_nonfinite, recipe.resume.allow) == (1.0, 0, [])


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("shortcut", SHORTCUTS),
        ("stride_in", STRIDES_IN),
        ("stem_pool", STEM_POOLS),
        ("init", INITS),
        ("block", BLOCKS),
        ("kernel", KERNELS),
        ("skip", SKIPS),
        ("dropout_at", DROPOUT_PLACES),
    ],
)
def test_the_recipes_choices_are_the_networks(key: str, known: tuple[str | int, ...]) -> None:
    choices = str(get_type_hints(ModelRecipe)[key])
    assert all(repr(choice) in choices for choice in known)


def test_every_published_error_is_of_a_network_that_there_is() -> None:
    assert {model for model, _, _ in PAPER} <= set(MODEL_NAMES)


def test_defaults_are_a_valid_recipe() -> None:
    assert recipe_from_dict(recipe_to_dict(Recipe()), "defaults") == Recipe()
