"""`trainer publish`: a checkpoint as a folder that detectors and other users can trust."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from trainer.console import table_console
from trainer.errors import RunError, UsageError
from trainer.files import check_output, sync
from trainer.publish import golden
from trainer.publish.backbone import load_backbone_of
from trainer.publish.card import CURVE, draw_curve, model_card
from trainer.publish.formats import FORMATS, Source
from trainer.publish.options import Options
from trainer.publish.verify import CHECKSUMS, FACTS, LABELS, checksums, print_verdicts, verify

CARD: Final = "README.md"


def publish(checkpoint: str, out: Path, options: Options) -> None:
    """Write a checkpoint into the new folder `out` in every format that can hold it, then verify it there.

    The same checkpoint and options give the same bytes with the same versions of the packages.

    Args:
        checkpoint: a run folder, a checkpoint's folder or its state file.

    Raises:
        UsageError: the checkpoint cannot be read, `out` holds something, or a format that was asked for by name cannot
            hold the network.
        RunError: it cannot be written, or a consumer makes something else of it; nothing of it is left.
    """
    out = out.resolve()
    _check_out(out)
    backbone = load_backbone_of(checkpoint, name=options.name, ema=options.ema, labels=options.labels)
    refused = {name: FORMATS[name].refuse(backbone.facts, options.allow_v1_snippet) for name in options.wanted}
    not_written = {name: reason for name, reason in refused.items() if reason is not None}
    for name, reason in not_written.items():
        if options.insists(name):
            raise UsageError(f"--formats {name}: {reason}")
    source = Source(backbone, golden.make_golden(backbone), options.license)
    written = [name for name in options.wanted if name not in not_written]
    with _whole_or_not_at_all(out) as partial:
        _write(source, written, not_written, partial)
        verdicts = verify(partial)
        print_verdicts(verdicts, not_written)
        verdicts.raise_if_failed(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    table_console().print(f"published: {out}, {size / 1e6:,.1f} MB", markup=False, highlight=False, soft_wrap=True)


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: {'not empty' if out.is_dir() else 'not a folder'}; give a new folder")
    if not out.exists():
        check_output(out, "OUT_DIR")


@contextlib.contextmanager
def _whole_or_not_at_all(out: Path) -> Iterator[Path]:
    """A folder that gets the name `out` when all is written, and goes if it is not."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        for path in (*partial.rglob("*"), partial):
            sync(path)
        os.replace(partial, out)  # an empty folder is replaced
        sync(out.parent)
    except OSError as error:
        raise RunError(f"{out}: cannot write it: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(source: Source, formats: list[str], not_written: dict[str, str], folder: Path) -> None:
    backbone = source.backbone
    for name in formats:
        (folder / name).mkdir()
        FORMATS[name].write(source, folder / name)
    golden.write_golden(folder / golden.FILE, source.golden)
    (folder / LABELS).write_text(json.dumps(backbone.labels, indent=1) + "\n")
    (folder / FACTS).write_text(json.dumps(asdict(backbone.facts), indent=1, sort_keys=True) + "\n")
    curve = draw_curve(backbone)
    if curve is not None:
        (folder / CURVE).write_bytes(curve)
    card = model_card(backbone, folder, formats, not_written, license=source.license)
    (folder / CARD).write_text(card, encoding="utf-8")
    (folder / CHECKSUMS).write_text(checksums(folder))
