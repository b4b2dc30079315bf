import jax
import jax.numpy as jnp
import numpy as np
import pytest

from warp_translate.losses.regularizers import (
    displacement_smoothness,
    mask_band,
    mask_total_variation,
)


def numpy_smoothness(field, order):
    field = np.asarray(field, np.float64)
    return sum(np.abs(np.diff(field, n=order, axis=axis)).mean((1, 2, 3)) for axis in (1, 2))


@pytest.mark.parametrize("order", [1, 2])
def test_smoothness_is_the_mean_absolute_difference_along_both_axes(rng, order):
    field = rng.normal(0, 3, (2, 7, 5, 2)).astype(np.float32)
    smoothness = displacement_smoothness(field, order=order)
    assert smoothness.shape == (2,)
    np.testing.assert_allclose(smoothness, numpy_smoothness(field, order), rtol=1e-5)


def affine_field(height, width):
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([0.5 * xs - 0.25 * ys + 3, 2 * ys + 0.125 * xs - 7], axis=-1)[None]


def test_first_order_is_zero_for_a_translation_and_counts_the_slopes_of_an_affine_field():
    constant = jnp.full((1, 6, 5, 2), 4.5)
    np.testing.assert_array_equal(displacement_smoothness(constant, order=1), 0)
    # Mean over the two components of |d/dy| = .25, 2 and of |d/dx| = .5, .125.
    expected = (0.25 + 2) / 2 + (0.5 + 0.125) / 2
    np.testing.assert_allclose(displacement_smoothness(affine_field(6, 5), order=1), expected)


def test_second_order_leaves_affine_fields_free_but_not_a_bend():
    field = affine_field(6, 5)
    np.testing.assert_array_equal(displacement_smoothness(field, order=2), 0)
    bent = field + np.square(np.arange(5, dtype=np.float32))[:, None]
    np.testing.assert_allclose(displacement_smoothness(bent, order=2), 2.0)


def test_total_variation_of_a_step_is_its_height_over_the_number_of_differences():
    mask = np.zeros((2, 4, 5, 1), np.float32)
    mask[0, :, 3:] = 0.5  # a vertical edge: one of four horizontal differences
    mask[1, 1:, :] = 1.0  # a horizontal edge: one of three vertical differences
    np.testing.assert_allclose(mask_total_variation(mask), [0.5 / 4, 1 / 3], rtol=1e-6)


def test_total_variation_equals_numpy(rng):
    mask = rng.uniform(0, 1, (3, 6, 7, 1)).astype(np.float32)
    np.testing.assert_allclose(mask_total_variation(mask), numpy_smoothness(mask, 1), rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 1, 6), (2, 6, 1), (2, 2, 2)])
def test_sides_too_short_to_differ_count_as_smooth_and_have_finite_gradients(rng, shape):
    field = rng.normal(0, 1, (*shape, 2)).astype(np.float32)

    @jax.jit
    def values_and_slopes(field):
        functions = (
            lambda x: displacement_smoothness(x, order=1),
            lambda x: displacement_smoothness(x, order=2),
            lambda x: mask_total_variation(x[..., :1]),
        )
        slopes = [jax.grad(lambda x, f=function: f(x).sum())(field) for function in functions]
        return [function(field) for function in functions], slopes

    (first, second, variation), slopes = values_and_slopes(field)
    assert all(np.isfinite(slope).all() for slope in slopes)

    def mean_of(differences):
        return np.abs(differences).mean((1, 2, 3)) if differences.size else np.zeros(2)

    for value, x, order in [(first, field, 1), (second, field, 2), (variation, field[..., :1], 1)]:
        expected = sum(mean_of(np.diff(x.astype(np.float64), order, axis)) for axis in (1, 2))
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("order", [0, 3, 1.5])
def test_smoothness_of_another_order_raises_an_error(order):
    with pytest.raises(ValueError, match=str(order)):
        displacement_smoothness(jnp.zeros((1, 4, 4, 2)), order=order)


@pytest.mark.parametrize("mean", [0.2, 0.5, 0.7])
def test_the_band_costs_nothing_inside(mean):
    assert mask_band(jnp.full((1, 3, 4, 1), mean), 0.1, 0.8) == 0


@pytest.mark.parametrize(("mean", "distance"), [(0.0, 0.25), (0.1, 0.15), (0.9, 0.15), (1.0, 0.25)])
def test_the_band_costs_the_squared_distance_outside(mean, distance):
    cost = mask_band(jnp.full((1, 3, 4, 1), mean), 0.25, 0.75)
    np.testing.assert_allclose(cost, distance**2, rtol=1e-5)


def test_the_band_pulls_the_mean_inwards_from_both_sides():
    mask = jnp.stack([jnp.full((3, 4, 1), 0.1), jnp.full((3, 4, 1), 0.9)])
    slope = jax.grad(lambda m: mask_band(m, 0.25, 0.75).sum())(mask)
    assert (slope[0] < 0).all()
    assert (slope[1] > 0).all()


def test_the_band_looks_at_each_example_and_not_at_the_mean_of_the_batch():
    mask = jnp.stack([jnp.zeros((3, 4, 1)), jnp.ones((3, 4, 1))])
    np.testing.assert_allclose(mask_band(mask, 0.25, 0.75), [0.0625, 0.0625])
    assert mask_band(mask, 0.25, 0.75).mean() != mask_band(mask.mean(0)[None], 0.25, 0.75)[0]


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.5), (0.5, 1.1), (0.6, 0.4)])
def test_a_band_that_is_none_raises_an_error_with_its_ends(low, high):
    with pytest.raises(ValueError, match=f"{low} and {high}"):
        mask_band(jnp.zeros((1, 2, 2, 1)), low, high)


def test_bfloat16_fields_are_judged_in_float32(rng):
    field = jnp.asarray(rng.uniform(0, 1, (1, 64, 64, 2)), jnp.bfloat16)
    exact = np.asarray(field.astype(jnp.float32), np.float64)
    smoothness = displacement_smoothness(field, order=1)
    assert smoothness.dtype == jnp.float32
    np.testing.assert_allclose(smoothness, numpy_smoothness(exact, 1), rtol=1e-5)
    mean = exact[..., :1].mean((1, 2, 3))
    np.testing.assert_allclose(mask_band(field[..., :1], 0.9, 1.0), (0.9 - mean) ** 2, rtol=1e-4)
