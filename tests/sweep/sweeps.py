"""Sweeps over runs that are over in a second, and what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.small import OVERRIDES, write_data


def write_sweep(folder: Path, runs: list[Any], *changes: str, launch: str | None = None) -> Path:
    """A sweep over `small.yaml` in `folder`, whose data are there too, with the run folders in `folder/runs`."""
    write_data(folder)
    (folder / "small.yaml").write_text("# all of it is in the sweep\n{}\n")
    paths = [f"data.train={folder}/train.beton", f"data.val={folder}/val.beton", f"runs={folder}/runs"]
    content: dict[str, Any] = {"set": [*OVERRIDES, *paths, *changes], "runs": runs}
    if launch is not None:
        content["launch"] = launch
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def named(name: str, *changes: str) -> dict[str, Any]:
    """An entry."""
    return {"recipe": "small.yaml", "name": name, "set": list(changes)}
