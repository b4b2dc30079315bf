"""Distances against other implementations, closed forms and statistical properties."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage
from skimage import data
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from warp_translate.evaluation import distances
from warp_translate.evaluation.distances import frechet_distance, kernel_distance
from warp_translate.evaluation.features import load_extractor


def _naive(x, y):
    """Gretton et al. 2012, equation 3, one pair at a time."""

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j)
    within_y = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    return within_x / (m * (m - 1)) + within_y / (n * (n - 1)) - 2 * across / (m * n)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((5, 2), (8, 2)), ((9, 6), (4, 6))])
def test_kernel_distance_agrees_with_a_double_loop(rng, shapes):
    x, y = (rng.normal(size=shape) for shape in shapes)
    assert kernel_distance(x, y).value == pytest.approx(_naive(x, y), rel=1e-12)


def test_standard_error_is_the_jackknife(rng):
    x, y = rng.normal(size=(6, 3)), rng.normal(0.5, 1, (4, 3))
    without_x = [_naive(np.delete(x, i, 0), y) for i in range(6)]
    without_y = [_naive(x, np.delete(y, i, 0)) for i in range(4)]
    expected = np.sqrt(5 * np.var(without_x) + 3 * np.var(without_y))
    assert kernel_distance(x, y).standard_error == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_closed_values():
    # Features of length 1, all 1 against all 0: (1 + 1)^3 + 1 - 2 * 1.
    ones, zeros = np.ones((4, 1)), np.zeros((5, 1))
    assert kernel_distance(ones, zeros).value == pytest.approx(7, rel=1e-12)
    # Independent of the length, which divides the product.
    assert kernel_distance(np.ones((4, 4)), np.zeros((5, 4))).value == pytest.approx(7, rel=1e-12)
    assert kernel_distance(ones, ones) == distances.KernelDistance(0, 0)


def test_kernel_distance_is_invariant_to_order_and_blocks(rng, monkeypatch):
    x, y = rng.normal(size=(7, 5)), rng.normal(0.3, 1, (9, 5))
    given = kernel_distance(x, y)
    found = [kernel_distance(y, x), kernel_distance(rng.permutation(x), rng.permutation(y))]
    monkeypatch.setattr(distances, "_ROWS_AT_ONCE", 2)
    for other in (*found, kernel_distance(x, y)):
        assert other.value == pytest.approx(given.value, rel=1e-12)
        assert other.standard_error == pytest.approx(given.standard_error, rel=1e-9)


def _moments(rows):
    return torch.tensor(rows.mean(0)), torch.tensor(np.cov(rows, rowvar=False))


@pytest.mark.parametrize("counts", [(200, 150), (9, 12), (3, 40)])
def test_frechet_agrees_with_scipy_and_torchmetrics(rng, counts):
    # More rows than features, fewer of both sets, and fewer of one.
    mix = rng.normal(size=(20, 20)) / 4
    x, y = rng.normal(size=(counts[0], 20)), rng.normal(0.3, 1, (counts[1], 20)) @ mix
    got = frechet_distance(x, y)
    (mean_x, cov_x), (mean_y, cov_y) = _moments(x), _moments(y)
    values, vectors = linalg.eigh(cov_x.numpy())
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    inner = linalg.eigvalsh(root @ cov_y.numpy() @ root)
    expected = ((mean_x - mean_y) ** 2).sum() + np.trace(cov_x) + np.trace(cov_y)
    expected -= 2 * np.sqrt(np.maximum(inner, 0)).sum()
    assert got == pytest.approx(float(expected), rel=1e-6)
    other = float(_compute_fid(mean_x, cov_x, mean_y, cov_y))
    assert got == pytest.approx(other, rel=1e-6)


def test_frechet_closed_values(rng):
    # In one dimension (m1 - m2)^2 + (s1 - s2)^2; these have the deviations 1 and 3.
    x, y = np.array([[-1.0], [0], [1]]), np.array([[2.0], [5], [8]])
    assert frechet_distance(x, y) == pytest.approx(25 + 4, rel=1e-12)
    # A translated set, also with fewer rows than features.
    for count in (5, 100):
        rows = rng.normal(size=(count, 30))
        assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-10)
        assert frechet_distance(rows, rows + 2) == pytest.approx(4 * 30, rel=1e-10)


def test_distances_of_photographs_grow_with_blur():
    photographs = (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    places = np.random.default_rng(0)
    pieces = []
    for photograph in photographs * 12:
        top, left = (places.integers(0, side - 96) for side in photograph.shape[:2])
        pieces.append(photograph[top : top + 96, left : left + 96])
    order = places.permutation(len(pieces))
    first, second = np.stack(pieces)[order[:24]], np.stack(pieces)[order[24:]]
    network = load_extractor("efficientnet_lite0")
    extractor = dataclasses.replace(network, size=(96, 96), batch_size=8)  # Quick.
    given = extractor(first)
    blurred = [extractor(each) for each in (second, ndimage.gaussian_filter(second, (0, 3, 3, 0)))]
    near, far = (kernel_distance(given, each) for each in blurred)
    assert abs(near.value) < 3 * near.standard_error
    assert far.value > 5 * abs(near.value)
    assert far.value > near.value + 3 * far.standard_error
    expected = float(poly_mmd(*(torch.tensor(each).double() for each in (given, blurred[1]))))
    assert far.value == pytest.approx(expected, rel=1e-9)
    near, far = (frechet_distance(given, each) for each in blurred)
    moments = [_moments(each.astype(np.float64)) for each in (given, blurred[1])]
    assert near < far == pytest.approx(float(_compute_fid(*moments[0], *moments[1])), rel=1e-4)


def test_invalid_features_are_an_error(rng):
    x = rng.normal(size=(4, 5))
    for other in (x[:, :3], x[0], x[:, :0]):
        with pytest.raises(ValueError, match=r"must be \[m, d\] and \[n, d\], got \(4, 5\)"):
            kernel_distance(x, other)
        with pytest.raises(ValueError, match=r"must be \[m, d\] and \[n, d\], got \(4, 5\)"):
            frechet_distance(x, other)
    with pytest.raises(ValueError, match="needs 3 rows of either set, got 4 and 2"):
        kernel_distance(x, x[:2])
    with pytest.raises(ValueError, match="finite"):
        kernel_distance(x, np.where(x == x[0, 0], np.nan, x))
    with pytest.raises(
        ValueError, match="Frechet distance needs 2 rows of either set, got 1 and 4"
    ):
        frechet_distance(x[:1], x)
    with pytest.raises(ValueError, match="Frechet distance needs finite"):
        frechet_distance(x, np.where(x == x[0, 0], np.inf, x))
