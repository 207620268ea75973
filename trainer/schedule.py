"""The learning rate as a function of the samples seen, section 3.4: "starts from 0.1 and is divided by 10 when the
error plateaus".

The paper gives no window, no threshold and no data for the plateau (trap T2). Here it is the validation top-1 error,
compared after every evaluation; all ranks hold the same counts, so they decide alike. Every drop is recorded in
samples seen, and a `step` schedule with these milestones repeats the run.

The warm-up of 110 layers (section 4.2, trap T15) ends by the training error: "we use 0.01 to warm up the training until
the training error is below 80% (about 400 iterations), and then go back to 0.1 and continue training".
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from trainer.recipe import Recipe

WARMUP_WINDOW: Final = 50
"""The last iterations, whose training error ends a warm-up. With 128 images each, its standard error is half a point at
80 %, so chance does not end it; and it is the error of 25 iterations ago, of the paper's 400."""


@dataclass
class Drop:
    """The rate was divided."""

    samples: int
    lr: float


@dataclass
class PlateauState:
    best_error: float = math.inf
    evaluations_since_best: int = 0


@dataclass
class WarmupState:
    """Of a warm-up that the training error ends."""

    correct: list[int] = field(default_factory=list)
    """How many of each of the last iterations' images were classified correctly; empty once it has ended."""
    ended: int | None = None
    """After so many samples."""


class Schedule:
    """The learning rate of a run.

    `lr(samples)` for every step, `observe(samples, error)` after every evaluation, and, as long as `is_warming_up`,
    `observe_step(samples, correct)` after every step; the state is in the checkpoint.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe.schedule
        self._base_lr = recipe.optimizer.lr
        self._budget = recipe.samples(recipe.schedule.budget)
        self._warmup = recipe.samples(recipe.schedule.warmup)
        self._milestones = sorted(recipe.samples(milestone) for milestone in recipe.schedule.milestones)
        self._global_batch = recipe.optimizer.global_batch
        self._plateau = PlateauState()
        self._warmup_state = WarmupState()
        self.drops: list[Drop] = []

    def lr(self, samples: int) -> float:
        """The rate of the step that begins when `samples` have been seen."""
        rate, ended = self._rate(samples), self._warmup_state.ended
        if self._recipe.warmup_until_error > 0 and (ended is None or samples < ended):
            return min(rate, self._recipe.warmup_lr)
        return rate

    def _rate(self, samples: int) -> float:
        if samples < self._warmup:
            start = self._recipe.warmup_lr
            return start + (self._base_lr - start) * (samples / self._warmup)
        progress = min((samples - self._warmup) / max(self._budget - self._warmup, 1), 1.0)
        if self._recipe.kind == "cosine":
            return self._base_lr * 0.5 * (1.0 + math.cos(math.pi * progress))
        if self._recipe.kind == "linear":
            return self._base_lr * (1.0 - progress)
        return self._base_lr * self._recipe.factor ** self._drops_until(samples)

    def observe(self, samples: int, error: float) -> Drop | None:
        """Take note of the validation top-1 error (a fraction) after `samples`; return the drop that it caused."""
        if self._recipe.kind != "plateau":
            return None
        state = self._plateau
        if error < state.best_error - self._recipe.threshold:
            self._plateau = PlateauState(error)
            return None
        state.evaluations_since_best += 1
        if state.evaluations_since_best < self._recipe.patience or len(self.drops) >= self._recipe.max_drops:
            return None
        state.evaluations_since_best = 0
        drop = Drop(samples, self._base_lr * self._recipe.factor ** (len(self.drops) + 1))
        self.drops.append(drop)
        return drop

    @property
    def is_warming_up(self) -> bool:
        """Whether the training error is to end a warm-up that goes on."""
        return self._recipe.warmup_until_error > 0 and self._warmup_state.ended is None

    def observe_step(self, samples: int, correct: int) -> float | None:
        """Take note of the step that ended after `samples`; return the training error that ended the warm-up by it.

        Args:
            correct: how many images of the global batch were classified correctly, on all ranks.
        """
        state = self._warmup_state
        state.correct = [*state.correct, correct][-WARMUP_WINDOW:]
        error = 1.0 - sum(state.correct) / (len(state.correct) * self._global_batch)
        if len(state.correct) < WARMUP_WINDOW or error >= self._recipe.warmup_until_error:
            return None
        self._warmup_state = WarmupState(ended=samples)
        return error

    def _drops_until(self, samples: int) -> int:
        if self._recipe.kind == "step":
            return sum(milestone <= samples for milestone in self._milestones)
        return sum(drop.samples <= samples for drop in self.drops)

    def state_dict(self) -> dict[str, Any]:
        return {
            "plateau": asdict(self._plateau),
            "warmup": asdict(self._warmup_state),
            "drops": [asdict(drop) for drop in self.drops],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._plateau = PlateauState(**state["plateau"])
        self._warmup_state = WarmupState(**state.get("warmup", {}))  # checkpoints of 0.1 have none
        self.drops = [Drop(**drop) for drop in state["drops"]]
