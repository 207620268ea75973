"""Normalisation and colour on the device, against the formulas written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.data.colour import IMAGENET, Preprocess, colour_statistics, mean_image_for
from trainer.data.manifest import Checksums, Manifest, Statistics
from trainer.errors import UsageError

IMAGES = torch.randint(0, 256, (5, 6, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NONE = torch.zeros(5, 3)


def test_channel_normalisation_is_minus_mean_over_std() -> None:
    want = (IMAGES.numpy().astype(np.float64) - IMAGENET.mean) / IMAGENET.std
    got = Preprocess(IMAGENET)(IMAGES, NONE)
    assert got.shape == (5, 3, 6, 7)
    assert got.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(got.permute(0, 2, 3, 1).numpy(), want, atol=1e-5)


def test_a_mean_image_is_subtracted_and_nothing_divided() -> None:
    mean_image = torch.rand(6, 7, 3) * 255
    got = Preprocess(IMAGENET, mean_image=mean_image)(IMAGES, NONE)
    torch.testing.assert_close(got.permute(0, 2, 3, 1), IMAGES.float() - mean_image)


@pytest.mark.parametrize("mean_image", [None, torch.zeros(6, 7, 3)])
def test_the_colour_shift_is_p_times_a_lambda(mean_image: torch.Tensor | None) -> None:
    # Krizhevsky et al. 2012: [p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T added to every pixel before normalisation.
    draws = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    vectors, values = np.array(IMAGENET.eigenvectors), np.array(IMAGENET.eigenvalues)
    shift = np.stack([vectors @ (0.1 * draw * values) for draw in draws.numpy().astype(np.float64)])
    std = np.array(IMAGENET.std) if mean_image is None else np.ones(3)
    plain = Preprocess(IMAGENET, mean_image=mean_image)(IMAGES, NONE)
    augmented = Preprocess(IMAGENET, 0.1, mean_image)(IMAGES, draws)
    difference = (augmented - plain).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(difference, np.broadcast_to((shift / std)[:, None, None], difference.shape), atol=1e-4)


def test_imagenets_constants_are_those_of_the_sources() -> None:
    assert IMAGENET.mean == pytest.approx([255 * value for value in (0.485, 0.456, 0.406)])
    assert IMAGENET.std == pytest.approx([255 * value for value in (0.229, 0.224, 0.225)])
    assert IMAGENET.eigenvalues == pytest.approx([55.4625, 4.794, 1.1475])


def manifest_of(covariance: np.ndarray) -> Manifest:
    values, vectors = np.linalg.eigh(covariance)
    statistics = Statistics(1, [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], values[::-1].tolist(), vectors[:, ::-1].tolist(), "")
    return Manifest(1, ["a"], [1], {}, {}, {}, Checksums(1, "", [], ""), "", statistics)


def test_measured_statistics_have_the_unit_of_the_constants() -> None:
    # Covariance of RGB in [0, 1] with the eigenvalues of the constants, stated for [0, 255] as manifests do.
    vectors = np.linalg.qr(np.array(IMAGENET.eigenvectors))[0]
    covariance = vectors @ np.diag([0.2175, 0.0188, 0.0045]) @ vectors.T * 255**2
    measured = colour_statistics("data", manifest_of(covariance), "x.beton")
    assert measured.eigenvalues == pytest.approx(IMAGENET.eigenvalues, rel=1e-6)
    assert measured.mean == (1.0, 2.0, 3.0)
    assert measured.std == (4.0, 5.0, 6.0)


def test_statistics_of_a_beton_without_a_manifest_are_refused() -> None:
    with pytest.raises(UsageError, match=r"x\.beton: no manifest.*data\.statistics=imagenet"):
        colour_statistics("data", None, "x.beton")


def test_a_mean_image_of_another_size_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.beton.mean.npy", np.zeros((32, 32, 3), np.float32))
    assert mean_image_for(str(tmp_path / "x.beton"), 32).shape == (32, 32, 3)
    with pytest.raises(UsageError, match="32x32, the crops are 224x224"):
        mean_image_for(str(tmp_path / "x.beton"), 224)
    with pytest.raises(UsageError, match="cannot read the mean image"):
        mean_image_for(str(tmp_path / "y.beton"), 224)
