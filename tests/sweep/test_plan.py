"""The file of a sweep: what it says, and what is refused before anything is started."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import yaml

from tests.samples import REPOSITORY
from trainer.errors import UsageError
from trainer.recipe import load_recipe
from trainer.sweep.plan import load_plan

SHIPPED = sorted((REPOSITORY / "recipes" / "sweeps").glob("*.yaml"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What `write` writes, beside the recipes `a.yaml` and `b.yaml`."""
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("optimizer: {lr: 0.2}\nmodel: {name: resnet18}\n")
    (tmp_path / "sweeps").mkdir()
    return tmp_path / "sweeps" / "sweep.yaml"


def refusal(file: Path, text: str, *overrides: str) -> str:
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        load_plan(file, list(overrides))
    said = str(refused.value)
    assert "\n" not in said
    assert said.startswith(str(file))
    return said.removeprefix(str(file))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_sweep_loads_with_its_recipes(path: Path) -> None:
    entries = load_plan(path, [])
    assert [entry.recipe for entry in entries] == [load_recipe(entry.command[4]) for entry in entries]


def test_the_sweeps_of_the_papers_tables_are_shipped() -> None:
    assert {"table2", "table3", "table6"} <= {path.stem for path in SHIPPED}


def test_an_entry_is_a_recipe_or_a_recipe_with_changes(file: Path, tmp_path: Path) -> None:
    file.write_text("runs: [../a.yaml, {recipe: ../a.yaml, name: c, set: [seed=1]}, {recipe: ../b.yaml}]")
    first, second, third = load_plan(file, [])
    assert [entry.name for entry in (first, second, third)] == ["a", "c", "b"]
    assert (first.recipe.seed, second.recipe.seed) == (0, 1)
    path = str(tmp_path / "a.yaml")  # without the way through the folder of the sweep
    assert first.command == [sys.executable, "-m", "trainer", "train", path]
    assert second.command == [sys.executable, "-m", "trainer", "train", path, "name=c", "seed=1"]


def test_what_comes_later_wins(file: Path) -> None:
    file.write_text(
        "set: [optimizer.lr=0.3, seed=1, precision=bf16, name=x]\n"
        "runs: [{recipe: ../a.yaml, name: c, set: [seed=2, precision=fp16]}]"
    )
    [entry] = load_plan(file, ["precision=fp32"])
    recipe = entry.recipe
    assert (recipe.optimizer.lr, recipe.seed, recipe.precision, recipe.name) == (0.3, 2, "fp32", "c")
    assert load_recipe(entry.command[4], entry.command[5:]) == recipe  # the run gets what was checked


def test_how_a_run_is_started_is_split_as_a_shell_does(file: Path) -> None:
    file.write_text("launch: srun --comment 'two words' python -m trainer train\nruns: [../a.yaml]")
    assert load_plan(file, [])[0].command[:4] == ["srun", "--comment", "two words", "python"]


def test_a_launch_line_is_quoted_for_a_shell(file: Path) -> None:
    file.write_text("runs: [{recipe: ../a.yaml, set: ['schedule.milestones=[30ep, 50ep]']}]")
    [entry] = load_plan(file, [])
    assert shlex.split(entry.shell_line) == entry.command
    assert entry.shell_line.endswith("a.yaml 'schedule.milestones=[30ep, 50ep]'")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": runs is None, expected a list of one recipe or more"),
        ("runs: []", ": runs is [], expected a list of one recipe or more"),
        ("runs: ../a.yaml\nlaunch: x", ": runs is '../a.yaml', expected a list"),
        ("[../a.yaml]", ": a sweep is a mapping with the keys runs, set, launch"),
        ("run: [../a.yaml]", ": unknown key 'run' (did you mean 'runs'?)"),
        ("runs: [../a.yaml]\nlanch: x", ": unknown key 'lanch' (did you mean 'launch'?)"),
        ("runs: [../a.yaml]\nset: seed=1", ": set is 'seed=1', expected a list of key=value"),
        ("runs: [../a.yaml]\nset: [seed: 1]", ": set: an item is {'seed': 1}, expected key=value in quotes"),
        ("runs: [../a.yaml]\nlaunch: [srun]", ": launch is ['srun'], expected a command"),
        ("runs: [../a.yaml]\nlaunch: ''", ": launch is empty, expected a command"),
        ('runs: [../a.yaml]\nlaunch: "srun \'x"', ': launch is "srun \'x": No closing quotation'),
        ("runs: [../a.yaml", ": cannot read the sweep: "),
        ("runs: [../a.yaml]\nruns: [../b.yaml]", ": cannot read the sweep: "),
        ("runs: [../a.yaml, 3]", ", entry 2: recipe is 3, expected the path of a recipe"),
        ("runs: [{name: x}]", ", entry 1: recipe is None, expected the path of a recipe"),
        ("runs: [{recipe: ../a.yaml, nam: x}]", ", entry 1: unknown key 'nam' (did you mean 'name'?)"),
        ("runs: [{recipe: ../a.yaml, name: 20}]", ", entry 1: name is 20, expected a name in quotes"),
        ("runs: [{recipe: ../a.yaml, name: x/y}]", "expected the name of a folder, without '/'"),
        ("runs: [../b.yaml, ../aa.yaml]", "aa.yaml: no such recipe (did you mean '"),
        ("runs: [../a.yaml, {recipe: ../b.yaml, set: [optimizer.lrr=1]}]", ", entry 2: override 'optimizer.lrr=1'"),
        ("runs: [../a.yaml, {recipe: ../b.yaml, set: [optimizer.lr=-1]}]", "optimizer.lr is -1.0, expected a positive"),
        ("runs: [../a.yaml, ../b.yaml, ../a.yaml]", ": entries 1 and 3 are both named 'a'; each needs a run folder"),
        ("runs: [../a.yaml, ../b.yaml]\nset: [name=x]", ": entries 1 and 2 are both named 'x'"),
        ("extends: ../a.yaml\nseed: 1", ": a recipe, not a sweep (a list of recipes, runs:); python -m trainer train "),
        ("name: x\nruns: folder", ": a recipe, not a sweep"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_with_its_place(file: Path, text: str, said: str) -> None:
    assert said in refusal(file, text)


def test_overrides_on_the_command_line_are_checked_too(file: Path) -> None:
    said = refusal(file, "runs: [../a.yaml]", "optimizer.momentun=0.9")
    assert said.startswith(", entry 1: override 'optimizer.momentun=0.9': unknown key")


def test_a_sweep_that_is_not_there_is_told_with_the_nearest_name(file: Path) -> None:
    file.write_text("runs: [../a.yaml]")
    with pytest.raises(UsageError, match=r"swep\.yaml: no such sweep \(did you mean '.*sweep\.yaml'\?\)"):
        load_plan(file.with_name("swep.yaml"), [])
    with pytest.raises(UsageError, match=r"cannot read the sweep: .*Is a directory"):
        load_plan(file.parent, [])


def test_a_name_may_hold_what_a_shell_or_yaml_would_take_for_something_else(file: Path) -> None:
    file.write_text(yaml.safe_dump({"runs": [{"recipe": "../a.yaml", "name": "lr 0.1; b=2 $x"}]}))
    assert load_plan(file, [])[0].name == "lr 0.1; b=2 $x"
