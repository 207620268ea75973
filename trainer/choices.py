"""Options of a command line that have a few values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trainer.errors import UsageError, did_you_mean

TRUTHS: Final = ("true", "false")


def parse_choice(option: str, value: str, known: Sequence[str]) -> str:
    """`value`, if it is one of `known`.

    Raises:
        UsageError: it is none, with the nearest.
    """
    if value not in known:
        raise UsageError(f"{option}: '{value}' is not a value of this option{did_you_mean(value, known)}")
    return value
