"""`trainer bench step`: how fast this device does a recipe's training step, beside those of others.

What is timed is `trainer.step.TrainingStep`, the object that the loop uses, on batches that lie on the device and,
given a beton, on those of the loader. All contestants are in one process and do as many steps in turn, each repetition
with another one first; ratios are taken pair by pair.
"""
