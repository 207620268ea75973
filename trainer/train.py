"""Training, section 3.4 of the paper.

    "We use SGD with a mini-batch size of 256. The learning rate starts from 0.1 and is divided by 10 when the error
    plateaus [...]. We use a weight decay of 0.0001 and a momentum of 0.9. We do not use dropout."

The position of a run is the number of samples it has seen; order, crops, colours and learning rate follow from it.
"""

from __future__ import annotations

import contextlib
import math
import platform
import sys
import time
from collections.abc import Callable
from copy import copy
from dataclasses import asdict
from statistics import fmean
from typing import Any, Final, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from trainer import checkpoint
from trainer.agreement import Agreement, lost_contact
from trainer.attempt import Attempt
from trainer.batch_norm import set_momentum
from trainer.console import RunConsole, Status
from trainer.data.dataset import read_ahead
from trainer.data.loader import Batch
from trainer.data.order import Ints
from trainer.data.readahead import reading_ahead
from trainer.ema import MovingAverage
from trainer.errors import Interrupted, Preempted, RunError
from trainer.evaluation.network import Network
from trainer.hardware import cpu_model
from trainer.models import create_model
from trainer.nonfinite import is_finite
from trainer.precision import notice_of
from trainer.processes import check_world_size, start_accelerator
from trainer.recalibration import Population
from trainer.recipe import Recipe
from trainer.record import Record
from trainer.run_data import RunData
from trainer.run_folder import open_run_folder, versions
from trainer.run_state import restore, state_of
from trainer.saver import Saver
from trainer.schedule import Schedule
from trainer.step import TrainingStep, skips_nonfinite
from trainer.stops import Stop, Stopped, describe
from trainer.validation import validate
from trainer.window import Window, sum_over_ranks

NAMED_SAMPLES: Final = 32
"""Of a batch whose loss is not finite; all of them are in the metrics."""


LOWER_THE_RATE: Final = "Start again under another name= with a lower optimizer.lr, a warm-up or another precision"


def train(recipe: Recipe, stop: Stop | None = None) -> None:
    """Train as the recipe says, from the beginning or from the run folder's last checkpoint, to the end of the budget.

    Under `accelerate launch` this runs in every process; the recipe's global batch is shared among them.

    Args:
        stop: what asks the run to stop early.

    Raises:
        UsageError: recipe, data, run folder and world size do not go together.
        RunError: training could not go on.
        Preempted: it was asked to stop, and saved.
    """
    stop = stop or Stop()
    with Attempt(recipe.run_dir) as attempt:
        accelerator = start_accelerator(recipe)
        try:
            with lost_contact():
                run = Run(recipe, accelerator, stop)
                attempt.begin(run.status, run.world_size, accelerator.device.type)
                run.train()
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"out of GPU memory with micro-batches of {recipe.optimizer.micro_batch} and evaluation batches of "
                f"{recipe.evaluation.batch}; lower optimizer.micro_batch or evaluation.batch"
            ) from error
    if run.opened.lock is not None:
        run.opened.lock.release()
    # Not after an error: leaving the process group could wait for a rank that waits for this one. The process ends,
    # and the launcher ends the others.
    stop.end()
    accelerator.end_training()


class Run:
    """One training run in one process: everything that `train` needs, and the loop itself."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, stop: Stop) -> None:
        self.recipe, self.accelerator, self.stop = recipe, accelerator, stop
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.global_batch, self.micro_batch = recipe.optimizer.global_batch, recipe.optimizer.micro_batch
        check_world_size(recipe, self.world_size)
        self.agreement = Agreement(self.world_size, recipe.trainer.timeout)
        self.data = data = RunData(recipe, accelerator.device)

        set_seed(recipe.seed)
        self.module = create_model(num_classes=len(self.data.train.classes), **asdict(recipe.model))
        self.module.to(memory_format=torch.channels_last)
        set_momentum(self.module, updates=self.global_batch // self.world_size // self.micro_batch)
        self.notes: list[str] = []  # for people, told with the next line of the log
        self.sgd = TrainingStep(recipe, self.module, data.preprocess, accelerator, self.notes.append)
        size = recipe.validation_size
        self.network = Network(self.module, size, data.statistics, data.mean_image, accelerator.device)
        self.ema = MovingAverage(self.module, recipe.optimizer.ema) if recipe.optimizer.ema else None
        self.population: Population | None = None  # of the position that it says, the end of a budget
        self.schedule = Schedule(recipe)
        self.budget = recipe.samples(recipe.schedule.budget)
        self.log_every = recipe.samples(recipe.log.every)
        self.validate_every = recipe.samples(recipe.evaluation.every)
        self.save_every = recipe.samples(recipe.checkpoint.every)
        self.samples = self.validated = self.skipped = self.nonfinite = 0
        self.best: dict[str, Any] | None = None
        self.opened = open_run_folder(recipe, self.data.train, self.data.val, accelerator)
        if self.opened.state is not None:
            restore(self, self.opened.state)
            self.opened.state = None
        self.saved_at = self.samples
        self.saver = Saver(recipe.run_dir, recipe.checkpoint.keep)
        self.status = Status(self.samples, self.budget, self.global_batch)
        self.status.best_error = self.best["top1_error"] if self.best else None
        self.status.skipped = self.skipped
        self.crop_size = 0
        self.named: set[int] = set()  # skipped samples that were told of
        self.window = Window(accelerator.device)

    @property
    def step_number(self) -> int:
        """Steps of the optimizer done."""
        return self.samples // self.global_batch

    def train(self) -> None:
        """From the current position to the end of the budget."""
        recipe, main = self.recipe, self.accelerator.is_main_process
        if self.samples >= self.budget and self._is_validated:
            if main:
                more = "to train on, give a longer schedule.budget= and resume.allow=[schedule.budget]"
                print(f"{recipe.run_dir}: already finished, at step {self.step_number:,}; {more}", flush=True)
            return
        record = Record(recipe.run_dir, recipe.log.tensorboard, self.samples) if main else None
        title = f"{recipe.name}: {recipe.model.name}, global batch {self.global_batch} on {self.world_size} process(es)"
        with (
            record or contextlib.nullcontext(),
            RunConsole(title, self.status, seconds=recipe.log.seconds, shown=main) as self.console,
        ):
            self.record = record
            self._announce()
            if record is not None:  # of the checkpoint, not of what came after it
                record.write_milestones(self.schedule.drops, self.global_batch)
            try:
                self.stop.begin_loop()
                self._loop()
                self.saver.wait()
            except KeyboardInterrupt as interrupt:
                raise Interrupted(self._interruption()) from interrupt
            except Exception:
                # What is being written is whole, whatever went wrong since.
                self.saver.settle(recipe.trainer.stop_grace)
                raise
            skipped = f"; {self.skipped:,} samples did not decode and were replaced" if self.skipped else ""
            self.console.message(f"finished: {recipe.run_dir}{skipped}")
        self.agreement.wait()  # or a launcher would end the main process, which still writes, with the first to leave

    def _loop(self) -> None:
        # What a stop kept from being validated, before it goes on as if there had been none.
        if self._due(self.validate_every) and not self._is_validated:
            self._validate_and_save(due=True, save=True)
        order = self.data.order.batches(self.samples, self.budget, self.global_batch, self.rank, self.world_size)
        with (
            reading_ahead(read_ahead(self.recipe, self.data.train, self.data.order.chunks), order) as requests,
            contextlib.closing(self.data.train_loader.load(requests)) as batches,
        ):
            self.module.train()
            self.window.begin()
            self.status.activity = "training"
            for batch in batches:
                self._tell_size(batch.images.shape[1])
                self.step(batch)
                self._after_step(batch)

    def step(self, batch: Batch) -> None:
        """One iteration of SGD on this rank's share of a global batch (see `TrainingStep`), at the schedule's rate."""
        self.status.lr = self.schedule.lr(self.samples)
        first = self.samples + self.rank * len(batch.labels)
        mean_loss, correct, stepped = self.sgd(batch, first, self.status.lr)
        if self.ema is not None and stepped:
            self.ema.update()
        self.window.add_step(mean_loss, correct)
        self.samples += self.global_batch
        self.status.samples = self.samples
        if self.schedule.is_warming_up:
            self._observe_step(correct)

    def _observe_step(self, correct: torch.Tensor) -> None:
        """Tell the schedule, which decides alike on all ranks. Waits for the device: during a warm-up of some hundred
        steps that the training error ends."""
        error = self.schedule.observe_step(self.samples, sum_over_ranks(correct))
        if error is not None:
            lr = self.schedule.lr(self.samples)
            self.note("warmup", step=self.step_number, top1_error=error, lr=lr)
            self.console.message(
                f"the training error is {error:.2%}, the warm-up ends: learning rate {lr:.4g} "
                f"from step {self.step_number:,}"
            )

    def save(self) -> None:
        """Have a checkpoint written; the main process does, behind the loop."""
        self.status.activity = "saving"
        if not is_finite(self.module, self.sgd.optimizer):
            raise RunError(
                f"the weights are not finite after step {self.step_number:,}, so they were not saved; "
                f"{self._last_checkpoint()}. {LOWER_THE_RATE}"
            )
        began = time.perf_counter()
        state = state_of(self)
        if self.accelerator.is_main_process:
            self.saver.save(state)
        self.saved_at = self.samples
        self.note("checkpoint", step=self.step_number, stall=round(time.perf_counter() - began, 5))

    def _after_step(self, batch: Batch) -> None:
        self.window.count(self.global_batch, batch.wait, len(batch.skipped))
        self._name_skipped(batch.skipped)
        self.status.samples = self.samples
        self.stop.set_unsaved(True)
        self.saver.check()
        cause, minutes_over = self._agree(self.stop.cause, self._minutes_are_over())
        just_saved = self.saved_at >= self.samples - self.global_batch  # so that is what was asked for
        due, save = self._due(self.validate_every), self._due(self.save_every) or (minutes_over > 0 and not just_saved)
        if self._due(self.log_every) or due or save or cause or self.window.is_first:
            self._log()
        self.console.tick()
        if cause and not self.samples >= self.budget:
            self._stop(cause)
        if due or save:
            self._validate_and_save(due, save)
            self.status.activity = "training"
            self.window.begin()

    def _validate_and_save(self, due: bool, save: bool) -> None:
        if due:
            try:
                validate(self)
            except Stopped as stopped:
                self._stop(stopped.cause)
        # A new best is saved even where no checkpoint is due: the best model has to be on disk.
        if save or (due and self._is_best_now()):
            self.save()

    @property
    def _agree(self) -> Callable[..., list[int]]:
        """On GPUs what all ranks said after the step before, so that none of them waits for another. On CPUs, where a
        step may be as long as the time that a launcher grants to stop in, what they say now."""
        return self.agreement.exchange if self.accelerator.device.type == "cuda" else self.agreement.highest

    def _minutes_are_over(self) -> bool:
        """Whether the main process finds it is time for a checkpoint. Never while one is written."""
        minutes = self.recipe.checkpoint.minutes
        idle = self.accelerator.is_main_process and self.saver.is_idle
        return idle and 0 < 60 * minutes < time.monotonic() - self.saver.ended

    def ask_to_stop(self, requests: int, requests_of_all: int) -> None:
        """While a validation or recalibration goes on. Some ranks have one request more: of that nobody asks."""
        if requests <= requests_of_all:
            cause, _ = self._agree(self.stop.cause, False)
            if cause:
                raise Stopped(cause)

    def _stop(self, cause: int) -> NoReturn:
        """All ranks are here, at the same step: save and leave."""
        if self.saved_at != self.samples:
            self.save()
        self.saver.wait()
        self.note("stop", step=self.step_number, cause=describe(cause))
        self.stop.set_unsaved(False)
        self.agreement.wait()
        self.stop.end()
        raise Preempted(
            f"stopped by {describe(cause)} and saved at step {self.step_number:,} of "
            f"{self.budget // self.global_batch:,}; the same command goes on"
        )

    def _due(self, every: int) -> bool:
        return self.samples % every == 0 or self.samples >= self.budget

    @property
    def is_recalibrated(self) -> bool:
        """Whether `population` is of this position."""
        return self.population is not None and self.population.samples == self.samples

    @property
    def ends_recalibrated(self) -> bool:
        """Whether this is the end of the budget, and the last validation is to be of the population's statistics."""
        return self.recipe.batch_norm.recalibrate and self.samples >= self.budget

    @property
    def _is_validated(self) -> bool:
        """Whether the validation at this position, if there is to be one, was made."""
        return self.is_recalibrated if self.ends_recalibrated else self.validated == self.samples

    def _is_best_now(self) -> bool:
        return self.best is not None and self.best["samples"] == self.samples

    def _log(self) -> None:
        """Write what happened since the last time. The only place where the host always waits for the device."""
        if not self.window.steps:
            return
        sums = self.window.read(self.world_size)
        finite = [loss for loss in sums.losses if math.isfinite(loss)]
        self.skipped += sums.skipped
        self.status.skipped = self.skipped
        images_per_s, wait_share = self.window.rates()
        loss = fmean(finite) if finite else math.nan
        self.status.loss, self.status.train_error = loss, sums.top1_error
        self.status.images_per_s, self.status.wait_share = images_per_s, wait_share
        self.note(
            "train",
            step=self.step_number,
            lr=self.status.lr,
            loss=loss if finite else None,
            top1_error=sums.top1_error,
            images_per_s=round(images_per_s, 2),
            data_wait=round(wait_share, 5),
            skipped=sums.skipped,
        )
        for place, value in enumerate(sums.losses):
            if not math.isfinite(value):
                self._nonfinite(self.step_number - len(sums.losses) + place, value)
        self.window.is_first = False
        self._tell_notes()
        self.window.begin()

    def _nonfinite(self, step: int, loss: float) -> None:
        """Tell of a step (counted from 0) whose loss was not finite; end the run, unless such steps are skipped."""
        ids = copy(self.data.order).take(step * self.global_batch, self.global_batch).ids.tolist()
        self.note("nonfinite", step=step + 1, loss=str(loss), sample_ids=ids)
        more = f" and {len(ids) - NAMED_SAMPLES} more, in metrics.jsonl" if len(ids) > NAMED_SAMPLES else ""
        what = f"the loss is {loss} at step {step + 1:,}, of samples {', '.join(map(str, ids[:NAMED_SAMPLES]))}{more}"
        if not skips_nonfinite(self.recipe):
            raise RunError(
                f"{what}; {self._last_checkpoint()}. {LOWER_THE_RATE}, or leave such steps out: "
                "trainer.on_nonfinite=skip"
            )
        self.nonfinite += 1
        most = self.recipe.trainer.max_nonfinite
        if self.nonfinite > most:
            raise RunError(
                f"{what}; more than trainer.max_nonfinite={most} such steps were skipped; {self._last_checkpoint()}. "
                f"{LOWER_THE_RATE}"
            )
        self.console.message(f"{what}: skipped, {self.nonfinite} of at most {most}")

    def note(self, kind: str, **values: Any) -> None:
        """Write a line of metrics, of this position."""
        if self.record is not None:
            self.record.write(kind, self.samples, {"epoch": round(self.status.epoch, 5), **values})

    def _tell_size(self, size: int) -> None:
        """Of the crops, where it grows while training."""
        if self.recipe.data.first_size and size != self.crop_size:
            self.crop_size = size
            self.note("size", step=self.step_number, size=size)
            self.console.message(f"crops of {size} px from step {self.step_number + 1:,}")

    def _name_skipped(self, ids: Ints) -> None:
        for sample in set(ids.tolist()) - self.named:
            self.named.add(sample)
            name = self.data.train.beton.describe(sample)
            text = f"{name}: does not decode, another takes its place (data.on_error=skip)"
            if self.accelerator.is_main_process:
                self.console.message(text)
            else:
                print(text, file=sys.stderr, flush=True)

    def _tell_notes(self) -> None:
        """Of the step. They are of this rank and its node alone, so every rank tells its own."""
        for note in self.notes:
            if self.accelerator.is_main_process:
                self.console.message(f"note: {note}")
            else:
                print(f"note: rank {self.rank} on {platform.node()}: {note}", file=sys.stderr, flush=True)
        self.notes.clear()

    def _announce(self) -> None:
        precision = notice_of(self.accelerator.device, self.recipe.precision)
        notices = [n for n in (self.data.train.notice, self.data.val.notice, precision) if n is not None]
        for note in [*self.opened.notes, *notices]:
            self.console.message(f"note: {note}")
        self._tell_notes()
        resumed = f"going on at step {self.step_number:,}" if self.samples else "starting"
        self.console.message(
            f"{self.recipe.run_dir}: {resumed} of {self.budget // self.global_batch:,}; {self.recipe.model.title}, "
            f"{len(self.data.train.beton):,} images of {len(self.data.train.classes)} classes; "
            f"global batch {self.global_batch} = {self.world_size} process(es) x "
            f"{self.global_batch // self.world_size // self.micro_batch} micro-batch(es) of {self.micro_batch}; "
            f"{self.accelerator.device.type}, {self.recipe.precision}"
        )
        self.note(
            "start",
            world_size=self.world_size,
            device=self.accelerator.device.type,
            hardware=torch.cuda.get_device_name() if self.accelerator.device.type == "cuda" else cpu_model(),
            versions=versions(),
            train_images=len(self.data.train.beton),
            data_digest=self.data.train.digest,
            val_digest=self.data.val.digest,
        )

    def _interruption(self) -> str:
        return f"interrupted at step {self.step_number:,}; the same command goes on; {self._last_checkpoint()}"

    def _last_checkpoint(self) -> str:
        self.saver.settle(self.recipe.trainer.stop_grace)
        last = checkpoint.checkpoints_dir(self.recipe.run_dir) / "last"
        return f"the last checkpoint is {last.resolve().name}" if last.exists() else "there is no checkpoint yet"
