"""A person's own figures, measured by `trainer bench ... --save`, in a YAML file that plans read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import yaml

from trainer.errors import UsageError, did_you_mean
from trainer.files import write_atomically
from trainer.plan.constants import DEVICES, Device
from trainer.plan.cost import NetworkCost

DEFAULT: Final = Path("plan.yaml")
"""Where figures are saved, and looked for."""


@dataclass(frozen=True)
class StepFigure:
    """What `trainer bench step` measured on one device in one precision. Seconds are medians."""

    name: str
    """The device's own."""
    date: str
    torch: str
    model: str
    size: int
    micro_batch: int
    threads: int
    """Cores of a CPU that computed; 1 on a GPU."""
    seconds: float
    """Of a micro-batch, forward and backward."""
    seconds_of_one: float
    """Of one image, forward and backward: on a GPU the time that its work takes to launch."""
    seconds_of_optimizer: float
    network: NetworkCost

    @property
    def origin(self) -> str:
        return f"measured with {self.model} at {self.size} px on {self.name}, {self.date}"


@dataclass(frozen=True)
class LoaderFigure:
    """What `trainer bench loader` measured."""

    cpu: str
    date: str
    crop: str
    size: int
    images_per_core_s: float
    """Images/s of one thread's CPU time."""
    table_images_per_core_s: float
    """What the table's cost has for these crops of these images."""

    @property
    def factor(self) -> float:
        """By which decoding takes longer than the table says."""
        return self.table_images_per_core_s / self.images_per_core_s


@dataclass
class Saved:
    """The file's content."""

    steps: dict[str, dict[str, StepFigure]] = field(default_factory=dict)
    """By device and precision."""
    loader: LoaderFigure | None = None
    path: Path | None = None

    def step(self, device: str, precision: str) -> StepFigure | None:
        return self.steps.get(device, {}).get(precision)

    def shape_of(self, device: str) -> Device:
        """A device that the table lacks: its proportions are an A100's, its speed is what was measured."""
        figure = next(iter(self.steps[device].values()))
        return replace(DEVICES["a100"], title=figure.name, source=figure.origin)


def find_device(name: str, saved: Saved) -> Device:
    """The device that `--gpu` names.

    Raises:
        UsageError: there is none, with the nearest name.
    """
    known = [*DEVICES, *(key for key in saved.steps if key not in DEVICES)]
    if name not in known:
        raise UsageError(f"--gpu: '{name}' is not in the table{did_you_mean(name, known)}")
    return DEVICES[name] if name in DEVICES else saved.shape_of(name)


def load_saved(path: Path | None) -> Saved:
    """Read `path`, or `plan.yaml` if that is there.

    Raises:
        UsageError: it cannot be read, or has something else in it.
    """
    file = path or DEFAULT
    if path is None and not file.exists():
        return Saved()
    try:
        content = yaml.safe_load(file.read_text())
        steps = content.get("step", {})
        return Saved(
            steps={name: {kind: _step(figure) for kind, figure in kinds.items()} for name, kinds in steps.items()},
            loader=_parse(LoaderFigure, content["loader"]) if "loader" in content else None,
            path=file,
        )
    except FileNotFoundError as error:
        raise UsageError(f"--constants {file}: no such file; `trainer bench step RECIPE --save` makes it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot read it: {error}") from error
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{file}: not figures that `trainer bench --save` wrote: {reason}; measure again") from error


def save_step(path: Path, device: str, precision: str, figure: StepFigure) -> None:
    """Put `figure` into the file, in the place of one of the same device and precision."""
    saved = load_saved(path) if path.exists() else Saved()
    saved.steps.setdefault(device, {})[precision] = figure
    _write(path, saved)


def save_loader(path: Path, figure: LoaderFigure) -> None:
    """Put `figure` into the file, in the place of another one."""
    saved = load_saved(path) if path.exists() else Saved()
    saved.loader = figure
    _write(path, saved)


def device_key(name: str) -> str:
    """What `--gpu` calls the device of that name: `NVIDIA H100 80GB HBM3` is h100."""
    plain = "".join(letter for letter in name.lower() if letter.isalnum())
    return next((key for key in DEVICES if key != "cpu" and key in plain), plain)


def _write(path: Path, saved: Saved) -> None:
    steps = {name: {kind: asdict(figure) for kind, figure in kinds.items()} for name, kinds in saved.steps.items()}
    content: dict[str, Any] = {"step": steps} if steps else {}
    if saved.loader is not None:
        content["loader"] = asdict(saved.loader)
    write_atomically(path, yaml.safe_dump(content, sort_keys=False).encode())


def _step(content: dict[str, Any]) -> StepFigure:
    figure = _parse(StepFigure, {**content, "network": _parse(NetworkCost, content["network"])})
    assert isinstance(figure, StepFigure)
    return figure


def _parse(kind: type[Any], content: dict[str, Any]) -> Any:
    """An object whose numbers are positive."""
    for entry in fields(kind):
        value = content[entry.name]
        if entry.type in ("int", "float") and not (isinstance(value, int | float) and value > 0):
            raise ValueError(f"{entry.name} is {value}")
    return kind(**content)
