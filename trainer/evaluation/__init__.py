"""Evaluation: the error over a data set by the paper's protocols, every image counted once (law 3)."""
