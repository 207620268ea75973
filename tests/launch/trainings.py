"""Trainings for the launch scripts: small enough for seconds, and the same bits on every way to their end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.small import write_data

RECIPE = """\
runs: RUNS
model: {name: cifar_resnet20}
data: {train: FOLDER/train.beton, val: FOLDER/val.beton, size: 16, crop: padded, padding: 2, threads: 1}
optimizer: {global_batch: 16, micro_batch: 4, lr: 0.02}
schedule: {budget: STEPSit, kind: constant}
evaluation: {every: 50it, resize: 16, batch: 4}
checkpoint: {every: 10it}
trainer: {deterministic: true, timeout: 60}
log: {every: 1it, seconds: 1}
"""


def make_recipe(folder: Path, *, runs: Path | None = None, steps: int = 24) -> Path:
    """`folder/tiny.yaml`, of data beside it; its runs go to `folder/runs` unless told otherwise."""
    write_data(folder)
    recipe = folder / "tiny.yaml"
    text = RECIPE.replace("RUNS", str(runs or folder / "runs")).replace("STEPS", str(steps))
    recipe.write_text(text.replace("FOLDER", str(folder)))
    return recipe


def lines(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Those of a kind in its metrics, what was done twice twice."""
    path = run_dir / "metrics.jsonl"
    whole = path.read_text().split("\n")[:-1] if path.exists() else []
    return [line for line in map(json.loads, whole) if line["kind"] == kind]


def steps(run_dir: Path) -> int:
    """The last step that it has told of."""
    return max((line["step"] for line in lines(run_dir, "train")), default=0)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """Of its last checkpoint."""
    state = torch.load(run_dir / "checkpoints" / "last" / "state.pt", weights_only=True)
    return state["model"]  # type: ignore[no-any-return]
