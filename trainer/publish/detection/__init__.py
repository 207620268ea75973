"""A detector from a published backbone, and the same one from random weights; see `trainer.publish.detect_demo`."""
