import jax
import jax.numpy as jnp
import numpy as np
import pytest

from warp_translate.types import to_float, to_uint8

LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_round_trip_keeps_every_level():
    np.testing.assert_array_equal(to_uint8(to_float(LEVELS)), LEVELS)
    np.testing.assert_array_equal(jax.jit(lambda x: to_uint8(to_float(x)))(LEVELS), LEVELS)


def test_to_float_maps_linearly_to_the_given_dtype():
    np.testing.assert_allclose(to_float(LEVELS), LEVELS.astype(np.float64) / 255 * 2 - 1, atol=1e-7)
    halves = to_float(LEVELS, jnp.bfloat16)
    assert halves.dtype == jnp.bfloat16
    np.testing.assert_array_equal(halves, to_float(LEVELS).astype(jnp.bfloat16))


def test_to_uint8_clips():
    values = jnp.asarray([-np.inf, -7.0, -1.01, 1.01, 7.0, np.inf])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 0, 255, 255, 255])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_to_uint8_rounds_to_nearest(rng, dtype):
    values = jnp.asarray(rng.uniform(-1, 1, 1000), dtype)
    exact = (np.asarray(values, np.float64) + 1) / 2 * 255
    assert np.abs(np.asarray(to_uint8(values), np.float64) - exact).max() < 0.5001


@pytest.mark.parametrize("dtype", ["float32", "int32", "int8"])
def test_error_names_the_dtype(dtype):
    with pytest.raises(ValueError, match=dtype):
        to_float(jnp.zeros((1, 2, 2, 3), dtype))
    with pytest.raises(ValueError, match="uint8"):
        to_uint8(LEVELS)
