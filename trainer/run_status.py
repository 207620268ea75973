"""`status.json` of a run folder: what a person, or a script, wants to know of a run at this moment.

One object, replaced as a whole. `trainer.attempt` writes it, `trainer status` shows it. Imports nothing heavy: launch
scripts ask, too.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from trainer.errors import UsageError
from trainer.files import write_atomically

STATUS: Final = "status.json"
LAUNCH: Final = "TRAINER_LAUNCH"
"""The variable by which a launch script tells its launches apart, those of a requeued job, too."""

STARTING: Final = "starting"
AT_WORK: Final = (STARTING, "training", "validating", "recalibrating", "saving")
ENDED: Final = ("finished", "stopped", "failed")
UNKNOWN: Final = "unknown"
"""Of a run that was begun by a version that wrote no status."""


def now() -> str:
    """In ISO 8601, with the time zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


@dataclass(frozen=True)
class RunStatus:
    """The content of the file, in its order. Errors are fractions; rates and shares are of the last log interval."""

    state: str = UNKNOWN
    """Of `AT_WORK` or `ENDED`; `stopped` is asked to, and saved."""
    error: str | None = None
    """Why it failed, in one line."""
    message: str | None = None
    """The last word of an attempt that finished or stopped."""
    final: bool = False
    """The attempt ended by its own word: to start it again in the same launch would change nothing."""
    exit_status: int | None = None
    """Of the process; None while it is at work."""
    step: int = 0
    """Steps of the optimizer done, and all of them."""
    steps: int = 0
    epoch_equivalent: float = 0.0
    epoch_equivalents: float = 0.0
    images_per_s: float | None = None
    """Of all processes."""
    data_wait: float | None = None
    """Share of the time spent waiting for data."""
    lr: float | None = None
    loss: float | None = None
    top1_error_training: float | None = None
    """On augmented images."""
    top1_error_validation: float | None = None
    top1_error_best: float | None = None
    """The lowest validation error."""
    eta_seconds: float | None = None
    eta: str | None = None
    restarts: int = 0
    """How often the run was begun again."""
    world_size: int | None = None
    """Processes."""
    device: str | None = None
    """`cuda`, `cpu`: what it computes on."""
    host: str = field(default_factory=socket.gethostname)
    """Of the main process, as is `pid`."""
    pid: int = field(default_factory=os.getpid)
    slurm_job: str | None = field(default_factory=lambda: os.environ.get("SLURM_JOB_ID"))
    launch: str | None = field(default_factory=lambda: os.environ.get(LAUNCH))
    updated: str = field(default_factory=now)
    """When this was written. Every few seconds while the process lives, whatever it is doing."""

    @property
    def age(self) -> float:
        """Seconds since it was written."""
        return max((datetime.now().astimezone() - datetime.fromisoformat(self.updated)).total_seconds(), 0.0)


def write_status(run_dir: Path, status: RunStatus) -> None:
    """Replace the file.

    Raises:
        RunError: it cannot be written.
    """
    write_atomically(run_dir / STATUS, (json.dumps(asdict(status), indent=1, allow_nan=False) + "\n").encode())


def read_status(run_dir: Path) -> RunStatus | None:
    """What the file says; None if there is none, or it is none of ours."""
    try:
        content = json.loads((run_dir / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    hints = get_type_hints(RunStatus)
    known = [entry.name for entry in fields(RunStatus)]
    # The fields of this process are no defaults for those of another one.
    if not isinstance(content, dict) or not all(_fits(content.get(name, ...), hints[name]) for name in known):
        return None
    try:
        datetime.fromisoformat(content["updated"]).astimezone()
    except (ValueError, OverflowError):
        return None
    return RunStatus(**{name: content[name] for name in known})


def status_of_record(run_dir: Path) -> RunStatus:
    """What the metrics and the recipe of a run say that has no status file; the state is `UNKNOWN`."""
    from trainer.recipe import IMAGENET_SAMPLES, load_recipe  # the status of a newer run does without
    from trainer.record import METRICS, count_starts, read_metrics

    path = run_dir / METRICS
    lines = read_metrics(run_dir) if path.exists() else []
    of_kind = {kind: [line for line in lines if line["kind"] == kind] for kind in ("start", "train", "validation")}
    start, train, validation = (found[-1] if found else {} for found in of_kind.values())
    samples = max((line["samples"] for line in lines), default=0)
    batch = budget = 0
    try:
        recipe = load_recipe(run_dir)
        batch, budget = recipe.optimizer.global_batch, recipe.samples(recipe.schedule.budget)
    except UsageError:
        pass  # how far it was to go is not known
    heard = lines[-1].get("time", 0.0) if lines else run_dir.stat().st_mtime
    return RunStatus(
        step=samples // batch if batch else train.get("step", 0),
        steps=budget // batch if batch else 0,
        epoch_equivalent=round(samples / IMAGENET_SAMPLES, 5),
        epoch_equivalents=round(budget / IMAGENET_SAMPLES, 5),
        images_per_s=train.get("images_per_s"),
        data_wait=train.get("data_wait"),
        lr=train.get("lr"),
        loss=train.get("loss"),
        top1_error_training=train.get("top1_error"),
        top1_error_validation=validation.get("top1_error"),
        top1_error_best=min((line["top1_error"] for line in of_kind["validation"]), default=None),
        restarts=max(count_starts(run_dir) - 1, 0),
        world_size=start.get("world_size"),
        device=start.get("device"),
        host="",
        pid=0,
        slurm_job=None,
        launch=None,
        updated=datetime.fromtimestamp(heard).astimezone().isoformat(timespec="seconds"),
    )


def _fits(value: Any, hint: Any) -> bool:
    kinds = get_args(hint) or (hint,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
