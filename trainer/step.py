"""One iteration of SGD on one device: what the loop does between two batches, and `trainer bench step` measures.

Nothing in it waits for the device, so that the host is ahead of it: losses and counts stay there until somebody reads
them, lines of the log mostly.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from trainer.compiled import Compiled
from trainer.data.colour import Preprocess
from trainer.data.loader import Batch
from trainer.data.random import counter_uint64
from trainer.gradients import ExactGradients
from trainer.models import parameter_groups
from trainer.nonfinite import StepGuard
from trainer.precision import autocast
from trainer.processes import micro_batches_of_all
from trainer.recipe import Precision, Recipe

STREAM_NETWORK: Final = 16
"""Of random draws (see `trainer.data.random`) in the network, such as dropout."""


class Objective(nn.Module):
    """From bytes to the loss: preprocessing, network and criterion, one graph for a compiler.

    Compiled, normalisation, colour and the conversion to 16 bits are one kernel, from uint8 [b, h, w, 3] to the
    channels_last input of the first convolution. (Mirror images come mirrored from the decoder.)
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess, precision: Precision, smoothing: float) -> None:
        super().__init__()
        self.network, self.preprocess = network, preprocess
        self._precision, self._smoothing = precision, smoothing

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, colour: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [b, h, w, 3], int64 [b] and draws [b, 3] -> mean loss, float32 [], and the number of images whose
        highest score is their label's, int64 []."""
        with autocast(images.device, self._precision):
            scores = self.network(self.preprocess(images, colour))
        scores = scores.float()
        loss = F.cross_entropy(scores, labels, label_smoothing=self._smoothing)
        return loss, (scores.detach().argmax(dim=1) == labels).sum()


class TrainingStep:
    """SGD with momentum on the recipe's global batch, of which this process has its share.

    Args:
        module: the network, on no device in particular, in channels_last.
        tell: takes a line for people: that the network could not be compiled.

    Attributes:
        optimizer: of the module's parameters.
        scaler: of the loss; it does nothing unless the precision is fp16.

    Raises:
        UsageError: the recipe wants what this device or machine has not.
    """

    def __init__(
        self,
        recipe: Recipe,
        module: nn.Module,
        preprocess: Preprocess,
        accelerator: Accelerator,
        tell: Callable[[str], None],
    ) -> None:
        self.device, self._seed = accelerator.device, recipe.seed
        self._micro_batch, self._micro_batches = recipe.optimizer.micro_batch, micro_batches_of_all(recipe)
        objective = Objective(module, preprocess, recipe.precision, recipe.optimizer.label_smoothing)
        self._objective: nn.Module = accelerator.prepare_model(objective)
        self._ddp = self._objective if isinstance(self._objective, DistributedDataParallel) else None
        if self._ddp is not None and recipe.step.all_reduce == "bf16":
            self._ddp.register_comm_hook(None, bf16_compress_hook)
        self._call: Callable[..., tuple[torch.Tensor, torch.Tensor]] = self._objective
        if should_compile(recipe, self.device):
            required, graphs = recipe.step.compile is True, recipe.step.cuda_graphs
            self._call = Compiled(self._objective, self.device, required=required, cuda_graphs=graphs, tell=tell)
        self.optimizer = torch.optim.SGD(
            parameter_groups(module, recipe.optimizer.decay, recipe.optimizer.weight_decay),
            lr=recipe.optimizer.lr,
            momentum=recipe.optimizer.momentum,
            # On a CPU torch's fused one copies what is in channels_last, and takes longer than the other.
            fused=True if self.device.type == "cuda" else None,
        )
        if recipe.optimizer.momentum > 0:
            # torch's fused SGD makes it of uninitialised memory, and a scaler that skips the first step leaves it so.
            for parameter in module.parameters():
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self._exact = ExactGradients(module) if recipe.trainer.deterministic else None
        self._guard = StepGuard(module, not self.scaler.is_enabled()) if skips_nonfinite(recipe) else None
        # A captured backward pass writes its gradients where the last one did: they must be our own.
        self._keeps_gradients = recipe.step.cuda_graphs
        if self._keeps_gradients:
            for parameter in module.parameters():
                parameter.grad = torch.zeros_like(parameter)

    def __call__(self, batch: Batch, position: int, lr: float) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """One iteration.

        The share goes through the network in micro-batches. Gradients are averaged over micro-batches and ranks;
        all are of one size, so this is the gradient of the mean loss over the global batch (trap T17).

        Args:
            batch: this rank's share.
            position: of its first sample in the stream of samples; it seeds what is random in the network.
            lr: the learning rate.

        Returns:
            The mean loss over the share, float64 [] (NaN if the step was skipped for not being finite), how many of it
            were classified correctly, float64 [], both on the device; and whether the optimizer was called. (With fp16
            the scaler may still keep it from changing anything, which only the device knows.)
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self._guard is not None:
            self._guard.begin()
        mean_loss, correct = self._gradients(batch, position)
        allowed = self._guard is None or self._guard.allows(mean_loss)
        if allowed:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            mean_loss.fill_(math.nan)  # so that it is told of and counted, also where only a gradient was not finite
        self.optimizer.zero_grad(set_to_none=not self._keeps_gradients)
        return mean_loss, correct, allowed

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Take up the momentum of an optimizer's state. Rates and decays stay the recipe's, whose change is meant."""
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["state"]})
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    # The fused optimizer goes through parameter and momentum as they lie in memory, in one format.
                    values[name] = torch.empty_like(parameter).copy_(value)

    def _gradients(self, batch: Batch, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        tensors = batch.images, batch.labels, batch.colour
        parts = list(zip(*(tensor.split(self._micro_batch) for tensor in tensors), strict=True))
        mean_loss, correct = torch.zeros(2, dtype=torch.float64, device=self.device)
        for number, part in enumerate(parts):
            seed_network(self._seed, position + number * self._micro_batch)
            with self._ranks_wait(number + 1 < len(parts) or self._exact is not None):
                loss, right = self._call(*part)
                self.scaler.scale(loss if self._exact is not None else loss / len(parts)).backward()
            if self._exact is not None:
                self._exact.add()
            mean_loss += loss.detach() / len(parts)
            correct += right
        if self._exact is not None:
            self._exact.finish(self._micro_batches)
        return mean_loss, correct

    def _ranks_wait(self, wait: bool) -> contextlib.AbstractContextManager[None]:
        """Whether gradients are kept from being averaged over ranks."""
        return self._ddp.no_sync() if wait and self._ddp is not None else contextlib.nullcontext()


def skips_nonfinite(recipe: Recipe) -> bool:
    return recipe.trainer.on_nonfinite == "skip"


def should_compile(recipe: Recipe, device: torch.device) -> bool:
    """`step.compile`; null: on GPUs, where it pays, but not in deterministic runs: their last bits would depend on
    whether there is a compiler."""
    if recipe.step.compile is None:
        return device.type == "cuda" and not recipe.trainer.deterministic
    return recipe.step.compile


def seed_network(seed: int, position: int) -> None:
    """Seed torch's generators for the micro-batch that begins at `position` of the stream of samples."""
    # Not torch.manual_seed, which asks every kind of device there might be and takes as long as a small layer.
    number = int(counter_uint64(seed, STREAM_NETWORK, position)[0] >> 1)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(number)
