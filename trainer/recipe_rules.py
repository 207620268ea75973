"""What a recipe must fulfil beyond its types: ranges, and keys that have to go together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trainer.errors import UsageError

if TYPE_CHECKING:  # it imports this module
    from trainer.recipe import Recipe


def check(recipe: Recipe, source: str) -> None:
    """Refuse what no run could use.

    Raises:
        UsageError: with the key, the value and what was expected.
    """
    data, optimizer, schedule = recipe.data, recipe.optimizer, recipe.schedule
    rules = [
        (optimizer.global_batch > 0, "optimizer.global_batch", optimizer.global_batch, "a positive number of images"),
        (
            optimizer.micro_batch > 0 and optimizer.global_batch % optimizer.micro_batch == 0,
            "optimizer.micro_batch",
            optimizer.micro_batch,
            f"a divisor of optimizer.global_batch ({optimizer.global_batch})",
        ),
        (0 < optimizer.lr < math.inf, "optimizer.lr", optimizer.lr, "a positive rate"),
        (0 <= optimizer.momentum < 1, "optimizer.momentum", optimizer.momentum, "a number in [0, 1)"),
        (optimizer.weight_decay >= 0, "optimizer.weight_decay", optimizer.weight_decay, "0 or more"),
        (0 <= recipe.model.dropout < 1, "model.dropout", recipe.model.dropout, "a probability in [0, 1)"),
        (0 <= optimizer.ema < 1, "optimizer.ema", optimizer.ema, "a number in [0, 1); 0 is off, 0.9999 is usual"),
        (
            0 <= optimizer.label_smoothing < 1,
            "optimizer.label_smoothing",
            optimizer.label_smoothing,
            "a number in [0, 1); 0 is off, 0.1 is usual",
        ),
        (
            not recipe.step.cuda_graphs
            or recipe.step.compile is True
            or (recipe.step.compile is None and not recipe.trainer.deterministic),
            "step.cuda_graphs",
            "true",
            "false where nothing is compiled (step.compile=false, or trainer.deterministic without step.compile=true)",
        ),
        (
            recipe.step.all_reduce == "fp32" or not recipe.trainer.deterministic,
            "step.all_reduce",
            recipe.step.all_reduce,
            "fp32 with trainer.deterministic",
        ),
        (recipe.batch_norm.images > 0, "batch_norm.images", recipe.batch_norm.images, "a positive number of images"),
        (data.size > 0, "data.size", data.size, "a positive number of pixels"),
        (
            0 <= data.first_size <= data.size,
            "data.first_size",
            data.first_size,
            f"0 (off) or a number of pixels up to data.size ({data.size})",
        ),
        (
            len(data.ramp) == (2 if data.first_size else 0),
            "data.ramp",
            data.ramp,
            "two amounts such as [6ep, 13ep] with data.first_size, and none without it",
        ),
        (not data.first_size or data.crop != "padded", "data.crop", data.crop, "scale or rrc with data.first_size"),
        (
            not data.first_size or data.normalize == "channel",
            "data.normalize",
            data.normalize,
            "channel with data.first_size: a mean image has one size",
        ),
        (
            not data.first_size or data.engine == "native",
            "data.engine",
            data.engine,
            "native with data.first_size: FFCV's Loader makes crops of one size",
        ),
        (
            data.crop != "scale" or data.size <= data.min_side <= data.max_side,
            "data.min_side",
            data.min_side,
            f"at least data.size ({data.size}) and at most data.max_side ({data.max_side})",
        ),
        (
            _is_range(data.rrc_scale, 1.0),
            "data.rrc_scale",
            data.rrc_scale,
            "two areas [smallest, largest] in (0, 1], e.g. [0.08, 1.0]",
        ),
        (
            _is_range(data.rrc_ratio, math.inf),
            "data.rrc_ratio",
            data.rrc_ratio,
            "two ratios of width to height [smallest, largest] above 0, e.g. [0.75, 1.3333]",
        ),
        (data.padding >= 0, "data.padding", data.padding, "0 or more pixels"),
        (data.colour >= 0, "data.colour", data.colour, "0 (off) or a standard deviation"),
        (1 <= data.chunk_mb < 2**20, "data.chunk_mb", data.chunk_mb, "a number of MiB in [1, 2**20), e.g. 8"),
        (1 <= data.window < 2**31, "data.window", data.window, "a number of chunks in [1, 2**31), e.g. 64"),
        (data.read_ahead >= 0, "data.read_ahead", data.read_ahead, "0 (off) or a number of batches"),
        (
            data.engine == "native" or data.on_error == "stop",
            "data.on_error",
            data.on_error,
            f"stop: data.engine={data.engine} cannot replace a record",
        ),
        (0 <= data.threads <= 1024, "data.threads", data.threads, "0 (the cores of the node) or up to 1024 threads"),
        (data.prefetch >= 1, "data.prefetch", data.prefetch, "at least one batch"),
        (recipe.evaluation.size >= 0, "evaluation.size", recipe.evaluation.size, "0 (data.size) or a number of pixels"),
        (
            data.normalize == "channel" or recipe.validation_size == data.size,
            "evaluation.size",
            recipe.evaluation.size,
            f"0 or data.size ({data.size}) with data.normalize=mean_image: a mean image has one size",
        ),
        (
            recipe.evaluation.resize >= recipe.validation_size,
            "evaluation.resize",
            recipe.evaluation.resize,
            f"at least {'evaluation.size' if recipe.evaluation.size else 'data.size'} ({recipe.validation_size})",
        ),
        (recipe.evaluation.batch > 0, "evaluation.batch", recipe.evaluation.batch, "a positive number of images"),
        (0 < schedule.factor < 1, "schedule.factor", schedule.factor, "a number in (0, 1)"),
        (schedule.threshold >= 0, "schedule.threshold", schedule.threshold, "0 or more"),
        (schedule.warmup_lr >= 0, "schedule.warmup_lr", schedule.warmup_lr, "0 or more"),
        (
            0 <= schedule.warmup_until_error < 1,
            "schedule.warmup_until_error",
            schedule.warmup_until_error,
            "0 (off) or a training error in (0, 1)",
        ),
        (
            not schedule.warmup_until_error or 0 < schedule.warmup_lr <= optimizer.lr,
            "schedule.warmup_lr",
            schedule.warmup_lr,
            f"a positive rate up to optimizer.lr ({optimizer.lr}) with schedule.warmup_until_error",
        ),
        (schedule.patience >= 1, "schedule.patience", schedule.patience, "at least one evaluation"),
        (schedule.max_drops >= 0, "schedule.max_drops", schedule.max_drops, "0 or more"),
        (
            schedule.kind != "step" or bool(schedule.milestones),
            "schedule.milestones",
            "[]",
            "a list such as [30ep, 50ep] for the step schedule",
        ),
        (
            0 <= recipe.checkpoint.minutes < math.inf,
            "checkpoint.minutes",
            recipe.checkpoint.minutes,
            "0 (never) or a number of minutes",
        ),
        (
            0 <= recipe.trainer.max_hours < math.inf,
            "trainer.max_hours",
            recipe.trainer.max_hours,
            "0 (no limit) or a number of hours",
        ),
        (
            0 < recipe.trainer.stop_grace < math.inf,
            "trainer.stop_grace",
            recipe.trainer.stop_grace,
            "a positive number of seconds",
        ),
        (
            1 <= recipe.trainer.timeout < 10**6,
            "trainer.timeout",
            recipe.trainer.timeout,
            "a number of seconds in [1, 10**6)",
        ),
        (recipe.trainer.max_nonfinite >= 0, "trainer.max_nonfinite", recipe.trainer.max_nonfinite, "0 or more steps"),
        (recipe.checkpoint.keep >= 1, "checkpoint.keep", recipe.checkpoint.keep, "at least one"),
        (recipe.log.seconds > 0, "log.seconds", recipe.log.seconds, "a positive number of seconds"),
        (0 <= recipe.seed < 2**32, "seed", recipe.seed, "a number in [0, 2**32)"),
        (
            "/" not in recipe.name and recipe.name not in (".", ".."),
            "name",
            recipe.name,
            "the name of a folder, without '/'",
        ),
    ]
    for holds, key, value, expected in rules:
        if not holds:
            raise UsageError(f"{source}: {key} is {value}, expected {expected}")
    for key, amount in _amounts(recipe):
        try:
            samples = recipe.samples(amount)
        except UsageError as error:
            raise UsageError(f"{source}: {key}: {error}") from error
        if samples > 0 and key == "schedule.warmup" and schedule.warmup_until_error:
            raise UsageError(f"{source}: schedule.warmup is {amount}, expected 0it with schedule.warmup_until_error")
        if samples == 0 and key not in ("schedule.warmup", "data.ramp"):
            raise UsageError(f"{source}: {key} is {amount}, expected more than nothing")
    _check_ramp(recipe, source)


def _check_ramp(recipe: Recipe, source: str) -> None:
    """Whether the crops reach their size, in order and within the run."""
    ramp, budget = recipe.data.ramp, recipe.schedule.budget
    begin, end = (recipe.samples(amount) for amount in ramp or ("0it", "0it"))
    if begin > end or end > recipe.samples(budget):
        raise UsageError(
            f"{source}: data.ramp is {ramp}, expected two amounts in order, up to schedule.budget ({budget})"
        )


def _is_range(values: list[float], most: float) -> bool:
    """Two finite numbers in (0, most], the smaller first."""
    return len(values) == 2 and 0 < values[0] <= values[1] <= most and values[1] < math.inf


def _amounts(recipe: Recipe) -> list[tuple[str, str]]:
    return [
        ("schedule.budget", recipe.schedule.budget),
        ("schedule.warmup", recipe.schedule.warmup),
        *(("schedule.milestones", milestone) for milestone in recipe.schedule.milestones),
        *(("data.ramp", amount) for amount in recipe.data.ramp),
        ("evaluation.every", recipe.evaluation.every),
        ("checkpoint.every", recipe.checkpoint.every),
        ("log.every", recipe.log.every),
    ]
