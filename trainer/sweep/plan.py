"""The file of a sweep: which recipes, with which changes, started how.

    launch: accelerate launch --num_processes 8 -m trainer train   # optional; how one run is started
    set: [precision=bf16]                                          # optional; for all runs
    runs:
      - ../cifar10/resnet20.yaml                                   # relative to this file
      - {recipe: ../cifar10/resnet20.yaml, name: resnet20_seed1, set: [seed=1]}

What comes later wins: the recipe, `set` of all, `name` and `set` of the entry, the command line.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainer.errors import UsageError, did_you_mean
from trainer.recipe import Recipe, load_recipe, near_files

FILE_KEYS: Final = ("runs", "set", "launch")
ENTRY_KEYS: Final = ("recipe", "name", "set")
LAUNCH: Final = (sys.executable, "-m", "trainer", "train")
"""How a run is started where the file does not say."""


@dataclass(frozen=True)
class Entry:
    """One run of a sweep."""

    place: str
    """Where it is written, for errors: file and number."""
    recipe: Recipe
    launch: tuple[str, ...]
    words: list[str]
    """What `trainer train` is told: the recipe's path, and the changes."""

    @property
    def command(self) -> list[str]:
        """What starts it."""
        return [*self.launch, *self.words]

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def shell_line(self) -> str:
        """The command, quoted for a shell."""
        return shlex.join(self.command)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What is wrong in here is told with the place of this entry."""
        with _blamed(self.place):
            yield


def load_plan(file: Path, overrides: list[str]) -> list[Entry]:
    """Read the file of a sweep and load every recipe in it, with its changes.

    Raises:
        UsageError: with file, entry, key, value and the nearest valid name; or two runs have one name.
    """
    content = _read(file)
    launch = _launch(content.get("launch"), file)
    for_all = _texts(content.get("set", []), f"{file}: set")
    runs = content.get("runs")
    if not isinstance(runs, list) or not runs:
        raise UsageError(f"{file}: runs is {runs!r}, expected a list of one recipe or more")
    entries = [
        _entry(run, f"{file}, entry {number}", file.parent, launch, for_all, overrides)
        for number, run in enumerate(runs, start=1)
    ]
    numbers: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        first = numbers.setdefault(entry.name, number)
        if first != number:
            raise UsageError(
                f"{file}: entries {first} and {number} are both named '{entry.name}'; each needs a run folder of its "
                "own: give one of them another name:"
            )
    return entries


def _read(file: Path) -> dict[Any, Any]:
    try:
        loaded = OmegaConf.load(file)
    except FileNotFoundError as error:
        raise UsageError(f"{file}: no such sweep{near_files(file)}") from error
    except (OSError, YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise UsageError(f"{file}: cannot read the sweep: {' '.join(str(error).split())}") from error
    content = OmegaConf.to_container(loaded)
    if not isinstance(loaded, DictConfig) or not isinstance(content, dict):
        raise UsageError(f"{file}: a sweep is a mapping with the keys {', '.join(FILE_KEYS)}")
    if not isinstance(content.get("runs"), list) and _is_recipe(content):
        raise UsageError(f"{file}: a recipe, not a sweep (a list of recipes, runs:); python -m trainer train {file}")
    _refuse_unknown_keys(content, FILE_KEYS, str(file))
    return content


def _is_recipe(content: dict[Any, Any]) -> bool:
    return bool(content) and content.keys() <= {"extends", *(entry.name for entry in fields(Recipe))}


def _entry(
    run: Any, place: str, folder: Path, launch: tuple[str, ...], for_all: list[str], overrides: list[str]
) -> Entry:
    content = run if isinstance(run, dict) else {"recipe": run}
    _refuse_unknown_keys(content, ENTRY_KEYS, place)
    recipe = _text(content.get("recipe"), f"{place}: recipe", "the path of a recipe")
    path = os.path.normpath(folder / recipe)
    name = _text(content["name"], f"{place}: name", "a name in quotes") if "name" in content else None
    own = [f"name={name}"] if name is not None else []
    changes = [*for_all, *own, *_texts(content.get("set", []), f"{place}: set"), *overrides]
    with _blamed(place):
        return Entry(place, load_recipe(path, changes), launch, [path, *changes])


def _launch(value: Any, file: Path) -> tuple[str, ...]:
    if value is None:
        return LAUNCH
    try:
        words = tuple(shlex.split(_text(value, f"{file}: launch", "a command")))
    except ValueError as error:
        raise UsageError(f"{file}: launch is {value!r}: {error}") from error
    if not words:
        raise UsageError(f"{file}: launch is empty, expected a command")
    return words


def _text(value: Any, where: str, expected: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where} is {value!r}, expected {expected}")
    return value


def _texts(values: Any, where: str) -> list[str]:
    expected = "a list of key=value, e.g. [seed=1]"
    if not isinstance(values, list):
        raise UsageError(f"{where} is {values!r}, expected {expected}")
    return [_text(value, f"{where}: an item", "key=value in quotes, e.g. 'seed=1'") for value in values]


def _refuse_unknown_keys(content: dict[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            raise UsageError(f"{where}: unknown key '{key}'{did_you_mean(str(key), known)}")


@contextmanager
def _blamed(place: str) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
