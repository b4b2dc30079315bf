import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.ops.reference import noise, numpy_warp, off_the_grid, scipy_warp
from warp_translate.ops import bilinear_warp


def torch_warp(image, displacement):
    """``grid_sample`` on NHWC tensors in pixels; both sides longer than one pixel."""
    _, height, width, _ = image.shape
    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=image.dtype),
        torch.arange(width, dtype=image.dtype),
        indexing="ij",
    )
    grid = torch.stack(
        [
            2 * (xs + displacement[..., 0]) / (width - 1) - 1,
            2 * (ys + displacement[..., 1]) / (height - 1) - 1,
        ],
        dim=-1,
    )
    sampled = torch.nn.functional.grid_sample(
        image.permute(0, 3, 1, 2), grid, padding_mode="border", align_corners=True
    )
    return sampled.permute(0, 2, 3, 1)


def smooth_and_noisy(rng, batch, height, width, amplitude):
    """Waves with noise, reaching far beyond the border of a small image."""
    ys, xs = np.mgrid[:height, :width]
    phases = rng.uniform(0, 2 * np.pi, (batch, 1, 1, 2))
    waves = np.sin(xs[None, :, :, None] / 17 + ys[None, :, :, None] / 29 + phases)
    field = 0.8 * amplitude * waves + rng.uniform(-0.2, 0.2, waves.shape) * amplitude
    return field.astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "amplitude"),
    [
        ((2, 33, 47, 3), 5.0),  # odd, not square, two different examples
        ((3, 20, 9, 5), 40.0),  # far beyond the border
        ((1, 16, 31, 1), 0.7),
        ((1, 13, 14, 2), 9.0),
        ((1, 8, 24, 12), 3.0),
        ((2, 1, 19, 3), 6.0),  # one pixel high
        ((2, 19, 1, 3), 6.0),  # one pixel wide
        ((2, 1, 1, 3), 6.0),
    ],
)
def test_equals_map_coordinates(rng, shape, amplitude):
    image, displacement = noise(rng, *shape), smooth_and_noisy(rng, *shape[:3], amplitude)
    warped = bilinear_warp(image, displacement)
    assert warped.shape == shape
    assert warped.dtype == jnp.float32
    np.testing.assert_allclose(warped, scipy_warp(image, displacement), rtol=0, atol=1e-6)


def test_equals_map_coordinates_and_grid_sample_at_1024_px(rng):
    image = noise(rng, 1, 1024, 1024, 2)
    displacement = smooth_and_noisy(rng, 1, 1024, 1024, 50.0)
    warped = bilinear_warp(image, displacement)
    assert np.abs(displacement).max() > 45
    np.testing.assert_allclose(warped, scipy_warp(image, displacement), rtol=0, atol=1e-6)
    reference = torch_warp(torch.tensor(image).double(), torch.tensor(displacement).double())
    np.testing.assert_allclose(warped, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once_after_a_float32_blend(rng, dtype):
    image = jnp.asarray(noise(rng, 1, 40, 40, 3), dtype)
    displacement = smooth_and_noisy(rng, 1, 40, 40, 7.0)
    warped = bilinear_warp(image, displacement)
    assert warped.dtype == image.dtype
    reference = scipy_warp(image.astype(jnp.float32), displacement)
    half_a_unit = float(jnp.finfo(dtype).eps) / 2
    error = np.abs(np.asarray(warped, np.float64) - reference)
    assert (error <= half_a_unit * np.abs(reference) + 1e-6).all()


def test_displacement_is_float32_for_a_bfloat16_image():
    image = jnp.asarray(np.arange(400)[None, None, :, None] % 2, jnp.bfloat16)
    displacement = np.zeros((1, 1, 400, 2), np.float32)
    displacement[..., 0] = 100.3  # would be 100.5 in bfloat16
    warped = np.asarray(bilinear_warp(image, displacement), np.float64)[0, 0, :299, 0]
    np.testing.assert_allclose(warped, np.where(np.arange(299) % 2, 0.7, 0.3), rtol=2.0**-8)


def test_uint8_is_rounded_to_nearest(rng):
    image = rng.integers(0, 256, (2, 60, 50, 3), dtype=np.uint8)
    displacement = smooth_and_noisy(rng, 2, 60, 50, 8.0)
    warped = bilinear_warp(image, displacement)
    assert warped.dtype == jnp.uint8
    reference = scipy_warp(image, displacement)
    tie = np.abs(reference - np.floor(reference) - 0.5) < 1e-4
    assert tie.mean() < 0.01
    np.testing.assert_array_equal(np.asarray(warped)[~tie], np.rint(reference)[~tie])
    assert np.abs(np.asarray(warped, np.float64) - reference).max() < 0.5 + 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zero_displacement_returns_the_image(rng, dtype, zero):
    image = jnp.asarray(rng.uniform(0, 255, (2, 7, 5, 3)), dtype)
    warped = bilinear_warp(image, jnp.full((2, 7, 5, 2), zero))
    np.testing.assert_array_equal(warped, image)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("value", "border"), [(1e30, -1), (np.inf, -1), (-1e30, 0), (-np.inf, 0), (3e9, -1)]
)
def test_huge_or_infinite_displacement_reads_the_border(rng, axis, value, border):
    image = noise(rng, 1, 6, 7, 2)
    displacement = off_the_grid(rng, 1, 6, 7, 2)
    displacement[..., axis] = value
    warped = np.asarray(bilinear_warp(image, displacement))
    edge = image[:, :, [border]] if axis == 0 else image[:, [border]]
    other = displacement.copy()
    other[..., axis] = 0
    expected = scipy_warp(np.broadcast_to(edge, image.shape), other)
    np.testing.assert_allclose(warped, expected, rtol=0, atol=1e-6)


def test_nan_displacement_reads_a_border_pixel_of_its_axis(rng):
    image = noise(rng, 1, 6, 7, 1)
    displacement = np.zeros((1, 6, 7, 2), np.float32)
    displacement[..., 0] = np.nan
    warped = np.asarray(bilinear_warp(image, displacement))
    for row in range(6):
        assert set(warped[0, row, :, 0]) <= {image[0, row, 0, 0], image[0, row, -1, 0]}
    upright = displacement[..., ::-1]
    warped = np.asarray(bilinear_warp(image, upright))
    for column in range(7):
        assert set(warped[0, :, column, 0]) <= {image[0, 0, column, 0], image[0, -1, column, 0]}


def scalar(weights):
    return lambda image, displacement: (bilinear_warp(image, displacement) * weights).sum()


@jax.jit
def gradients_of(image, displacement, weights):
    return jax.grad(scalar(weights), (0, 1))(image, displacement)


@pytest.mark.parametrize("value", [1e30, -1e30, np.inf, -np.inf, np.nan])
def test_displacements_off_the_image_have_zero_gradient(rng, value):
    image, weights = noise(rng, 1, 6, 7, 2), noise(rng, 1, 6, 7, 2)
    displacement = off_the_grid(rng, 1, 6, 7, 0)
    displacement[0, 2, 3, 0] = value
    displacement[0, 4, 4, :] = value
    image_gradient, slope = gradients_of(image, displacement, weights)
    assert np.isfinite(image_gradient).all()
    assert np.isfinite(slope).all()
    assert slope[0, 2, 3, 0] == 0
    assert slope[0, 2, 3, 1] != 0
    np.testing.assert_array_equal(slope[0, 4, 4], 0)
    # The four shares of a pixel sum to one, wherever it reads.
    np.testing.assert_allclose(image_gradient.sum((0, 1, 2)), weights.sum((0, 1, 2)), atol=1e-5)


def central_differences(function, array, epsilon=1e-4):
    slope = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        step = np.zeros(array.shape)
        step[index] = epsilon
        slope[index] = (function(array + step) - function(array - step)) / (2 * epsilon)
    return slope


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (1, 1, 6, 2), (1, 5, 1, 2)])
def test_gradients_match_finite_differences(rng, shape):
    image, weights = noise(rng, *shape), noise(rng, *shape)
    displacement = off_the_grid(rng, *shape[:3], 2)  # also beyond the border
    image_gradient, slope = gradients_of(image, displacement, weights)
    exact, field = image.astype(np.float64), displacement.astype(np.float64)
    np.testing.assert_allclose(
        image_gradient,
        central_differences(lambda x: (numpy_warp(x, field) * weights).sum(), exact),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        slope,
        central_differences(lambda d: (numpy_warp(exact, d) * weights).sum(), field),
        atol=1e-5,
    )


def test_zero_displacement_has_the_slope_towards_the_next_pixel(rng):
    image = noise(rng, 1, 5, 6, 1)
    slopes = jax.jit(jax.grad(lambda d: bilinear_warp(image, d).sum()))
    slope = slopes(np.zeros((1, 5, 6, 2), np.float32))
    expected = np.zeros((1, 5, 6, 2))
    expected[:, :, :-1, 0] = np.diff(image[..., 0], axis=2)
    expected[:, :-1, :, 1] = np.diff(image[..., 0], axis=1)
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_second_derivatives_match_finite_differences(rng):
    image, weights = noise(rng, 1, 4, 5, 2), noise(rng, 1, 4, 5, 2)
    displacement, direction = off_the_grid(rng, 1, 4, 5, 1), noise(rng, 1, 4, 5, 2)

    def slope_along(x, d):
        return (jax.grad(scalar(weights), 1)(x, d) * direction).sum()

    image_second, second = jax.jit(jax.grad(slope_along, (0, 1)))(image, displacement)
    epsilon = 1e-3
    exact, field = image.astype(np.float64), displacement.astype(np.float64)

    def reference(x, d):
        def value(sign):
            return (numpy_warp(x, d + sign * epsilon * direction) * weights).sum()

        return (value(1) - value(-1)) / (2 * epsilon)

    np.testing.assert_allclose(
        image_second, central_differences(lambda x: reference(x, field), exact, 1.0), atol=1e-5
    )
    np.testing.assert_allclose(
        second, central_differences(lambda d: reference(exact, d), field, 1e-3), atol=1e-5
    )
    assert np.abs(second).max() > 0.1


def test_gradients_have_the_dtypes_of_their_arguments(rng):
    image = jnp.asarray(noise(rng, 1, 4, 5, 3), jnp.bfloat16)
    displacement = jnp.asarray(off_the_grid(rng, 1, 4, 5, 1))
    image_gradient, slope = jax.eval_shape(
        jax.grad(lambda x, d: bilinear_warp(x, d).astype(jnp.float32).sum(), (0, 1)),
        image,
        displacement,
    )
    assert image_gradient.dtype == jnp.bfloat16
    assert slope.dtype == jnp.float32


def test_vmap_keeps_values_and_gradients(rng):
    images, fields = noise(rng, 3, 2, 6, 5, 3), off_the_grid(rng, 6, 6, 5, 3).reshape(3, 2, 6, 5, 2)
    weights = noise(rng, 2, 6, 5, 3)

    @jax.jit
    @jax.vmap
    def mapped(image, field):
        return bilinear_warp(image, field), jax.grad(scalar(weights), (0, 1))(image, field)

    warped, (image_gradients, slopes) = mapped(images, fields)
    for index in range(3):
        np.testing.assert_allclose(
            warped[index], numpy_warp(images[index], fields[index]), rtol=0, atol=1e-6
        )
        image_gradient, slope = gradients_of(images[index], fields[index], weights)
        np.testing.assert_allclose(image_gradients[index], image_gradient, atol=1e-6)
        np.testing.assert_allclose(slopes[index], slope, atol=1e-6)


@pytest.mark.parametrize(
    ("image_shape", "displacement_shape"),
    [
        ((4, 5, 3), (1, 4, 5, 2)),
        ((1, 4, 5, 3), (4, 5, 2)),
        ((1, 4, 5, 3), (1, 4, 5, 3)),
        ((1, 4, 5, 3), (1, 5, 4, 2)),
        ((2, 4, 5, 3), (1, 4, 5, 2)),
        ((1, 0, 5, 3), (1, 0, 5, 2)),
        ((0, 4, 5, 3), (0, 4, 5, 2)),
        ((1, 4, 5, 0), (1, 4, 5, 2)),
    ],
)
def test_error_names_wrong_shapes(image_shape, displacement_shape):
    with pytest.raises(ValueError, match=re.escape(str(image_shape))) as raised:
        bilinear_warp(jnp.zeros(image_shape), jnp.zeros(displacement_shape))
    if 0 not in image_shape:
        assert str(displacement_shape) in str(raised.value)


@pytest.mark.parametrize(
    ("image_type", "displacement_type", "wrong"),
    [("float32", "int32", "int32"), ("int32", "float32", "int32"), ("bool", "float32", "bool")],
)
def test_error_names_wrong_dtypes(image_type, displacement_type, wrong):
    with pytest.raises(ValueError, match=wrong):
        bilinear_warp(
            jnp.zeros((1, 4, 5, 3), image_type), jnp.zeros((1, 4, 5, 2), displacement_type)
        )


def test_error_for_more_pixels_than_int32_can_index():
    image = jax.ShapeDtypeStruct((1, 2**16, 2**15, 1), jnp.uint8)
    displacement = jax.ShapeDtypeStruct((1, 2**16, 2**15, 2), jnp.float32)
    with pytest.raises(ValueError, match="int32"):
        jax.eval_shape(bilinear_warp, image, displacement)
