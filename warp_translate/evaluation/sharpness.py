"""Fine detail of images relative to references, from finite differences and from the spectrum.

Every ratio takes images and references, two floating-point batches ``[B, H, W, C]`` in [-1, 1] with
C of 3 (RGB) or 1 (luma), not necessarily of the same content, and raises ValueError for other
shapes and types. It returns positive float32 ``[B]``: below 1 the image has less detail than its
reference, above 1 more detail or more noise. Ratios use the luma on the [0, 1] scale in float32,
and are invariant to brightness and to quarter turns.

A small constant is added to both sides of a ratio, far below the effect of rounding to 8 bits: two
flat images have ratio 1, and a flat reference gives a large but finite ratio.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from warp_translate.evaluation.metrics import checked
from warp_translate.types import Array

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601-7, section 2.5.1.
_HALF_NYQUIST = 0.25  # Cycles per pixel.

# Rounding to 8 bits adds white noise of variance 1 / 12 / 255**2 = 1.3e-6, which alone causes a
# Laplacian variance of 20 times as much, a mean gradient of 1e-3, and an energy above half the
# Nyquist frequency of 1.0e-6.
_FLAT_VARIANCE = 1e-8
_FLAT_GRADIENT = 1e-6
_FLAT_ENERGY = 1e-9


def sharpness_ratio(images: Array, references: Array) -> Array:
    """Ratio of the variances of the 4-neighbor Laplacian of the luma (Pech-Pacheco et al., 2000).

    Edges are repeated; 1e-8 is added to both variances.
    """
    return _ratio("sharpness_ratio", _laplacian_variance, _FLAT_VARIANCE, images, references)


def gradient_ratio(images: Array, references: Array) -> Array:
    """Ratio of the mean lengths of the luma's gradient, by central differences.

    Tenenbaum's measure (1970; Krotkov, 1988) with plain differences instead of Sobel's and lengths
    instead of squares, which limits the weight of a few strong edges. Edges are repeated; 1e-6 is
    added to both means. Central differences miss a pattern of period two; `sharpness_ratio` does
    not.
    """
    return _ratio("gradient_ratio", _mean_gradient, _FLAT_GRADIENT, images, references)


def high_frequency_ratio(images: Array, references: Array) -> Array:
    """Ratio of the energies of the luma's spectrum above half the Nyquist frequency.

    Counts frequencies of more than 0.25 cycles per pixel in any direction, including the corners of
    the spectrum. Compares energies, not shares of the total, so a change of contrast counts too. An
    energy is the variance that these frequencies contribute under a Hann window, plus 1e-9.
    """
    return _ratio("high_frequency_ratio", _high_energy, _FLAT_ENERGY, images, references)


def _ratio(
    name: str, measure: Callable[[Array], Array], flat: float, images: Array, references: Array
) -> Array:
    images, references = checked(name, images, references)
    if images.shape[3] not in (1, 3):
        raise ValueError(f"{name} takes 1 or 3 channels, got shape {images.shape}")
    return (measure(_luma(images)) + flat) / (measure(_luma(references)) + flat)


def _luma(images: Array) -> Array:
    """Luma ``[B, H, W]`` on the scale of [0, 1], up to an offset."""
    if images.shape[3] == 1:
        return 0.5 * images[..., 0]
    red, green, blue = (weight * images[..., i] for i, weight in enumerate(_LUMA))
    return 0.5 * (red + green + blue)


def _padded(luma: Array) -> Array:
    """Repeats the edges by one pixel: ``[B, H + 2, W + 2]``."""
    return jnp.pad(luma, ((0, 0), (1, 1), (1, 1)), mode="edge")


def _laplacian_variance(luma: Array) -> Array:
    padded = _padded(luma)
    neighbors = (
        padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    )
    return jnp.var(neighbors - 4.0 * luma, axis=(1, 2))


def _mean_gradient(luma: Array) -> Array:
    padded = _padded(luma)
    down = 0.5 * (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])
    right = 0.5 * (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2])
    return jnp.sqrt(down * down + right * right).mean((1, 2))


def _high_energy(luma: Array) -> Array:
    """Variance of the frequencies above half the Nyquist frequency: ``[B]``."""
    height, width = luma.shape[1:]
    window = np.outer(_hann(height), _hann(width))
    weights = (window / window.sum())[None].astype(np.float32)
    # Removing the mean reduces leakage into the low frequencies.
    luma = luma - (luma * weights).sum((1, 2), keepdims=True)
    normal = (window / np.sqrt(np.square(window).sum()))[None].astype(np.float32)
    power = jnp.square(jnp.abs(jnp.fft.rfft2(luma * normal)))
    columns = np.arange(width // 2 + 1)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    # The columns of zero and of the Nyquist frequency are their own mirror images.
    multiplicity = np.where((columns == 0) | (2 * columns == width), 1.0, 2.0)
    counted = np.where(frequency > _HALF_NYQUIST, multiplicity, 0.0) / (height * width)
    return (power * counted[None].astype(np.float32)).sum((1, 2))


def _hann(size: int) -> np.ndarray:
    """A Hann window sampled at pixel centers, without zeros."""
    return np.square(np.sin(np.pi * (np.arange(size) + 0.5) / size))
