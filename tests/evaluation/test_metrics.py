"""Metrics against float64 SciPy, torchmetrics and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import ndimage, signal
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from warp_translate.evaluation import metrics

ALL = (metrics.l1, metrics.psnr, metrics.ssim, metrics.ms_ssim)


@jax.jit
def measured(images, references):
    """All metrics by name, in one program per shape."""
    return {metric.__name__: metric(images, references) for metric in ALL}


def _pictures(rng, shape):
    """Smooth images and versions with increasing noise."""
    base = rng.uniform(-1, 1, shape)
    base = np.clip(ndimage.gaussian_filter(base, (0, 2, 2, 0)) * 4, -1, 1)
    amount = np.linspace(0.02, 0.3, shape[0]).reshape(-1, 1, 1, 1)
    noisy = np.clip(base + amount * rng.normal(size=shape), -1, 1)
    return noisy.astype(np.float32), base.astype(np.float32)


def _similarity(x, y):
    """Equation 13 of Wang et al. 2004 with a full 2-D window, with and without luminance."""
    rows, columns = np.mgrid[-5:6, -5:6]
    window = np.exp(-(rows**2 + columns**2) / (2 * 1.5**2))
    window = (window / window.sum())[..., None]

    def mean(image):
        return signal.convolve(image, window, mode="valid")

    mu_x, mu_y = mean(x), mean(y)
    var_x, var_y, cov = mean(x * x) - mu_x**2, mean(y * y) - mu_y**2, mean(x * y) - mu_x * mu_y
    structure = (2 * cov + 9e-4) / (var_x + var_y + 9e-4)
    luminance = (2 * mu_x * mu_y + 1e-4) / (mu_x**2 + mu_y**2 + 1e-4)
    return (structure * luminance).mean(), structure.mean()


def _edge_padded(image):
    """Pads both ends to sides of at least 11 px."""
    missing = [max(11 - side, 0) for side in image.shape[:2]]
    return np.pad(image, [*((each // 2, each - each // 2) for each in missing), (0, 0)], "edge")


def _betas(count):
    betas = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    return tuple(betas) if count == 5 else tuple(betas[:count] / betas[:count].sum())


def _reference_ms_ssim(x, y, scales):
    """Wang et al. 2003, equation 7."""
    value = 1
    for scale, beta in enumerate(_betas(scales)):
        if scale:
            kernel = np.full((2, 2, 1), 0.25)
            x, y = (signal.convolve(a, kernel, mode="valid")[::2, ::2] for a in (x, y))
        if scale == scales - 1:
            x, y = (np.pad(a, [(5, 5), (5, 5), (0, 0)], mode="reflect") for a in (x, y))
        value *= max(_similarity(x, y)[scale < scales - 1], 0) ** beta
    return value


def _expected(images, references, scales):
    """Reference of `measured`, in float64 on the [0, 1] scale, one image at a time."""
    found = {metric.__name__: [] for metric in ALL}
    for pair in zip(images, references, strict=True):
        x, y = ((np.float64(each) + 1) / 2 for each in pair)
        found["l1"].append(np.abs(x - y).mean())
        found["psnr"].append(-10 * np.log10(max(np.square(x - y).mean(), 1e-10)))
        x, y = _edge_padded(x), _edge_padded(y)
        found["ssim"].append(_similarity(x, y)[0])
        found["ms_ssim"].append(_reference_ms_ssim(x, y, scales))
    return found


def _assert_agree(got, expected):
    assert got.keys() == expected.keys()
    for name, options in (
        *(("l1", {"rtol": 1e-6}), ("psnr", {"rtol": 1e-5})),
        *(("ssim", {"atol": 5e-6}), ("ms_ssim", {"atol": 5e-6})),
    ):
        assert got[name].dtype == jnp.float32
        np.testing.assert_allclose(got[name], expected[name], err_msg=name, **options)


# Smallest side of three scales, largest of two, the window's, and smaller ones.
@pytest.mark.parametrize(
    ("size", "scales"), [((44, 61), 3), ((43, 80), 2), ((11, 30), 1), ((4, 10), 1), ((1, 1), 1)]
)
def test_metrics_agree_with_float64(rng, size, scales):
    x, y = _pictures(rng, (3, *size, 3))
    expected = _expected(x, y, scales)
    # The comparison covers a range of values.
    assert size[0] < 11 or (expected["ssim"][0] > 0.9 and expected["ssim"][-1] < 0.7)
    _assert_agree(measured(x, y), expected)


def _extremes(rng):
    """Gray pairs: dark and bright nearly flat ones, constants, opposites and equals.

    Flat images expose wrong values of C1 and C2, bright ones rounding.
    """
    faint = np.float32(0.02 * rng.uniform(size=(24, 24, 1)))
    noise = np.float32(rng.uniform(-1, 1, (24, 24, 1)))
    flat = np.ones_like(faint)
    pairs = [(-1 + faint, -0.97 * flat), (0.95 + faint, 0.98 * flat), (0.5 * flat, -0.5 * flat)]
    return [np.stack(each) for each in zip(*pairs, (noise, -noise), (noise, noise), strict=True)]


def test_metrics_agree_with_float64_on_extremes(rng):
    x, y = _extremes(rng)
    got, expected = measured(x, y), _expected(x, y, 2)
    assert expected["ssim"][3] < -0.5 and got["ms_ssim"][3] == 0
    _assert_agree(got, expected)
    best = {"l1": 0, "psnr": 100, "ssim": 1, "ms_ssim": 1}
    assert {name: float(each[4]) for name, each in got.items()} == pytest.approx(best, abs=1e-5)


def test_ms_ssim_agrees_with_torchmetrics(rng):
    x, y = _pictures(rng, (2, 176, 177, 3))
    expected = multiscale_structural_similarity_index_measure(
        *(torch.tensor((np.float64(a) + 1) / 2).permute(0, 3, 1, 2) for a in (x, y)),
        data_range=1.0,
        betas=_betas(5),
        reduction="none",
    )
    assert expected[0] > expected[-1] + 0.05  # The comparison covers a range of values.
    np.testing.assert_allclose(jax.jit(metrics.ms_ssim)(x, y), expected, atol=1e-5)


def test_half_precision_images_are_measured_in_float32(rng):
    x, y = (jnp.asarray(each, jnp.bfloat16) for each in _extremes(rng))
    got = measured(x, y)
    assert {each.dtype for each in got.values()} == {jnp.dtype("float32")}
    expected = measured(np.asarray(x, np.float32), np.asarray(y, np.float32))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_rounding_errors_do_not_accumulate():
    # A float32 running sum over a million pixels would be off in the third digit.
    x = np.tile(np.float32([[0.1], [0.3]]), (512, 1024))[None, :, :, None]
    got = jax.jit(lambda x: [metric(x, -x)[0] for metric in ALL[:3]])(x)
    small = _similarity((1 + np.float64(x[0, :32, :32])) / 2, (1 - np.float64(x[0, :32, :32])) / 2)
    np.testing.assert_allclose(got, [0.2, -10 * np.log10(0.05), small[0]], rtol=1e-3)


@pytest.mark.parametrize(
    ("x_shape", "y_shape", "message"),
    [
        ((2, 8, 8, 3), (2, 8, 9, 3), r"\(2, 8, 8, 3\) and references \(2, 8, 9, 3\)"),
        ((2, 8, 8, 3), (1, 8, 8, 3), r"\(2, 8, 8, 3\) and references \(1, 8, 8, 3\)"),
        ((8, 8, 3), (8, 8, 3), r"got shape \(8, 8, 3\)"),
        ((2, 0, 8, 3), (2, 0, 8, 3), r"got shape \(2, 0, 8, 3\)"),
    ],
)
def test_invalid_shapes_are_an_error(x_shape, y_shape, message):
    with pytest.raises(ValueError, match=f"l1.*{message}"):
        metrics.l1(np.zeros(x_shape, np.float32), np.zeros(y_shape, np.float32))


@pytest.mark.parametrize("metric", ALL)
def test_uint8_images_are_an_error(metric):
    # Their differences would overflow.
    image = np.zeros((1, 12, 12, 3), np.uint8)
    with pytest.raises(ValueError, match=f"{metric.__name__} takes floating-point.*uint8"):
        metric(image, image)


def test_background_psnr_is_over_background_pixels(rng):
    shape = (2, 6, 5)
    originals = np.float32(rng.uniform(-1, 1, (*shape, 3)))
    images = np.float32(originals + rng.normal(0, 0.1, (*shape, 3)))
    weight = np.float32(rng.choice([0.05, 0.5], (*shape, 1)))
    # Length 0.28, 0.45 or 0.57.
    displacement = np.float32(rng.choice([0.2, 0.4], (*shape, 2)))
    got = jax.jit(metrics.background_kept)(images, originals, weight, displacement)
    for i in range(2):
        chosen = (weight[i, ..., 0] < 0.1) & (np.hypot(*np.moveaxis(displacement[i], -1, 0)) < 0.5)
        assert 0 < chosen.sum() < 25
        mse = np.mean(np.square((images[i][chosen] - originals[i][chosen]) / 2))
        np.testing.assert_allclose(got.psnr[i], -10 * np.log10(mse), rtol=1e-5)
        np.testing.assert_allclose(got.share[i], chosen.mean(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"background_kept: images \(2, 6, 5, 3\) need a weight"):
        metrics.background_kept(images, originals, weight[:, 1:], displacement)
    with pytest.raises(ValueError, match=r"got \(2, 6, 5, 1\) and \(2, 6, 5, 1\)"):
        metrics.background_kept(images, originals, weight, displacement[..., :1])


def test_background_is_defined_by_weight_and_displacement():
    image = np.zeros((5, 4, 4, 3), np.float32)
    maps = [(0.09, 0.3, 0.3), (0.11, 0, 0), (0, 0.4, 0.4), (0, 0, -0.6), (0, -0.6, 0)]
    maps = np.broadcast_to(np.float32(maps)[:, None, None], (5, 4, 4, 3))
    got = jax.jit(metrics.background_kept)(image, image, maps[..., :1], maps[..., 1:])
    np.testing.assert_array_equal(got.share, [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(got.psnr, [100, *[np.nan] * 4])
