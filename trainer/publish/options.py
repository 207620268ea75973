"""What the command line of `trainer publish` says. Without torch, so that a wrong value is refused at once."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.choices import TRUTHS, parse_choice
from trainer.errors import UsageError, did_you_mean

ALL: Final = "all"
NAMES: Final = (*("native", "torchvision", "timm", "transformers", "detectron2", "detectron2-msra", "mmdet", "onnx"),)
"""Of the formats, in the order in which they are written."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Options:
    """How to publish.

    Raises:
        UsageError: a format that there is not, or a name that no file can have.
    """

    formats: tuple[str, ...] = (ALL,)
    name: str | None = None
    """Begins the files' names; None: the network's."""
    ema: bool = False
    labels: tuple[str, ...] | None = None
    """Names of the classes; None: those of the training data."""
    license: str = "apache-2.0"
    """Of the weights: an identifier of a hub."""
    allow_v1_snippet: bool = False

    def __post_init__(self) -> None:
        if not self.formats:
            raise UsageError(f"--formats: expected some of {', '.join((ALL, *NAMES))}")
        for name in self.formats:
            if name not in (ALL, *NAMES):
                raise UsageError(f"--formats: '{name}' is not a format{did_you_mean(name, (ALL, *NAMES))}")
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise UsageError(f"--name '{self.name}': letters, digits, '.', '_' and '-' only; files are called so")

    @property
    def wanted(self) -> list[str]:
        """The formats, each once."""
        return [name for name in NAMES if name in self.formats or ALL in self.formats]

    def insists(self, name: str) -> bool:
        """Whether a format was asked for by name: then it is an error that it cannot be written."""
        return name in self.formats


def parse_options(args: argparse.Namespace) -> Options:
    """The options of the command line.

    Raises:
        UsageError: a value is none that there is; with the nearest one.
    """
    return Options(
        formats=tuple(name.strip() for name in args.formats.split(",") if name.strip()),
        name=args.name,
        ema=parse_choice("--ema", args.ema, TRUTHS) == "true",
        labels=None if args.labels is None else read_labels(args.labels),
        license=args.license,
        allow_v1_snippet=args.allow_v1_snippet,
    )


def read_labels(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line.

    Raises:
        UsageError: the file cannot be read, or a name is empty or given twice.
    """
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--labels {path}: cannot read it: {error}") from error
    for number, label in enumerate(labels, start=1):
        if not label:
            raise UsageError(f"--labels {path}:{number}: empty; give a name a line")
        if label in labels[: number - 1]:
            raise UsageError(f"--labels {path}:{number}: '{label}' a second time; names must differ")
    return labels
