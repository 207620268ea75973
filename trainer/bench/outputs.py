"""Where a benchmark's figures go: a JSON file, and a chart of the same name beside it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from trainer.errors import UsageError
from trainer.files import check_output, write_atomically

if TYPE_CHECKING:  # it takes a second
    import matplotlib.figure


def check_outputs(path: Path | None) -> None:
    """Refuse at once a `--json` that could not be written in the end.

    Raises:
        UsageError: it does not end in .json, or there is no place for it or its chart.
    """
    if path is None:
        return
    if path.suffix != ".json":
        raise UsageError(f"--json {path}: must end in .json (the chart beside it ends in .png)")
    for file in (path, path.with_suffix(".png")):
        check_output(file, "--json")


def write_outputs(
    path: Path, content: dict[str, Any], chart: matplotlib.figure.Figure, console: Console | None = None
) -> None:
    """Write both, and say so to `console`."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    image = io.BytesIO()
    chart.savefig(image, dpi=130, format="png")
    write_atomically(path.with_suffix(".png"), image.getvalue())
    if console is not None:
        console.print(f"written: {path}, {path.with_suffix('.png')}", markup=False, highlight=False, soft_wrap=True)
