"""The kernel distance against double loops, closed values and what an unbiased estimate must do."""

import numpy as np
import pytest

from warp_translate.evaluation import distances
from warp_translate.evaluation.distances import kernel_distance


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
def test_agrees_with_a_double_loop(rng, shapes):
    x, y = (rng.normal(size=shape) for shape in shapes)
    assert kernel_distance(x, y).value == pytest.approx(_naive(x, y), rel=1e-12)


def test_the_standard_error_is_that_of_leaving_out_one_by_one(rng):
    x, y = rng.normal(size=(6, 3)), rng.normal(0.5, 1, (4, 3))
    without_x = [_naive(np.delete(x, i, 0), y) for i in range(6)]
    without_y = [_naive(x, np.delete(y, i, 0)) for i in range(4)]
    expected = np.sqrt(5 * np.var(without_x) + 3 * np.var(without_y))
    assert kernel_distance(x, y).standard_error == pytest.approx(expected, rel=1e-10)


def test_closed_values():
    # Features of length 1, all 1 against all 0: (1 + 1)^3 + 1 - 2 * 1.
    ones, zeros = np.ones((4, 1)), np.zeros((5, 1))
    assert kernel_distance(ones, zeros).value == pytest.approx(7, rel=1e-12)
    # The product is divided by the length: with 4 of them all the same.
    assert kernel_distance(np.ones((4, 4)), np.zeros((5, 4))).value == pytest.approx(7, rel=1e-12)
    assert kernel_distance(ones, ones) == distances.KernelDistance(0, 0)


def test_zero_on_average_where_the_distributions_are_equal(rng):
    draws = [kernel_distance(*rng.normal(size=(2, 8, 5))) for _ in range(2000)]
    values = np.array([draw.value for draw in draws])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    # With the diagonal it would be far off: by the mean of k(x, x) over m, twice.
    assert values.std() / np.sqrt(len(values)) < 0.02
    assert (values < 0).any()


def test_the_standard_error_is_the_spread_over_repetitions(rng):
    draws = [
        kernel_distance(rng.normal(size=(30, 4)), rng.normal(0.8, 1, (40, 4))) for _ in range(500)
    ]
    errors = np.array([draw.standard_error for draw in draws])
    spread = np.std([draw.value for draw in draws])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(spread, rel=0.15)


def test_the_order_of_rows_and_of_sets_is_of_no_importance(rng):
    x, y = rng.normal(size=(7, 5)), rng.normal(0.3, 1, (9, 5))
    given = kernel_distance(x, y)
    for other in (kernel_distance(y, x), kernel_distance(rng.permutation(x), rng.permutation(y))):
        assert other.value == pytest.approx(given.value, rel=1e-12)
        assert other.standard_error == pytest.approx(given.standard_error, rel=1e-9)


def test_cutting_the_matrix_into_blocks_changes_nothing(rng, monkeypatch):
    x, y = rng.normal(size=(7, 5)), rng.normal(0.3, 1, (9, 5))
    whole = kernel_distance(x, y)
    monkeypatch.setattr(distances, "_ROWS_AT_ONCE", 2)
    assert kernel_distance(x, y).value == pytest.approx(whole.value, rel=1e-12)


def test_grows_as_the_sets_move_apart(rng):
    x, y = rng.normal(size=(2, 50, 4))
    values = [kernel_distance(x, y + shift).value for shift in (0, 0.5, 1, 2)]
    assert values == sorted(values) and values[0] < 0.3 < values[1]


def test_features_of_another_shape_or_value_are_refused(rng):
    x = rng.normal(size=(4, 5))
    for other in (x[:, :3], x[0], x[:, :0]):
        with pytest.raises(ValueError, match=r"must be \[m, d\] and \[n, d\], got \(4, 5\)"):
            kernel_distance(x, other)
    with pytest.raises(ValueError, match="needs 3 rows of either set, got 4 and 2"):
        kernel_distance(x, x[:2])
    with pytest.raises(ValueError, match="finite"):
        kernel_distance(x, np.where(x == x[0, 0], np.nan, x))
