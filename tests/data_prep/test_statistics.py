"""Statistics against plain NumPy arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.statistics import Totals
from trainer.jpeg import decode

Photo = Callable[..., PIL.Image.Image]


def total(images: list[np.ndarray]) -> Totals:
    totals = Totals()
    for image in images:
        totals.add(image)
    return totals


@pytest.fixture(scope="module")
def photos(photo: Photo) -> list[np.ndarray]:
    return [np.asarray(photo(seed, 256 + 8 * seed, 256)) for seed in range(6)]


def test_mean_and_deviation_are_those_of_the_centre_crops(photos: list[np.ndarray]) -> None:
    crops = np.stack([image[16:240, (image.shape[1] - 224) // 2 :][:, :224] for image in photos]).astype(np.float64)
    statistics, mean_image = total(photos).finish(False, "m.npy")
    assert (statistics.images, statistics.mean_image) == (6, "m.npy")
    assert statistics.mean == pytest.approx(crops.mean(axis=(0, 1, 2)), abs=1e-6)
    assert statistics.std == pytest.approx(crops.std(axis=(0, 1, 2)), abs=1e-6)
    assert mean_image.dtype == np.float32
    assert np.array_equal(mean_image, crops.mean(axis=0).astype(np.float32))


def test_principal_components_diagonalise_the_covariance(photos: list[np.ndarray]) -> None:
    statistics, _ = total(photos).finish(False, "m.npy")
    crops = np.stack([image[16:240, (image.shape[1] - 224) // 2 :][:, :224] for image in photos])
    covariance = np.cov(crops.reshape(-1, 3).T, bias=True)
    vectors, values = np.array(statistics.eigenvectors), np.array(statistics.eigenvalues)
    assert (np.diff(values) <= 0).all()
    assert np.allclose(vectors @ np.diag(values) @ vectors.T, covariance, rtol=1e-4, atol=0.02)
    assert (vectors[np.abs(vectors).argmax(axis=0), np.arange(3)] > 0).all(), "the sign is fixed"


@given(seed=st.integers(0, 1000), parts=st.integers(1, 4))
@settings(deadline=None, max_examples=15)
def test_neither_order_nor_partition_matters(photos: list[np.ndarray], seed: int, parts: int) -> None:
    order = np.random.default_rng(seed).permutation(len(photos))
    merged = Totals()
    for part in np.array_split(order, parts):
        merged.merge(total([photos[i] for i in part]))
    expected, expected_mean = total(photos).finish(False, "m.npy")
    statistics, mean = merged.finish(False, "m.npy")
    assert statistics == expected
    assert np.array_equal(mean, expected_mean)


class TestMeanImage:
    def test_of_small_images_of_one_size_it_has_that_size(self, photo: Photo) -> None:
        images = [np.asarray(photo(seed, 32, 30)) for seed in range(4)]
        statistics, mean = total(images).finish(True, "m.npy")
        assert np.array_equal(mean, np.mean(images, axis=0).astype(np.float32))
        assert statistics.mean == pytest.approx(np.mean(images, axis=(0, 1, 2)), abs=1e-6)

    def test_else_it_is_of_the_crops(self, photo: Photo) -> None:
        small = [np.asarray(photo(seed, 32, 30)) for seed in range(4)]
        assert total(small).finish(False, "m.npy")[1].shape == (224, 224, 3), "images that were not sampled differ"
        assert total([*small, np.asarray(photo(9, 33, 30))]).finish(False, "m.npy")[1].shape == (224, 224, 3)
        assert total([np.asarray(photo(9, 400, 300))] * 2).finish(True, "m.npy")[1].shape == (224, 224, 3)

    @pytest.mark.parametrize("sizes", [[(32, 32), (40, 32), (32, 32)], [(32, 32), (300, 300), (32, 32)]])
    def test_a_mixture_stays_a_mixture(self, photo: Photo, sizes: list[tuple[int, int]]) -> None:
        totals = total([np.asarray(photo(0, *size)) for size in sizes])
        assert totals.mixed
        assert totals.whole is None


def test_gray_images_have_one_component() -> None:
    gray = np.repeat(np.random.default_rng(0).integers(0, 256, (224, 224, 1), np.uint8), 3, axis=2)
    statistics, _ = total([gray]).finish(True, "m.npy")
    assert [row[0] for row in statistics.eigenvectors] == pytest.approx([3**-0.5] * 3, abs=1e-6)
    assert statistics.eigenvalues[1:] == [0, 0]


def test_sums_of_a_large_data_set_stay_exact() -> None:
    totals = Totals()
    white = total([np.full((224, 224, 3), 255, np.uint8)])
    for _ in range(40):
        totals.merge(white)
    statistics, mean = totals.finish(True, "m.npy")
    assert statistics.mean == [255.0] * 3
    assert statistics.std == [0.0] * 3, "the difference of two large numbers, exactly"
    assert (mean == 255).all()


@pytest.mark.parametrize(("width", "height"), [(300, 260), (224, 500), (100, 80)])
def test_a_jpeg_counts_as_its_pixels_do(photo: Photo, encoded: Callable[..., bytes], width: int, height: int) -> None:
    from_jpeg, from_pixels = Totals(), Totals()
    for seed in range(3):
        data = encoded(photo(seed, width, height), quality=95)
        from_jpeg.add_jpeg(data, width, height)
        from_pixels.add(decode(data))
    (one, one_image), (other, other_image) = (totals.finish(True, "x") for totals in (from_jpeg, from_pixels))
    assert one.images == other.images == 3
    assert one_image.shape == other_image.shape == ((224, 224, 3) if width > 200 else (80, 100, 3))
    assert one.mean == pytest.approx(other.mean, abs=0.5)
    assert one.std == pytest.approx(other.std, abs=0.5)
