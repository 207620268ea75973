"""What `trainer bench step` is asked for. Without torch, so that what is wrong with it is said at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.bench.outputs import check_outputs
from trainer.errors import UsageError, did_you_mean
from trainer.files import check_output

PEERS: Final = ("torchvision", "timm")
"""In the order of the table."""

DEPTHS: Final = (18, 34, 50, 101, 152)
"""Of Table 1."""

BEST: Final = "best"
"""The batch that is looked for, see `trainer.bench.step.measure.find_best_batch`."""

Batch = int | str
"""Images in a step, or `BEST`."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    recipe: str
    overrides: tuple[str, ...] = ()
    data: Path | None = None
    """A beton whose images go through the step as well."""
    peers: tuple[str, ...] = ()
    depths: tuple[int, ...] = ()
    """Of ResNets that take the place of the recipe's network; none: the recipe's own."""
    batches: tuple[Batch, ...] = ()
    """None: the recipe's micro-batch."""
    repeats: int = 7
    json: Path | None = None
    profile: Path | None = None
    """A folder for the traces."""
    save: Path | None = None
    """Where our figures go, for `trainer plan`."""


def parse_peers(text: str) -> tuple[str, ...]:
    """`"timm,torchvision"` -> ("torchvision", "timm"); an empty text: none.

    Raises:
        UsageError: there is no such peer; with the nearest name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PEERS:
            raise UsageError(f"--peers: no training step is named '{name}'{did_you_mean(name, PEERS)}")
    return tuple(name for name in PEERS if name in names)


def parse_depths(text: str | None) -> tuple[int, ...]:
    """`"18,50"` -> (18, 50); None: none.

    Raises:
        UsageError: Table 1 has no such network.
    """
    if text is None:
        return ()
    for item in text.split(","):
        if not item.strip().isdecimal() or int(item) not in DEPTHS:
            raise UsageError(f"--depths: there is no ResNet-{item.strip()}; choose of {','.join(map(str, DEPTHS))}")
    return tuple(dict.fromkeys(int(item) for item in text.split(",")))


def parse_batches(text: str | None) -> tuple[Batch, ...]:
    """`"256,best"` -> (256, "best"); None: none.

    Raises:
        UsageError: something in it is neither a positive number nor `best`.
    """
    if text is None:
        return ()
    batches: list[Batch] = []
    for item in map(str.strip, text.split(",")):
        if item != BEST and not (item.isdecimal() and int(item) > 0):
            raise UsageError(f"--batch: '{item}' is no number of images; write e.g. 256, or 256,best")
        batches.append(item if item == BEST else int(item))
    return tuple(dict.fromkeys(batches))


def check_options(options: Options) -> None:
    """Refuse what cannot be measured or written.

    Raises:
        UsageError: saying which option.
    """
    if options.repeats < 1:
        raise UsageError(f"--repeats {options.repeats}: must be 1 or more")
    check_outputs(options.json)
    if options.profile is not None:
        if options.profile.exists() and not options.profile.is_dir():
            raise UsageError(f"--profile {options.profile}: is not a folder; the traces and their tables go into one")
        try:
            options.profile.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--profile {options.profile}: cannot make this folder: {error.strerror}") from error
    if options.save is not None:
        if len(options.depths) > 1 or len(options.batches) > 1:
            raise UsageError("--save keeps the figures of one network and batch: give one of --depths and of --batch")
        check_output(options.save, "--save")
