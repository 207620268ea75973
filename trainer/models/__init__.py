"""The networks of He et al. 2015. Importing this package registers them with timm under `he_...` names."""

from trainer.models.parameters import WEIGHT_DECAY_MODES, multiply_adds, parameter_groups
from trainer.models.registry import MODEL_NAMES, create_model

__all__ = ["MODEL_NAMES", "WEIGHT_DECAY_MODES", "create_model", "multiply_adds", "parameter_groups"]
