"""The recipe: one typed description of a whole experiment.

A recipe is YAML with the keys of the dataclasses below; `extends: other.yaml` builds on another one, and `key=value`
on the command line has the last word. What is not a key here, or not of its type, is refused by name.

Amounts of training are written `60ep` (epoch-equivalents of 1,281,167 samples, whatever the data set) or `600000it`
(iterations of the global batch), and counted in samples seen.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from trainer.errors import UsageError, did_you_mean
from trainer.recipe_rules import check

IMAGENET_SAMPLES: Final = 1_281_167
"""Training images of ILSVRC2012; an epoch-equivalent is this many samples on any data set (trap T1)."""


Precision = Literal["fp32", "tf32", "bf16", "fp16"]
"""See `trainer.precision`."""


@dataclass
class ModelRecipe:
    """The network, see `trainer.models.create_model`."""

    name: str = "resnet50"
    shortcut: Literal["A", "B", "C"] | None = None
    """Option of section 4.1 of the paper; null is the paper's choice for the network (B, and A on CIFAR-10)."""
    stride_in: Literal["1x1", "3x3"] = "1x1"
    """Which convolution of a bottleneck has the stride: 1x1 is the paper's net, 3x3 is torchvision's (v1.5)."""
    stem_pool: Literal["torchvision", "caffe"] = "torchvision"
    init: Literal["fan_out", "fan_in"] = "fan_out"
    block: Literal["basic", "bottleneck"] | None = None
    """CIFAR networks: their blocks, at the same depth; null is the paper's basic block. The ImageNet networks have what
    Table 1 gives them."""
    kernel: Literal[1, 3, 5] = 3
    """CIFAR networks: side of the convolutions of basic blocks."""
    skip: Literal[1, 2, 3] = 2
    """Residual CIFAR networks: layers that the shortcut of a basic block spans, at the same depth."""
    dropout: float = 0.0
    """Probability; "We do not use dropout"."""
    dropout_at: Literal["before_3x3", "after_3x3", "classifier"] = "classifier"
    """Before the classifier, or in every bottleneck before or after its 3x3 convolution."""

    @property
    def is_plain(self) -> bool:
        """Whether it has no shortcuts."""
        return "plain" in self.name

    @property
    def is_cifar(self) -> bool:
        """Whether it is one of section 4.2, for images of 32 pixels."""
        return self.name.startswith("cifar_")

    @property
    def is_deep(self) -> bool:
        """Whether Table 1 gives it bottlenecks."""
        return self.name in ("resnet50", "resnet101", "resnet152")

    @property
    def option(self) -> str:
        """Of its shortcuts, with the paper's choice for null; "" for plain networks, which have none."""
        return "" if self.is_plain else self.shortcut or ("A" if self.is_cifar else "B")

    @property
    def title(self) -> str:
        """For people: its name, its shortcuts, and what of its blocks is not the paper's."""
        facts = [self.name] + [f"option {self.option}"] * (not self.is_plain)
        facts += ["bottlenecks"] * (self.is_cifar and self.block == "bottleneck")
        facts += [f"{self.kernel}x{self.kernel} kernels"] * (self.kernel != 3)
        shortcuts = f"shortcuts over {self.skip} layer{'s' * (self.skip > 1)}"
        facts += [shortcuts] * (self.skip != 2 and not self.is_plain)
        place = self.dropout_at.replace("_", " the ").replace("classifier", "before the classifier")
        facts += [f"dropout {self.dropout:g} {place}"] * (self.dropout > 0)
        return ", ".join(facts + ["v1.5"] * (self.is_deep and self.stride_in == "3x3"))


@dataclass
class DataRecipe:
    """Where images come from and how they become the network's input."""

    train: str = "data/imagenet/train.beton"
    val: str = "data/imagenet/val.beton"
    size: int = 224
    """Side of the crops in pixels."""
    first_size: int = 0
    """Progressive resizing: the side of the crops at the beginning, grown to `size` over `ramp`; 0: `size` throughout.
    A crop is the same part of its image at any size."""
    ramp: list[str] = field(default_factory=list)
    """When the crops begin to grow and when they have `size`, e.g. [6ep, 13ep]; between in multiples of 32 pixels."""
    crop: Literal["scale", "rrc", "padded"] = "scale"
    """`scale`: shorter side in [min_side, max_side], section 3.4. `rrc`: torchvision's RandomResizedCrop.
    `padded`: by `padding` pixels, section 4.2."""
    min_side: int = 256
    max_side: int = 480
    rrc_scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    """Smallest and largest area of the crop, as a fraction of the image's."""
    rrc_ratio: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])
    """Smallest and largest width / height of the crop."""
    padding: int = 4
    flip: bool = True
    colour: float = 0.1
    """Standard deviation of the PCA colour augmentation; 0 turns it off."""
    normalize: Literal["channel", "mean_image"] = "channel"
    statistics: Literal["imagenet", "data"] = "imagenet"
    """Mean, std and PCA: the constants that consumers of ImageNet backbones expect, or measured at conversion."""
    order: Literal["random", "chunked"] = "random"
    """`random`: an epoch is a permutation of all samples. `chunked`: for data larger than memory, read by chunks of
    `chunk_mb` MiB of the file in a random order, samples shuffled over `window` of them (see `Chunks`)."""
    chunk_mb: int = 8
    window: int = 64
    """Chunks that a node's memory has to hold: 512 MiB of page cache by default."""
    read_ahead: int = 8
    """Batches that the kernel is asked to read ahead of the decoding; 0 leaves it to guess."""
    on_error: Literal["stop", "skip"] = "stop"
    """A training record that does not decode ends the run, or is replaced by another one and counted."""
    engine: Literal["native", "ffcv"] = "native"
    """What makes the training batches: our loader, or the stock FFCV Loader with our decoders (see `ffcv_engine`). The
    batches are the same."""
    threads: int = 0
    """Decoding threads of a process; 0: the cores of its node, shared."""
    prefetch: int = 2
    """Batches made ahead of the step."""


@dataclass
class OptimizerRecipe:
    """Stochastic gradient descent, section 3.4."""

    global_batch: int = 256
    micro_batch: int = 32
    """Images in one forward pass; the BN batch (trap T5)."""
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay: Literal["all", "conv_and_fc", "no_norm_bias"] = "all"
    ema: float = 0.0
    """What a step leaves of the exponential moving average of the weights, e.g. 0.9999; 0: there is none. It is in the
    checkpoints, beside the weights; validation while training is of the weights."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, in the training loss; 0 is off."""


@dataclass
class StepRecipe:
    """How a step is computed, see `trainer.step`. The result differs by rounding alone."""

    compile: bool | None = None
    """torch.compile of preprocessing, network and loss; null: on GPUs, if there is what it needs."""
    cuda_graphs: bool = False
    """Compiled on a GPU: a forward or backward pass is launched as a whole. For small networks, whose kernels take
    less time than launching them one by one; it takes more memory."""
    all_reduce: Literal["fp32", "bf16"] = "fp32"
    """What ranks send of their gradients."""


@dataclass
class BatchNormRecipe:
    """Its statistics at the end of the run (trap T5), see `trainer.batch_norm.population_statistics`."""

    recalibrate: bool = False
    """Before the last validation, which is of them: the last checkpoint's network has the averages over many training
    images, in place of the moving averages. A longer budget goes on with those all the same."""
    images: int = 50_000
    """Rounded up to whole micro-batches. More than the data have are taken from the next epoch, cropped anew."""


@dataclass
class ScheduleRecipe:
    """The budget, and the learning rate over it."""

    budget: str = "60ep"
    kind: Literal["plateau", "step", "cosine", "linear", "constant"] = "plateau"
    """Of a plateau the validation error decides; `cosine` and `linear` fall to 0 at the end of the budget."""
    factor: float = 0.1
    patience: int = 5
    """Plateau: evaluations without improvement until a drop."""
    threshold: float = 0.001
    """Plateau: what counts as an improvement of the top-1 error (a fraction: 0.001 is 0.1 points)."""
    max_drops: int = 3
    milestones: list[str] = field(default_factory=list)
    """Step: when the rate drops."""
    warmup: str = "0it"
    warmup_lr: float = 0.0
    """The rate rises linearly from here to `lr` over `warmup`; with `warmup_until_error` it stays here."""
    warmup_until_error: float = 0.0
    """The rate is `warmup_lr` until the training error (a fraction, over the last 50 iterations) is below this (section
    4.2, for 110 layers: 0.8); 0: no such warm-up."""


@dataclass
class EvaluationRecipe:
    """Validation while training: the centre crop of the image with its shorter side resized."""

    every: str = "1ep"
    size: int = 0
    """Side of the crops in pixels; 0: that of the training's, `data.size`."""
    resize: int = 256
    """The shorter side in pixels, before the crop."""
    batch: int = 256
    """Images in one forward pass of a process."""


@dataclass
class CheckpointRecipe:
    """What a run can be continued from, in `runs/name/checkpoints`."""

    every: str = "1ep"
    minutes: float = 15.0
    """Also after so many minutes; 0: never for that reason."""
    keep: int = 3
    """The newest ones; the best by validation and the last are always kept."""


@dataclass
class TrainerRecipe:
    """How a run behaves on the machines it is given."""

    deterministic: bool = False
    """Bit-identical results on as many devices of the same kind, and losses that do not depend on how many there are,
    for some speed."""
    max_hours: float = 0.0
    """After so many hours of this process the run saves and exits with 85, as for a signal; 0: no limit."""
    stop_grace: float = 60.0
    """Seconds from SIGTERM, SIGUSR1 or SIGINT to the end of the process."""
    timeout: float = 600.0
    """Seconds that a process waits for the others before it takes them for dead."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite ends the run, or its step changes nothing and is counted. `skip` waits for
    the device in every step."""
    max_nonfinite: int = 10
    """Steps that may be skipped so in the whole run."""


@dataclass
class ResumeRecipe:
    """What may differ from the run that is gone on with."""

    allow: list[str] = field(default_factory=list)
    """Keys of the recipe, e.g. [schedule.budget]; data.train or data.val: other data."""


@dataclass
class LogRecipe:
    """What is told of a run while it trains."""

    every: str = "50it"
    """How often a line of metrics is written."""
    seconds: float = 10.0
    """How often a plain line is printed when there is no terminal."""
    tensorboard: bool = False


@dataclass
class Recipe:
    """A whole experiment."""

    name: str = ""
    """The run folder is `runs/name`; empty: the recipe's file name."""
    runs: str = "runs"
    seed: int = 0
    precision: Precision = "fp32"
    """fp32 is IEEE single precision, tf32 that of NVIDIA's tensor cores, the others are autocast."""
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    step: StepRecipe = field(default_factory=StepRecipe)
    batch_norm: BatchNormRecipe = field(default_factory=BatchNormRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    trainer: TrainerRecipe = field(default_factory=TrainerRecipe)
    resume: ResumeRecipe = field(default_factory=ResumeRecipe)
    log: LogRecipe = field(default_factory=LogRecipe)

    @property
    def run_dir(self) -> Path:
        return Path(self.runs) / self.name

    @property
    def validation_size(self) -> int:
        """Side of the validation's crops in pixels."""
        return self.evaluation.size or self.data.size

    @property
    def crop_sizes(self) -> str:
        """Side of the training's crops in pixels, for people: `224`, or `160 to 192` where they grow."""
        first, last = self.data.first_size, self.data.size
        return f"{first} to {last}" if first else f"{last}"

    def samples(self, amount: str) -> int:
        """An amount of training (`60ep`, `600000it`) in samples, rounded up to whole iterations."""
        return samples_of(amount, self.optimizer.global_batch)

    def to_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.structured(self))


INDIFFERENT_KEYS: Final = (
    "name",
    "runs",
    "data.train",  # the data are known by their digests, wherever they lie
    "data.val",
    "data.read_ahead",
    "data.on_error",  # sound data give the same stream, and what stopped at a damaged record may go on without it
    "data.engine",
    "data.threads",
    "data.prefetch",
    "step.compile",
    "step.cuda_graphs",
    "evaluation.batch",
    "checkpoint.every",
    "checkpoint.minutes",
    "checkpoint.keep",
    "trainer.max_hours",
    "trainer.stop_grace",
    "trainer.timeout",
    "trainer.on_nonfinite",  # sound runs have none
    "trainer.max_nonfinite",
    "resume.allow",
    "log.every",
    "log.seconds",
    "log.tensorboard",
)
"""Keys that do not change what a run computes, so they may differ when it is resumed."""

ROUNDING_KEYS: Final = {"step.compile", "step.cuda_graphs"}
"""Of those, the ones that change its last bits, which matter where `trainer.deterministic` promises them."""


def samples_of(amount: str, global_batch: int) -> int:
    """`"60ep"` or `"600000it"` in samples: whole iterations of `global_batch`, rounded up.

    Raises:
        UsageError: it is neither.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ep|it)\s*", str(amount))
    if match is None:
        raise UsageError(
            f"'{amount}' is no amount of training: write e.g. 60ep (epoch-equivalents) or 5000it (iterations)"
        )
    number, unit = float(match[1]), match[2]
    iterations = number if unit == "it" else number * IMAGENET_SAMPLES / global_batch
    return math.ceil(iterations) * global_batch


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe (a YAML file, or a run folder with its resolved one), apply overrides, check it.

    Raises:
        UsageError: with file or override, key, value and the nearest valid name.
    """
    path = Path(path)
    folder = path if path.is_dir() else None
    if folder is not None:
        path = folder / "recipe.yaml"
    config = OmegaConf.structured(Recipe)
    for source, layer in _layers(path, ()):
        config = _merge(config, layer, source)
    if folder is not None:  # where it is now, not where it was made
        config.name, config.runs = folder.resolve().name, str(folder.resolve().parent)
    for override in overrides or []:
        config = _merge(config, parse_override(override), f"override '{override}'")
    recipe = _to_recipe(config, str(path))
    recipe.name = recipe.name or path.stem
    check(recipe, f"{path} with overrides" if overrides else str(path))
    _check_allowed(recipe.resume.allow)
    return recipe


def recipe_from_dict(content: dict[str, Any], source: str) -> Recipe:
    """The recipe stored in a checkpoint."""
    return _to_recipe(_merge(OmegaConf.structured(Recipe), OmegaConf.create(content), source), source)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain dictionaries, lists, numbers and strings."""
    content = OmegaConf.to_container(OmegaConf.structured(recipe))
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def differences(old: Recipe, new: Recipe) -> dict[str, str]:
    """`key: old -> new`, by key, for every key that changes what the run computes."""
    before, after = _flat(recipe_to_dict(old)), _flat(recipe_to_dict(new))
    indifferent = set(INDIFFERENT_KEYS) - (ROUNDING_KEYS if new.trainer.deterministic else set())
    return {
        key: f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in after
        if before.get(key) != after.get(key) and key not in indifferent
    }


def _check_allowed(keys: list[str]) -> None:
    known = _flat(recipe_to_dict(Recipe()))
    for key in keys:
        if not isinstance(key, str) or key not in known:
            raise UsageError(f"resume.allow: unknown key '{key}'{did_you_mean(str(key), known)}")


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _layers(path: Path, seen: tuple[Path, ...]) -> list[tuple[str, DictConfig]]:
    """The files a recipe is made of, the base first."""
    if path.resolve() in seen:
        raise UsageError(f"{path}: extends itself (through {', '.join(file.name for file in seen)})")
    try:
        layer = OmegaConf.load(path)
    except FileNotFoundError as error:
        if path.parent.is_dir() and path.name == "recipe.yaml":
            raise UsageError(
                f"{path.parent}: no run here (it has no recipe.yaml); give a recipe to begin one"
            ) from error
        raise UsageError(f"{path}: no such recipe{near_files(path)}") from error
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot read the recipe: {' '.join(str(error).split())}") from error
    if not isinstance(layer, DictConfig):
        raise UsageError(f"{path}: a recipe is a mapping of keys to values")
    if isinstance(layer.get("runs"), ListConfig):
        raise UsageError(f"{path}: is a list of recipes: python -m trainer sweep {path}")
    base = layer.pop("extends", None)
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{path}: extends is {base!r}, expected the name of a recipe beside it")
    below = _layers(path.parent / base, (*seen, path.resolve())) if base else []
    return [*below, (str(path), layer)]


def near_files(path: Path) -> str:
    """The YAML file of the nearest name in the folder, or else in `recipes` and below."""
    for found in (path.parent.glob("*.yaml"), Path("recipes").rglob("*.yaml")):
        files = {file.stem: str(file) for file in sorted(found, reverse=True)}
        near = difflib.get_close_matches(path.stem, files, n=1, cutoff=0.5)
        if near:
            return f" (did you mean '{files[near[0]]}'?)"
    return ""


def parse_override(override: str, example: str = "optimizer.lr=0.05") -> DictConfig:
    """`key=value` of a command line.

    Raises:
        UsageError: it is no such thing; with an `example`.
    """
    if "=" not in override:
        raise UsageError(f"override '{override}': write key=value, e.g. {example}")
    try:
        return OmegaConf.from_dotlist([override])
    except (OmegaConfBaseException, YAMLError) as error:
        raise UsageError(f"override '{override}': {' '.join(str(error).split())}") from error


def _merge(config: DictConfig, layer: DictConfig, source: str) -> DictConfig:
    try:
        _refuse_unknown_keys(Recipe, OmegaConf.to_container(layer), source, "")
        merged = OmegaConf.merge(config, layer)
    except ConfigKeyError as error:
        raise UsageError(f"{source}: unknown key '{error.full_key}'") from error
    except OmegaConfBaseException as error:
        reason = str(error).split("\n")[0]
        if "is not a ListConfig" in reason:
            reason = "expected a list, e.g. [6ep, 13ep]"
        raise UsageError(f"{source}: {getattr(error, 'full_key', None) or 'recipe'}: {reason}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _to_recipe(config: DictConfig, source: str) -> Recipe:
    try:
        recipe = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UsageError(f"{source}: {str(error).splitlines()[0]}") from error
    assert isinstance(recipe, Recipe)
    return recipe


def _refuse_unknown_keys(kind: type, content: Any, source: str, prefix: str) -> None:
    known = {entry.name: entry for entry in fields(kind)}
    if not isinstance(content, dict):
        raise UsageError(f"{source}: {prefix.rstrip('.')} is a group of keys ({', '.join(known)}), not {content!r}")
    for key, value in content.items():
        if key not in known:
            raise UsageError(f"{source}: unknown key '{prefix}{key}'{_nearest_key(f'{prefix}{key}', known)}")
        default = known[str(key)].default_factory
        if isinstance(default, type) and is_dataclass(default):
            _refuse_unknown_keys(default, value, source, f"{prefix}{key}.")


def _nearest_key(key: str, siblings: Iterable[str]) -> str:
    """The same name in another group, e.g. `optimizer.lr` for `lr`, or the nearest beside it."""
    name = key.rsplit(".", 1)[-1]
    elsewhere = [full for full in _flat(recipe_to_dict(Recipe())) if full.rsplit(".", 1)[-1] == name]
    return f" (did you mean '{elsewhere[0]}'?)" if elsewhere else did_you_mean(name, siblings)
