"""The one place that checks what was published: every format, loaded by its consumer, on the golden input."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from trainer.console import table_console
from trainer.errors import RunError, UsageError
from trainer.publish import golden as golden_outputs
from trainer.publish.formats import FORMATS, NotInstalled, Publication
from trainer.publish.golden import LOGITS, read_golden, stages_of, worst_difference
from trainer.publish.load import facts_from

CHECKSUMS: Final = "SHA256SUMS"
FACTS: Final = "publication.json"
LABELS: Final = "labels.json"
MOST_KEYS: Final = 5
"""That are named."""
TOLERANCE: Final = 1e-4
"""|a - b| / |b| of a stage's output: ONNX Runtime's is about 1e-6, another stride 0.1."""


@dataclass(frozen=True)
class Verdict:
    """Of one format."""

    name: str
    loaded_by: str
    """Package and version, or why it was not verified."""
    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    stage: str = ""
    difference: float | None = None
    """The worst stage's; None: not verified."""

    @property
    def failed(self) -> bool:
        wrong_keys = bool(self.missing or self.unexpected)
        return self.difference is not None and (wrong_keys or not self.difference <= TOLERANCE)


@dataclass(frozen=True)
class Verdicts:
    """Of a publication."""

    folder: Path
    each: list[Verdict] = field(default_factory=list)

    def raise_if_failed(self, folder: Path | None = None) -> None:
        """
        Args:
            folder: what it is called; None: where it lies.

        Raises:
            RunError: naming what failed.
        """
        failed = [verdict.name for verdict in self.each if verdict.failed]
        if failed:
            raise RunError(f"{folder or self.folder}: {', '.join(failed)} failed the comparison above; do not use them")


def verify(folder: Path) -> Verdicts:
    """Check a publication: its checksums, then each format by its consumer.

    Raises:
        UsageError: it is none, or a file of it is missing or not what was written.
    """
    check_sums(folder)
    publication = read_publication(folder)
    found = [name for name in FORMATS if (folder / name).is_dir()]
    return Verdicts(folder, [verify_format(name, folder / name, publication) for name in found])


def verify_format(name: str, folder: Path, publication: Publication) -> Verdict:
    """Load one format with its consumer and compare every stage."""
    kind, golden = FORMATS[name], publication.golden
    wanted = [*(stages_of(golden) if kind.stages else ()), *([LOGITS] if kind.logits else ())]
    try:
        check = kind.check(folder, publication)
    except NotInstalled as missing:
        return Verdict(name, f"not verified: {missing}")
    except Exception as error:  # a consumer may raise anything; the other formats are told of all the same
        reason = " ".join(str(error).split())[:300]
        return Verdict(name, f"failed: {type(error).__name__}: {reason}", stage="not loaded", difference=math.inf)
    loaded_by = check.loaded_by
    if check.stand_in:
        loaded_by = f"not verified: {check.stand_in}\n(names and arithmetic: {loaded_by})"
    stage, difference = worst_difference(check.outputs, golden, wanted)
    return Verdict(name, loaded_by, check.missing, check.unexpected, stage, difference)


def read_publication(folder: Path) -> Publication:
    """
    Raises:
        UsageError: there is none, or a file of it is not readable.
    """
    facts = facts_from(_json(folder / FACTS), str(folder / FACTS))
    return Publication(facts, _json(folder / LABELS), read_golden(folder / golden_outputs.FILE))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot read it: {error}; is {path.parent} what `trainer publish` wrote?") from error


def checksums(folder: Path) -> str:
    """As `sha256sum` writes and checks them, of all files but itself, in the order of their names."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return "".join(f"{_sha256(folder / name)}  {name}\n" for name in files if name != CHECKSUMS)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def check_sums(folder: Path) -> None:
    """
    Raises:
        UsageError: naming the first file that is not what was written.
    """
    path = folder / CHECKSUMS
    try:
        lines = [line.partition("  ") for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{folder}: no {CHECKSUMS} here; give a folder that `trainer publish` wrote") from error
    sums = {name: wanted for wanted, _, name in lines}
    published = [file for name in FORMATS for file in sorted((folder / name).rglob("*")) if file.is_file()]
    if not published:
        raise UsageError(f"{folder}: no format here; give a folder that `trainer publish` wrote")
    for file in (folder / FACTS, folder / LABELS, folder / golden_outputs.FILE, *published):
        if file.relative_to(folder).as_posix() not in sums:
            raise UsageError(f"{file}: not in {CHECKSUMS}; copy the publication again")
    for name, wanted in sums.items():
        if not (folder / name).is_file():
            raise UsageError(f"{folder / name}: missing; copy the publication again")
        if _sha256(folder / name) != wanted:
            raise UsageError(f"{folder / name}: not what was written (its SHA-256 differs); copy the publication again")


def print_verdicts(verdicts: Verdicts, not_written: dict[str, str]) -> None:
    """A table for people; `not_written` has reasons by format."""
    table = Table()
    for heading in ("format", "loaded by", "keys missing", "unexpected"):
        table.add_column(heading, justify="right" if heading in ("keys missing", "unexpected") else "left")
    table.add_column("worst relative difference")
    for verdict in verdicts.each:
        cells = [verdict.name, verdict.loaded_by, "", "", ""]
        if verdict.difference is not None:
            counts = [str(len(verdict.missing)), str(len(verdict.unexpected))]
            cells = [*cells[:2], *counts, f"{verdict.difference:.1e} ({verdict.stage})"]
        table.add_row(*(Text(cell) for cell in cells), style="red" if verdict.failed else "")
    console = table_console()
    console.print(table)
    for verdict in verdicts.each:
        for what, keys in (("missing", verdict.missing), ("unexpected", verdict.unexpected)):
            if keys:
                more = f" and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else ""
                console.print(
                    f"{verdict.name}: {what}: {', '.join(keys[:MOST_KEYS])}{more}", markup=False, soft_wrap=True
                )
    for name, reason in not_written.items():
        console.print(f"{name}: not written: {reason}", markup=False, soft_wrap=True)


def verify_folder(folder: Path) -> None:
    """Check a publication and print what was found.

    Raises:
        UsageError: it is none, or damaged.
        RunError: a consumer makes something else of it.
    """
    verdicts = verify(folder)
    print_verdicts(verdicts, {})
    verdicts.raise_if_failed()
