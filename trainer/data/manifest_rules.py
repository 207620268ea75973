"""What a manifest must fulfil to be believed: the type and the range of every value. See `trainer.data.manifest`.

Lists may have hundreds of thousands of members, so they are checked as wholes; which member is wrong is looked for
only once one is.
"""

from __future__ import annotations

import re
import reprlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from trainer.errors import did_you_mean

if TYPE_CHECKING:  # it imports this module
    from trainer.data.manifest import Checksums, Manifest, Statistics

MAX_CLASSES: Final = 1 << 20
"""Labels are below it. What is larger is damage, and counting it would take any amount of memory."""

MAX_NAME: Final = 1000
"""Characters of a class name."""

_NOT_IN_NAMES: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What would break a line, garble a terminal, or is no text."""

_MOST: Final = 2**63 - 1
_HEX: Final = re.compile("[0-9a-f]*")


def check(manifest: Manifest) -> None:
    """Refuse a manifest whose values are not what they should be. Whether they are true of the beton is not asked.

    Raises:
        ValueError: saying which, what it is and what was expected.
    """
    _check_integer("num_samples", manifest.num_samples)
    _check_list("classes", manifest.classes, str)
    check_class_names(manifest.classes)
    _check_list("counts", manifest.counts, int, len(manifest.classes))
    if min(manifest.counts) < 0:
        raise _wrong("counts", manifest.counts, "numbers of 0 or more")
    for name in ("options", "source", "versions"):
        _check_mapping(name, getattr(manifest, name))
    _check_list("versions", list(manifest.versions.values()), str)
    _check_hex("digest", [manifest.digest], 64)
    _check_list("skipped", manifest.skipped, dict)
    for i, image in enumerate(manifest.skipped):
        if image.keys() != {"name", "reason"} or set(map(type, image.values())) != {str}:
            raise _wrong(f"skipped[{i}]", image, "a name and a reason")
    _check_checksums(manifest.checksums)
    _check_statistics(manifest.statistics)


def check_class_names(classes: list[str]) -> None:
    """Refuse names that could not be told apart or printed in a line.

    Raises:
        ValueError: naming the first such class.
    """
    if not 0 < len(classes) <= MAX_CLASSES:
        raise ValueError(f"{len(classes)} classes, expected 1 to {MAX_CLASSES}")
    if min(map(len, classes)) == 0 or max(map(len, classes)) > MAX_NAME or _NOT_IN_NAMES.search("".join(classes)):
        fits = [0 < len(name) <= MAX_NAME and not _NOT_IN_NAMES.search(name) for name in classes]
        place = fits.index(False)
        raise ValueError(
            f"class {place} is {short(classes[place])}, expected a name of up to {MAX_NAME} characters in one line"
        )
    if len(set(classes)) < len(classes):
        seen: set[str] = set()
        twice = next(name for name in classes if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"class {short(twice)} comes twice")


def members(where: str, value: Any, kind: type) -> dict[str, Any]:
    """The members of an object that is to be of the dataclass `kind`.

    Args:
        where: what its members' names begin with, in messages.

    Raises:
        ValueError: it is no object, lacks a member, or has one too many.
    """
    if type(value) is not dict:
        raise _wrong(where.rstrip("."), value, "an object")
    names = [member.name for member in fields(kind)]
    for name in value:
        if name not in names:
            raise ValueError(f"unknown key {where}{short(name)}{did_you_mean(name[:MAX_NAME], names)}")
    for name in names:
        if name not in value:
            raise ValueError(f"key {where}{name} is missing")
    return value


def short(value: Any) -> str:
    """A value in a few characters, none of them a control character."""
    return reprlib.repr(value)


def _check_checksums(checksums: Checksums) -> None:
    _check_integer("checksums.page_size", checksums.page_size)
    _check_hex("checksums.head", [checksums.head], 32)
    _check_hex("checksums.tail", [checksums.tail], 32)
    _check_list("checksums.pages", checksums.pages, str)
    _check_hex("checksums.pages", checksums.pages, 32)


def _check_statistics(statistics: Statistics) -> None:
    _check_integer("statistics.images", statistics.images)
    _check_numbers("statistics.mean", statistics.mean, 0, 255)
    _check_numbers("statistics.std", statistics.std, 0, 255)
    _check_numbers("statistics.eigenvalues", statistics.eigenvalues, -1, 3 * 255**2)  # of what is 0, rounded
    _check_list("statistics.eigenvectors", statistics.eigenvectors, list, 3)
    for i, row in enumerate(statistics.eigenvectors):
        _check_numbers(f"statistics.eigenvectors[{i}]", row, -1.001, 1.001)
    _check_list("statistics.mean_image", [statistics.mean_image], str)


def _check_integer(where: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= _MOST:
        raise _wrong(where, value, "a positive integer")


def _check_list(where: str, values: Any, kind: type, length: int | None = None) -> None:
    if type(values) is not list or (length is not None and len(values) != length):
        raise _wrong(where, values, f"a list of {length}" if length is not None else "a list")
    if set(map(type, values)) - {kind}:
        place = next(i for i, value in enumerate(values) if type(value) is not kind)
        raise _wrong(f"{where}[{place}]", values[place], f"a value of type {kind.__name__}")


def _check_numbers(where: str, values: Any, low: float, high: float) -> None:
    """Three numbers, one a channel."""
    if type(values) is not list or len(values) != 3 or set(map(type, values)) - {int, float}:
        raise _wrong(where, values, "three numbers")
    if not all(low <= value <= high for value in values):
        raise _wrong(where, values, f"numbers from {low} to {high}")


def _check_hex(where: str, values: list[Any], digits: int) -> None:
    def fits(value: Any) -> bool:
        return type(value) is str and len(value) == digits and _HEX.fullmatch(value) is not None

    if set(map(type, values)) != {str} or set(map(len, values)) != {digits} or not _HEX.fullmatch("".join(values)):
        wrong = next((value for value in values if not fits(value)), values)
        raise _wrong(where, wrong, f"{digits} digits in hex")


def _check_mapping(where: str, value: Any) -> None:
    """What is only shown to people: plain values, in two levels at most."""
    if type(value) is not dict:
        raise _wrong(where, value, "an object")
    for name, member in value.items():
        parts = member.values() if type(member) is dict else member if type(member) is list else [member]
        if set(map(type, parts)) & {dict, list}:
            raise _wrong(f"{where}[{short(name)}]", member, "plain values")


def _wrong(where: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{where or 'it'} is {short(value)}, expected {expected}")
