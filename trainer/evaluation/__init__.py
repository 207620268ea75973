"""Evaluation: the error over a data set by the paper's protocols, every image counted once (law 3)."""

from trainer.evaluation.evaluate import Result, Share, evaluate
from trainer.evaluation.network import Network
from trainer.evaluation.protocols import Protocol, center

__all__ = ["Network", "Protocol", "Result", "Share", "center", "evaluate"]
