"""Detail ratios against SciPy and NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft, ndimage
from skimage import data

from warp_translate.evaluation import sharpness

RATIOS = (sharpness.sharpness_ratio, sharpness.gradient_ratio, sharpness.high_frequency_ratio)


@jax.jit
def measured(images, references):
    """All ratios, in one program per shape."""
    return jnp.stack([ratio(images, references) for ratio in RATIOS])


def _pictures(rng, shape):
    """Noisy images with increasing detail, and their references."""
    base = ndimage.gaussian_filter(rng.uniform(-1, 1, shape), (0, 1, 1, 0))
    amount = np.linspace(0.02, 0.3, shape[0]).reshape(-1, 1, 1, 1)
    noisy = np.clip(base + amount * rng.normal(size=shape), -1, 1)
    return noisy.astype(np.float32), base.astype(np.float32)


def _luma(image):
    weights = [0.299, 0.587, 0.114] if image.shape[-1] == 3 else [1]
    return (np.float64(image) + 1) / 2 @ np.array(weights)


def _reference_sharpness(image):
    return np.var(ndimage.laplace(_luma(image), mode="nearest")) + 1e-8


def _reference_gradient(image):
    along = [
        ndimage.correlate1d(_luma(image), [-0.5, 0, 0.5], axis, mode="nearest") for axis in (0, 1)
    ]
    return np.hypot(*along).mean() + 1e-6


def _reference_energy(image):
    luma = _luma(image)
    window = functools.reduce(
        np.multiply.outer,
        (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size) for size in luma.shape),
    )
    luma = luma - np.average(luma, weights=window)
    power = np.abs(fft.fft2(luma * window)) ** 2 / (window**2).sum()
    rows, columns = (fft.fftfreq(size) for size in luma.shape)
    frequency = np.sqrt(rows[:, None] ** 2 + columns[None] ** 2)
    return power[frequency > 0.25].sum() / power.size + 1e-9


REFERENCES = (_reference_sharpness, _reference_gradient, _reference_energy)


@pytest.mark.parametrize(
    "shape", [(24, 31, 3), (31, 24, 1), (4, 4, 3), (2, 3, 3), (1, 9, 3), (1, 1, 3)]
)
def test_ratios_agree_with_float64(rng, shape):
    x, y = _pictures(rng, (3, *shape))
    expected = [
        [reference(a) / reference(b) for a, b in zip(x, y, strict=True)] for reference in REFERENCES
    ]
    got = measured(x, y)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=2e-4)


def test_ratios_decrease_with_blur(rng):
    photograph = np.float32(data.astronaut()[None, 64:192, 160:288] / 127.5 - 1)
    blurs = [ndimage.gaussian_filter(photograph, (0, s, s, 0)) for s in (0.4, 0.7, 1, 1.5, 2, 3, 5)]
    noisy = np.float32(photograph + rng.normal(0, 0.1, photograph.shape))
    images = np.concatenate([noisy, photograph, *blurs])
    got = measured(images, photograph.repeat(len(images), 0))
    assert (got[:, 0] > 1.1).all() and (got[:, 1] == 1).all() and (got[:, -1] < 0.4).all()
    assert (np.diff(got[:, 1:]) < 0).all()


def test_flat_images_have_ratio_one_and_flat_references_a_finite_one(rng):
    flat = np.zeros((64, 64, 3), np.float32)
    spot = flat.copy()
    spot[32, 32] = 1
    rounded = np.float32(rng.uniform(-1, 1, flat.shape) / 255)
    got = measured(np.stack([flat, spot, rounded]), np.stack([flat + 0.7, flat, flat]))
    np.testing.assert_allclose(got[:, 0], 1, rtol=1e-3)
    # Rounding to 8 bits outweighs the constants.
    assert (got[:, 1] > 100).all() and (got[:, 1] < 1e9).all() and (got[:, 2] > 50).all()


def test_half_precision_images_are_measured_in_float32(rng):
    x, y = (jnp.asarray(a, jnp.bfloat16) for a in _pictures(rng, (3, 24, 31, 3)))
    got = measured(x, y)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(
        got, measured(np.asarray(x, np.float32), np.asarray(y, np.float32))
    )


def test_rounding_errors_do_not_accumulate(rng):
    # A float32 running sum over a million pixels would be off in the third digit.
    small = rng.uniform(-1, 1, (1, 32, 32, 1)).astype(np.float32)
    tiled = np.tile(small, (1, 16, 32, 1))
    other = tiled[:, ::-1] / 2 + 0.3
    expected = [[reference(tiled[0]) / reference(other[0])] for reference in REFERENCES]
    np.testing.assert_allclose(measured(tiled, other), expected, rtol=1e-4)


@pytest.mark.parametrize("ratio", RATIOS)
def test_invalid_images_are_an_error(ratio):
    image = np.zeros((1, 12, 12, 4), np.float32)
    with pytest.raises(
        ValueError, match=rf"{ratio.__name__} takes 1 or 3 channels, got shape \(1, 12, 12, 4\)"
    ):
        ratio(image, image)
    with pytest.raises(ValueError, match=f"{ratio.__name__} takes floating-point.*uint8"):
        ratio(image.astype(np.uint8), image)
