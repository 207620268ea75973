"""One iteration of others' training scripts, with their libraries' own networks and optimizers.

In their favour: the normalised float32 batch lies on the device, in channels_last, so that nothing is timed that their
loaders do; and nothing is scheduled. cuDNN chooses kernels by trial (torch.backends.cudnn.benchmark), as in their
scripts. Precision, threads and memory are the process's, and so the same as ours: fp32 is without TF32 for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from torch import nn

from trainer.bench.step.clock import seconds_of
from trainer.bench.step.contest import Contest
from trainer.bench.step.options import DEPTHS
from trainer.bench.step.ours import LR
from trainer.compiled import missing_for
from trainer.plan.cost import NetworkCost
from trainer.plan.network import count_cost
from trainer.precision import autocast
from trainer.step import should_compile

TOP: Final = (1, 5)
"""Accuracies that torchvision's script looks at."""


class Contestant(Protocol):
    """Something that does steps of the contest's batch."""

    notes: list[str]

    @property
    def cost(self) -> NetworkCost:
        """Of its network."""

    @property
    def compiled(self) -> bool:
        """Whether its network is."""

    def seconds(self, steps: int) -> float:
        """Of so many steps, the device waited for before and after."""


def peer(name: str, contest: Contest) -> Contestant:
    """The contestant of that name, of `options.PEERS`.

    Raises:
        ImportError: its library is not installed.
        ValueError: it has no such network.
    """
    if contest.network not in {f"resnet{depth}" for depth in DEPTHS}:
        raise ValueError(f"{name} has no {contest.network}")
    return Torchvision(contest) if name == "torchvision" else Timm(contest)


class _Peer(ABC):
    """A training step with the contest's normalised batch on the device."""

    def __init__(self, contest: Contest) -> None:
        self.notes: list[str] = []
        self.device, self._precision = contest.device, contest.recipe.precision
        self._images, self._labels = normalised_batch(contest)

    def seconds(self, steps: int) -> float:
        return seconds_of(lambda: self._run(steps), self.device)

    def _run(self, steps: int) -> None:
        for _ in range(steps):
            self._iteration()

    @abstractmethod
    def _iteration(self) -> None:
        """A step."""


class Torchvision(_Peer):
    """`train_one_epoch` of torchvision's references/classification/train.py, of one process: `--model resnet50 --amp`.

    Its network is in channels_last, which the script has no flag for. `--amp` is fp16 with a loss scaler; where the
    recipe computes in bf16 so does this, without a scaler. There is no flag to compile. Loss, top-1 and top-5 accuracy
    go to its meters in every step, which waits for the device.
    """

    compiled = False

    def __init__(self, contest: Contest) -> None:
        import torchvision

        def make() -> nn.Module:
            model: nn.Module = torchvision.models.get_model(contest.network, num_classes=contest.classes)
            return model

        super().__init__(contest)
        optimizer = contest.recipe.optimizer
        self.cost = count_cost(make, contest.size)
        self._model = _on_device(make(), self.device)
        self._criterion = nn.CrossEntropyLoss(label_smoothing=optimizer.label_smoothing)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=LR, momentum=optimizer.momentum, weight_decay=optimizer.weight_decay
        )
        self._scaler = torch.amp.GradScaler(self.device.type) if self._precision == "fp16" else None
        self.meters: dict[str, float] = {}

    def _iteration(self) -> None:
        image, target = self._images.to(self.device), self._labels.to(self.device)
        with autocast(self.device, self._precision):
            output = self._model(image)
            loss = self._criterion(output, target)
        self._optimizer.zero_grad()
        if self._scaler is not None:
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            loss.backward()
            self._optimizer.step()
        shares = _accuracies(output, target)
        self.meters["loss"] = loss.item()
        for k, share in zip(TOP, shares, strict=True):
            self.meters[f"acc{k}"] = share.item()


class Timm(_Peer):
    """`train_one_epoch` of timm's train.py, of one process: `--model resnet50 --opt momentum --channels-last --amp
    --amp-dtype bfloat16 --torchcompile`.

    fp16 has its loss scaler (`NativeScaler`), bf16 none; fp32 is the script without `--amp`. Compiled under the same
    condition as ours (`step.compile`, which is on GPUs unless it says otherwise), `step.cuda_graphs` being its
    `--torchcompile-mode reduce-overhead`. Its script reads the loss in every step for its meters; that is left out, as
    in its benchmark.py.
    """

    def __init__(self, contest: Contest) -> None:
        import timm
        from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
        from timm.utils.cuda import NativeScaler

        def make() -> nn.Module:
            model: nn.Module = timm.create_model(contest.network, num_classes=contest.classes)
            return model

        super().__init__(contest)
        recipe, device = contest.recipe, contest.device
        self.cost = count_cost(make, contest.size)
        model = _on_device(make(), device)
        self._optimizer = create_optimizer_v2(
            model,
            opt="momentum",
            lr=LR,
            weight_decay=recipe.optimizer.weight_decay,
            momentum=recipe.optimizer.momentum,
        )
        self._scaler = NativeScaler(device.type) if recipe.precision == "fp16" else None  # type: ignore[no-untyped-call]
        self._loss = _timm_loss(recipe.optimizer.label_smoothing).to(device)
        missing = missing_for(device) if should_compile(recipe, device) else None
        if missing is not None:
            self.notes.append(f"the network is not compiled: {missing}")
        self.compiled = should_compile(recipe, device) and missing is None
        self._model: Callable[..., Any] = model
        if self.compiled:
            mode = "reduce-overhead" if recipe.step.cuda_graphs else None
            self._model = torch.compile(model, backend="inductor", mode=mode)
        self._optimizer.zero_grad()

    def _iteration(self) -> None:
        image = self._images.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self._precision):
            output = self._model(image)
            loss = self._loss(output, self._labels)
        if self._scaler is not None:
            self._scaler(loss, self._optimizer)
        else:
            loss.backward()
            self._optimizer.step()
        self._optimizer.zero_grad()


def normalised_batch(contest: Contest) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [b, 3, h, w] in channels_last and labels, int64 [b], on the device."""
    images = torch.randn(contest.batch, 3, contest.size, contest.size).to(contest.device)
    labels = torch.randint(0, contest.classes, (contest.batch,)).to(contest.device)
    return images.contiguous(memory_format=torch.channels_last), labels


def _on_device(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]


def _timm_loss(smoothing: float) -> nn.Module:
    from timm.loss import LabelSmoothingCrossEntropy  # type: ignore[attr-defined]

    return LabelSmoothingCrossEntropy(smoothing) if smoothing else nn.CrossEntropyLoss()  # type: ignore[no-untyped-call]


@torch.no_grad()
def _accuracies(output: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    """Percent of the batch whose label is among the best k scores, for each k of `TOP`."""
    _, best = output.topk(min(max(TOP), output.shape[1]), dim=1)
    right = best.t().eq(target[None])
    return [right[:k].flatten().sum(dtype=torch.float32) * (100.0 / len(target)) for k in TOP]
