"""Training, section 3.4 of the paper.

    "We use SGD with a mini-batch size of 256. The learning rate starts from 0.1 and is divided by 10 when the error
    plateaus [...]. We use a weight decay of 0.0001 and a momentum of 0.9. We do not use dropout."

The position of a run is the number of samples it has seen; order, crops, colours and learning rate follow from it.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed

from trainer import checkpoint
from trainer.batch_norm import combine_statistics, set_momentum
from trainer.console import RunConsole, Status
from trainer.data.colour import Preprocess
from trainer.data.dataset import (
    check_same_classes,
    check_training_crops,
    colour_of,
    open_dataset,
    read_ahead,
    training_crops,
    training_order,
    validation_crops,
)
from trainer.data.ffcv_engine import FfcvLoader
from trainer.data.loader import Batch, Loader
from trainer.data.order import Ints, evaluation_batches
from trainer.data.readahead import reading_ahead
from trainer.errors import Interrupted, RunError
from trainer.evaluate import Result, evaluate
from trainer.models import create_model, parameter_groups
from trainer.processes import check_world_size, start_accelerator
from trainer.recipe import Recipe, recipe_to_dict
from trainer.record import Record
from trainer.run_folder import open_run_folder, versions
from trainer.schedule import Schedule


def train(recipe: Recipe) -> None:
    """Train as the recipe says, from the beginning or from the run folder's last checkpoint, to the end of the budget.

    Under `accelerate launch` this runs in every process; the recipe's global batch is shared among them.

    Raises:
        UsageError: recipe, data, run folder and world size do not go together.
        RunError: training could not go on.
    """
    accelerator = start_accelerator(recipe)
    try:
        Run(recipe, accelerator).train()
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"out of GPU memory with micro-batches of {recipe.optimizer.micro_batch} and evaluation batches of "
            f"{recipe.evaluation.batch}; lower optimizer.micro_batch or evaluation.batch"
        ) from error
    # Not after an error: leaving the process group could wait for a rank that waits for this one. The process ends,
    # and the launcher ends the others.
    accelerator.end_training()


class Run:
    """One training run in one process: everything that `train` needs, and the loop itself."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.global_batch, self.micro_batch = recipe.optimizer.global_batch, recipe.optimizer.micro_batch
        check_world_size(recipe, self.world_size)
        self.train_data, self.val_data = open_dataset(recipe.data.train), open_dataset(recipe.data.val)
        check_same_classes(self.val_data, self.train_data.classes, recipe.data.train)
        check_training_crops(recipe, self.train_data)
        self.order = training_order(recipe, self.train_data)
        self._make_loaders()

        set_seed(recipe.seed)
        self.module = create_model(num_classes=len(self.train_data.classes), **asdict(recipe.model))
        self.module.to(memory_format=torch.channels_last)
        set_momentum(self.module, updates=self.global_batch // self.world_size // self.micro_batch)
        self.schedule = Schedule(recipe)
        self.budget = recipe.samples(recipe.schedule.budget)
        self.log_every = recipe.samples(recipe.log.every)
        self.validate_every = recipe.samples(recipe.evaluation.every)
        self.save_every = recipe.samples(recipe.checkpoint.every)
        self.samples = 0
        self.best: dict[str, Any] | None = None
        self.skipped = 0
        state = open_run_folder(recipe, self.train_data, self.val_data, accelerator)
        if state is not None:
            self.module.load_state_dict(state["model"])
            self.schedule.load_state_dict(state["schedule"])
            self.samples, self.best = state["samples"], state["best"]
            self.skipped = state.get("skipped", 0)  # checkpoints of before there was skipping have none
        optimizer = torch.optim.SGD(
            parameter_groups(self.module, recipe.optimizer.decay, recipe.optimizer.weight_decay),
            lr=recipe.optimizer.lr,
            momentum=recipe.optimizer.momentum,
        )
        # `model` is what a step calls (DDP, autocast); `module` the bare network, whose names checkpoints have.
        self.model, self.optimizer = accelerator.prepare(self.module, optimizer)
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            if accelerator.scaler is not None and state["scaler"] is not None:
                accelerator.scaler.load_state_dict(state["scaler"])
        self.status = Status(self.samples, self.budget, self.global_batch)
        self.status.best_error = self.best["top1_error"] if self.best else None
        self.status.skipped = self.skipped
        self.named: set[int] = set()  # skipped samples that were told of
        self.window = Window(accelerator.device)

    def train(self) -> None:
        """From the current position to the end of the budget."""
        recipe, main = self.recipe, self.accelerator.is_main_process
        if self.samples >= self.budget:
            if main:
                print(f"{recipe.run_dir}: already finished, at step {self.samples // self.global_batch:,}", flush=True)
            return
        record = Record(recipe.run_dir, recipe.log.tensorboard, self.samples) if main else None
        title = f"{recipe.name}: {recipe.model.name}, global batch {self.global_batch} on {self.world_size} process(es)"
        with (
            record or contextlib.nullcontext(),
            RunConsole(title, self.status, seconds=recipe.log.seconds, shown=main) as self.console,
        ):
            self.record = record
            self._announce()
            if record is not None and self.schedule.drops:  # of the checkpoint, not of what came after it
                record.write_milestones(self.schedule.drops, self.global_batch)
            order = self.order.batches(self.samples, self.budget, self.global_batch, self.rank, self.world_size)
            with (
                reading_ahead(read_ahead(recipe, self.train_data, self.order.chunks), order) as requests,
                contextlib.closing(self.train_loader.load(requests)) as batches,
            ):
                self.model.train()
                self.window.begin()
                self.status.activity = "training"
                try:
                    for batch in batches:
                        self.step(batch)
                        self._after_step(batch)
                except KeyboardInterrupt as interrupt:
                    raise Interrupted(self._interruption()) from interrupt
            skipped = f"; {self.skipped:,} samples did not decode and were replaced" if self.skipped else ""
            self.console.message(f"finished: {recipe.run_dir}{skipped}")

    def step(self, batch: Batch) -> None:
        """One iteration of SGD on this rank's share of a global batch.

        The share goes through the network in micro-batches. Gradients are averaged over micro-batches and ranks;
        all are of one size, so this is the gradient of the mean loss over the global batch (trap T17).
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.status.lr = self.schedule.lr(self.samples)
        parts = list(zip(*(t.split(self.micro_batch) for t in (batch.images, batch.labels, batch.colour)), strict=True))
        for number, (images, labels, colour) in enumerate(parts, start=1):
            waits_for_others = number < len(parts)
            with self.accelerator.no_sync(self.model) if waits_for_others else contextlib.nullcontext():
                scores = self.model(self.preprocess(images, colour))
                loss = F.cross_entropy(scores, labels)
                self.accelerator.backward(loss / len(parts))
            self.window.add(loss.detach() / len(parts), scores.detach(), labels)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.samples += self.global_batch

    def validate(self) -> Result:
        """Top-1 and top-5 error of the centre crop; the schedule takes note of it."""
        self.status.activity = "validating"
        combine_statistics(self.module)
        order = evaluation_batches(len(self.val_data.beton), self.recipe.evaluation.batch, self.rank, self.world_size)
        with reading_ahead(read_ahead(self.recipe, self.val_data), order) as requests:
            result = evaluate(self.module, self.val_loader, requests, self.preprocess_val)
        self.status.val_error = result.top1_error
        best = self.best is None or result.top1_error < self.best["top1_error"]
        if best:
            self.best = {"top1_error": result.top1_error, "top5_error": result.top5_error, "samples": self.samples}
            self.status.best_error = result.top1_error
        self._record(
            "validation",
            top1_error=result.top1_error,
            top5_error=result.top5_error,
            loss=result.loss,
            images=result.images,
            seconds=round(result.seconds, 3),
        )
        self.console.message(
            f"epoch-equivalent {self.status.epoch:.4g}, step {self.samples // self.global_batch:,}: "
            f"validation top-1 error {result.top1_error:.2%}, top-5 {result.top5_error:.2%}, "
            f"loss {result.loss:.4f}{' (best)' if best else ''}"
        )
        drop = self.schedule.observe(self.samples, result.top1_error)
        if drop is not None:
            self.console.message(
                f"the error plateaus: learning rate {drop.lr:.4g} from step {self.samples // self.global_batch:,}"
            )
            if self.record is not None:
                self.record.write_milestones(self.schedule.drops, self.global_batch)
        return result

    def save(self) -> None:
        """Write a checkpoint from the main process; the others wait for it."""
        self.status.activity = "saving"
        combine_statistics(self.module)
        if self.accelerator.is_main_process:
            keep = self.recipe.checkpoint.keep
            checkpoint.save(self.recipe.run_dir, self._state(), keep=keep, best=self._is_best_now())
        self.accelerator.wait_for_everyone()

    def _after_step(self, batch: Batch) -> None:
        self.window.count(self.global_batch, batch.wait, len(batch.skipped))
        self._name_skipped(batch.skipped)
        self.status.samples = self.samples
        validate, save = self._due(self.validate_every), self._due(self.save_every)
        if self._due(self.log_every) or validate or save or self.window.is_first:
            self._log()
        self.console.tick()
        if validate:
            self.validate()
        # A new best is saved even where no checkpoint is due: the best model has to be on disk.
        if save or (validate and self._is_best_now()):
            self.save()
        if validate or save:
            self.status.activity = "training"
            self.window.begin()

    def _due(self, every: int) -> bool:
        return self.samples % every == 0 or self.samples >= self.budget

    def _is_best_now(self) -> bool:
        return self.best is not None and self.best["samples"] == self.samples

    def _log(self) -> None:
        """Write what happened since the last time. The only place in the loop where the host waits for the device."""
        loss, error, skipped = self.window.read(self.global_batch, self.world_size)
        self.skipped += skipped
        self.status.skipped = self.skipped
        images_per_s, wait_share = self.window.rates()
        self.status.loss, self.status.train_error = loss, error
        self.status.images_per_s, self.status.wait_share = images_per_s, wait_share
        step = self.samples // self.global_batch
        self._record(
            "train",
            step=step,
            lr=self.status.lr,
            loss=loss,
            top1_error=error,
            images_per_s=round(images_per_s, 2),
            data_wait=round(wait_share, 5),
            skipped=skipped,
        )
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is {loss} between steps {step - self.window.images // self.global_batch + 1} and {step}; "
                "start again under another name= with a lower optimizer.lr, a warm-up or another precision"
            )
        self.window.is_first = False
        self.window.begin()

    def _record(self, kind: str, **values: Any) -> None:
        if self.record is not None:
            self.record.write(kind, self.samples, {"epoch": round(self.status.epoch, 5), **values})

    def _name_skipped(self, ids: Ints) -> None:
        for sample in set(ids.tolist()) - self.named:
            self.named.add(sample)
            name = self.train_data.beton.describe(sample)
            text = f"{name}: does not decode, another takes its place (data.on_error=skip)"
            if self.accelerator.is_main_process:
                self.console.message(text)
            else:
                print(text, file=sys.stderr, flush=True)

    def _announce(self) -> None:
        resumed = f"going on at step {self.samples // self.global_batch:,}" if self.samples else "starting"
        self.console.message(
            f"{self.recipe.run_dir}: {resumed} of {self.budget // self.global_batch:,}; {self.recipe.model.name}, "
            f"{len(self.train_data.beton):,} images of {len(self.train_data.classes)} classes; "
            f"global batch {self.global_batch} = {self.world_size} process(es) x "
            f"{self.global_batch // self.world_size // self.micro_batch} micro-batch(es) of {self.micro_batch}; "
            f"{self.accelerator.device.type}, {self.recipe.precision}"
        )
        self._record("start", world_size=self.world_size, device=self.accelerator.device.type, versions=versions())

    def _interruption(self) -> str:
        last = checkpoint.checkpoints_dir(self.recipe.run_dir) / "last"
        place = (
            f"its last checkpoint, {last.resolve().name}" if last.exists() else "the beginning: nothing was saved yet"
        )
        return f"interrupted at step {self.samples // self.global_batch}; the same command goes on from {place}"

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "step": self.samples // self.global_batch,
            "samples": self.samples,
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "skipped": self.skipped,
            "recipe": recipe_to_dict(self.recipe),
            "classes": self.train_data.classes,
            "colour": asdict(self.statistics),
            "mean_image": self.mean_image,
            "data_digest": self.train_data.digest,
            "val_digest": self.val_data.digest,
            "versions": versions(),
        }

    def _make_loaders(self) -> None:
        recipe, device = self.recipe, self.accelerator.device
        self.statistics, self.mean_image = colour_of(recipe, self.train_data)
        red, green, blue = (round(value) for value in self.statistics.mean)
        options: dict[str, Any] = {
            "threads": recipe.data.threads,
            "prefetch": recipe.data.prefetch,
            "colour_seed": recipe.seed if recipe.data.colour > 0 else None,
            "fill": (red, green, blue),
        }
        self.train_loader: Loader | FfcvLoader
        if recipe.data.engine == "ffcv":
            self.train_loader = FfcvLoader(self.train_data.beton, training_crops(recipe), device, **options)
        else:
            options["replacement_seed"] = recipe.seed if recipe.data.on_error == "skip" else None
            self.train_loader = Loader(self.train_data.beton, training_crops(recipe), device, **options)
        self.val_loader = Loader(self.val_data.beton, validation_crops(recipe), device, threads=recipe.data.threads)
        self.preprocess = Preprocess(self.statistics, recipe.data.colour, self.mean_image).to(device)
        self.preprocess_val = Preprocess(self.statistics, 0.0, self.mean_image).to(device)


class Window:
    """What is summed up between two lines of the log; loss and hits stay on the device until then."""

    def __init__(self, device: torch.device) -> None:
        self.is_first = True
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.begin()

    def begin(self) -> None:
        """Start anew, now."""
        self._sums.zero_()
        self.images = self.skipped = 0
        self.waited = 0.0
        self._began = time.perf_counter()

    def count(self, images: int, waited: float, skipped: int) -> None:
        self.images += images
        self.waited += waited
        self.skipped += skipped

    def add(self, loss: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> None:
        self._sums += torch.stack([loss.double(), (scores.argmax(dim=1) == labels).sum().double()])

    def rates(self) -> tuple[float, float]:
        """Images a second over all ranks, and the share of the time that this rank waited for data."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        return self.images / elapsed, min(self.waited / elapsed, 1.0)

    def read(self, global_batch: int, world_size: int) -> tuple[float, float, int]:
        """Mean loss, top-1 error and samples skipped, over all ranks since the beginning. Waits for the device."""
        sums = torch.cat([self._sums, self._sums.new_tensor([self.skipped])])
        if world_size > 1:
            torch.distributed.all_reduce(sums)
        loss, correct, skipped = sums.tolist()
        return loss / (world_size * (self.images // global_batch)), 1.0 - correct / self.images, int(skipped)
