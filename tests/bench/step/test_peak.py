"""What 100 % are."""

from __future__ import annotations

import pytest
import torch

from trainer.bench.step import peak
from trainer.bench.step.peak import flops_of, peak_of
from trainer.plan.constants import DEVICES

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_a_training_step_is_three_forward_passes_of_two_operations() -> None:
    assert flops_of(macs=4_000_000_000, images_per_s=1000) == 24e12


def test_a_known_gpu_has_its_data_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert peak_of(GPU, "bf16").flops == DEVICES["h100"].half
    assert peak_of(GPU, "fp32").flops == DEVICES["h100"].single
    assert peak_of(GPU, "bf16").origin == "bf16, data sheet of H100 SXM5, 80 GB"


def test_other_devices_and_precisions_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Instinct MI300X")
    monkeypatch.setattr(peak, "_measure", lambda device, precision, side: 1.5e14)
    for precision in ("bf16", "fp32", "tf32"):
        assert peak_of(GPU, precision) == peak.Peak(
            1.5e14, f"{precision}, best product of two matrices of 8,192, this run"
        )


def test_a_cpu_multiplies_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "SECONDS", 0.0)
    monkeypatch.setitem(peak.SIDE, "cpu", 64)
    assert peak_of(CPU, "fp32").flops > 1e6
