"""The learning rate as a function of the samples seen, section 3.4: "starts from 0.1 and is divided by 10 when the
error plateaus".

The paper gives no window, no threshold and no data for the plateau (trap T2). Here it is the validation top-1 error,
compared after every evaluation; all ranks hold the same counts, so they decide alike. Every drop is recorded in
samples seen, and a `step` schedule with these milestones repeats the run.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from trainer.recipe import Recipe


@dataclass
class Drop:
    """The rate was divided."""

    samples: int
    lr: float


@dataclass
class PlateauState:
    best_error: float = math.inf
    evaluations_since_best: int = 0


class Schedule:
    """The learning rate of a run.

    `lr(samples)` for every step, `observe(samples, error)` after every evaluation; the state is in the checkpoint.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe.schedule
        self._base_lr = recipe.optimizer.lr
        self._budget = recipe.samples(recipe.schedule.budget)
        self._warmup = recipe.samples(recipe.schedule.warmup)
        self._milestones = sorted(recipe.samples(milestone) for milestone in recipe.schedule.milestones)
        self._plateau = PlateauState()
        self.drops: list[Drop] = []

    def lr(self, samples: int) -> float:
        """The rate of the step that begins when `samples` have been seen."""
        if samples < self._warmup:
            start = self._recipe.warmup_lr
            return start + (self._base_lr - start) * (samples / self._warmup)
        if self._recipe.kind == "cosine":
            progress = (samples - self._warmup) / max(self._budget - self._warmup, 1)
            return self._base_lr * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
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

    def _drops_until(self, samples: int) -> int:
        if self._recipe.kind == "step":
            return sum(milestone <= samples for milestone in self._milestones)
        return sum(drop.samples <= samples for drop in self.drops)

    def state_dict(self) -> dict[str, Any]:
        return {"plateau": asdict(self._plateau), "drops": [asdict(drop) for drop in self.drops]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._plateau = PlateauState(**state["plateau"])
        self.drops = [Drop(**drop) for drop in state["drops"]]
