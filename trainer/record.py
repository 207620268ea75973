"""The record of a run: `metrics.jsonl`, `milestones.json` and, if wanted, TensorBoard.

`metrics.jsonl` is only ever appended to: one object a line, its `kind` is `start` (the run began, or was resumed from
`samples`), `stop` (it was asked to, and saved), `train` (one log interval), `validation`, `recalibration`,
`checkpoint`, `warmup` (the training error ended it) or `nonfinite` (a loss that is not finite). What a run had logged
beyond the checkpoint that it was resumed from is done again; `read_metrics` leaves out the superseded lines.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from trainer.errors import RunError, UsageError
from trainer.files import write_atomically

if TYPE_CHECKING:
    from trainer.schedule import Drop

METRICS: Final = "metrics.jsonl"
MILESTONES: Final = "milestones.json"
EVALUATIONS: Final = "evaluations.jsonl"
"""One object a protocol that a checkpoint of the run was evaluated by."""
_START: Final = b'{"kind": "start"'
RESPONSES: Final = "responses.json"
"""The standard deviations of its layers' responses."""


class Record:
    """Writes the record of a run from its main process. A context manager."""

    def __init__(self, run_dir: Path, tensorboard: bool, resumed_at: int) -> None:
        self._run_dir = run_dir
        path = run_dir / METRICS
        torn = path.exists() and not path.read_bytes().endswith(b"\n")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in __exit__)
        if torn and path.stat().st_size:  # a kill in the middle of a line: keep it from swallowing the next one
            self._file.write("\n")
        self._tensorboard = _tensorboard_writer(run_dir, resumed_at) if tensorboard else None

    def write(self, kind: str, samples: int, values: dict[str, Any]) -> None:
        """Append one line; numbers among `values` also go to TensorBoard, over samples seen."""
        line = {"kind": kind, "samples": samples, **values, "time": round(time.time(), 3)}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(f"{self._run_dir / METRICS}: cannot write it: {error.strerror}") from error
        if self._tensorboard is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, samples)

    def write_milestones(self, drops: list[Drop], global_batch: int) -> None:
        """Write all drops of the learning rate so far, in a form that a `step` schedule can repeat.

        Without any there is no file, unless a run that was resumed from before its drops has left one.
        """
        if not drops and not (self._run_dir / MILESTONES).exists():
            return
        content = {
            "milestones": [f"{drop.samples // global_batch}it" for drop in drops],
            "drops": [asdict(drop) for drop in drops],
        }
        write_atomically(self._run_dir / MILESTONES, (json.dumps(content, indent=1) + "\n").encode())

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a line that could not be written was told of
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics that were not superseded by a resume, oldest first.

    A line that a kill has torn is left out; what follows it is whole.

    Raises:
        UsageError: there are none, or one is no line of metrics.
    """
    path = run_dir / METRICS
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{run_dir}: not a run folder: cannot read {METRICS} ({error.strerror})") from error
    lines: list[dict[str, Any]] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if not isinstance(line, dict) or not isinstance(line.get("kind"), str) or not _is_count(line.get("samples")):
            raise UsageError(f"{path}: damaged: line {number} is no line of metrics; delete that line")
        if line["kind"] == "start":
            lines = [kept for kept in lines if kept["samples"] <= line["samples"]]
        lines.append(line)
    return lines


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def count_starts(run_dir: Path) -> int:
    """How often the run was begun, those that a resume superseded counted, too."""
    try:
        with open(run_dir / METRICS, "rb") as file:
            return sum(line.startswith(_START) for line in file)
    except OSError:
        return 0


def _tensorboard_writer(run_dir: Path, resumed_at: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("log.tensorboard=true needs tensorboard: pip install tensorboard") from error
    return SummaryWriter(log_dir=str(run_dir / "tensorboard"), purge_step=resumed_at or None)  # type: ignore[no-untyped-call]
