"""Running statistics of batch normalisation: as if the number of devices did not matter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.batch_norm import combine_statistics, set_momentum


@pytest.mark.parametrize("updates", [1, 2, 8])
def test_a_step_forgets_the_same_whatever_the_number_of_its_updates(updates: int) -> None:
    layer = nn.BatchNorm2d(1)
    set_momentum(layer, updates)
    for _ in range(updates):
        layer(torch.full((4, 1, 2, 2), 5.0))
    assert layer.running_mean is not None
    assert layer.running_mean.item() == pytest.approx(0.1 * 5.0)


def test_alone_there_is_nothing_to_combine() -> None:
    layer = nn.BatchNorm2d(2)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    combine_statistics(layer)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
