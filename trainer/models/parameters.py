"""What a network costs, and which of its parameters decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from trainer.models.resnet import check_choice

WEIGHT_DECAY_MODES = ("all", "conv_and_fc", "no_norm_bias")

_CONV_AND_FC = (_ConvNd, nn.Linear)
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def multiply_adds(model: nn.Module, size: int) -> int:
    """Count the multiply-adds for one image of `size` x `size` pixels, in convolutions and fully connected layers only.

    This is the unit of Table 1: no biases, normalisation, activations, pooling or additions.

    Nothing is computed: shapes flow through the network on the meta device, and the model is left as it was.
    """
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    state = {name: tensor.to("meta") for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    # Two images, because batch normalisation in training refuses a single value per channel.
    images = torch.empty(2, first.in_channels, size, size, device="meta", dtype=first.weight.dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(model, state, (images,))
    return int(counter.get_total_flops()) // (2 * len(images))  # a multiply-add is two of torch's operations


def parameter_groups(model: nn.Module, mode: str, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters of `model` into optimizer groups with and without weight decay, by the type of their module.

    Every parameter is in exactly one group, in the model's order; a group without parameters is left out.

    Args:
        model: any module.
        mode: what decays. "all": everything (the text of the paper, fb.resnet.torch). "conv_and_fc": weights and biases
            of convolutions and fully connected layers, nothing else. "no_norm_bias": everything but the parameters of
            normalisation layers and the biases of convolutions and fully connected layers.
        weight_decay: the L2 coefficient of the decaying group.

    Raises:
        UsageError: an unknown mode.
    """
    check_choice("decay", mode, WEIGHT_DECAY_MODES)
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                groups[_decays(module, parameter, mode)].append(parameter)
    coefficients = {True: weight_decay, False: 0.0}
    return [{"params": params, "weight_decay": coefficients[key]} for key, params in groups.items() if params]


def _decays(module: nn.Module, parameter: nn.Parameter, mode: str) -> bool:
    if mode == "all":
        return True
    is_conv_or_fc = isinstance(module, _CONV_AND_FC)
    if mode == "conv_and_fc":
        return is_conv_or_fc
    return not isinstance(module, _NORMS) and not (is_conv_or_fc and parameter is module.bias)
