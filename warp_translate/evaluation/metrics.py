"""Full-reference image metrics as pure batched array functions.

Every metric takes images and references, two floating-point batches ``[B, H, W, C]`` in [-1, 1],
returns float32 ``[B]`` and raises ValueError for other shapes and types. Values outside the range
are not clipped. All arithmetic is float32.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from warp_translate.types import Array

PSNR_CAP_DB = 100.0
"""Maximum of `psnr`, reached by identical images."""

BACKGROUND_WEIGHT = 0.1
"""Weight of the pretranslated image below which a pixel can be background."""

BACKGROUND_DISPLACEMENT = 0.5
"""Displacement in pixels below which a pixel can be background."""

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_K1 = 0.01
_SSIM_K2 = 0.03

# Of the scales of `ms_ssim`, finest first: Wang et al. 2003, section 3.2. They sum to 1.0001.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def l1(images: Array, references: Array) -> Array:
    """Mean absolute error on the [0, 1] scale: half of the mean difference in [-1, 1].

    Returns float32 ``[B]`` in [0, 1]; 0 for identical images, 1 for black against white.
    """
    images, references = checked("l1", images, references)
    return 0.5 * _image_mean(jnp.abs(images - references))


def psnr(images: Array, references: Array) -> Array:
    """Peak signal-to-noise ratio in dB; the peak is the full range, 2 in [-1, 1].

    ``10 log10(peak^2 / mse)`` with the error averaged over pixels and channels. Capped at
    ``PSNR_CAP_DB``, so that a pair of identical images does not make the mean over a data set
    infinite; 100 dB is an error of 1/400 of an 8-bit step.

    Returns float32 ``[B]`` in dB, at most ``PSNR_CAP_DB``.
    """
    images, references = checked("psnr", images, references)
    return _decibels(_image_mean(jnp.square(0.5 * (images - references))))


def ssim(images: Array, references: Array) -> Array:
    """Structural similarity (Wang, Bovik, Sheikh and Simoncelli, 2004, equation 13).

    The paper's parameters: an 11x11 Gaussian window of standard deviation 1.5 px, K1 = 0.01 and
    K2 = 0.03 on the [0, 1] scale, population moments, and only windows inside the image. Averaged
    over windows and channels. A side shorter than the window is extended to 11 px by repeating the
    edge on both ends.

    Returns float32 ``[B]`` in [-1, 1]; 1 for identical images.
    """
    images, references = checked("ssim", images, references)
    return _similarity(0.5 * images + 0.5, 0.5 * references + 0.5).whole


def ms_ssim(images: Array, references: Array) -> Array:
    """Multiscale structural similarity (Wang, Simoncelli and Bovik, 2003, equation 7).

    Both images are halved four times by averages of 2x2 pixels, dropping the last row or column of
    an odd side. The result is the product of the contrast-structure terms of the first four scales
    and the whole similarity of the last, each averaged over windows and channels as in `ssim` and
    raised to the paper's weight of its scale. Negative means count as zero.

    Follows torchmetrics 1.8: at the last scale the windows extend into the mirrored image. Wang's
    code omits those windows, as `ssim` does; the difference is small except for small images.

    Five scales need sides of 176 px. Smaller images use the first scales that hold a window of 11
    px, at least one, with normalized weights. Only images with the same number of scales are
    comparable.

    Returns float32 ``[B]`` in [0, 1]; 1 for identical images.
    """
    images, references = checked("ms_ssim", images, references)
    x, y = 0.5 * images + 0.5, 0.5 * references + 0.5
    count = _scales(min(x.shape[1:3]))
    weights = _SCALE_WEIGHTS[:count]
    if count < len(_SCALE_WEIGHTS):
        weights = tuple(weight / sum(weights) for weight in weights)
    product = jnp.ones(len(x), jnp.float32)
    for scale, weight in enumerate(weights):
        if scale:
            x, y = _halved(x), _halved(y)
        if scale == count - 1:
            term = _similarity(_mirrored(x), _mirrored(y)).whole
        else:
            term = _similarity(x, y).structure
        product *= jnp.maximum(term, 0.0) ** weight
    return product


class BackgroundKept(NamedTuple):
    """How well a translation preserves its background.

    Attributes:
      psnr: float32 ``[B]`` in dB, at most ``PSNR_CAP_DB``; NaN for an image without background.
      share: float32 ``[B]`` in [0, 1], the share of background pixels.
    """

    psnr: Array
    share: Array


def background_kept(
    images: Array, originals: Array, weight: Array, displacement: Array
) -> BackgroundKept:
    """PSNR to the original over background pixels, with their share.

    Background is where the pretranslated image weighs less than ``BACKGROUND_WEIGHT`` and the
    displacement is shorter than ``BACKGROUND_DISPLACEMENT``. The PSNR is meaningless without the
    share, since a translation that changes everything has no background.

    Args:
      images: the outputs, floating point ``[B, H, W, C]`` in [-1, 1].
      originals: same shape, in [-1, 1].
      weight: weight of the pretranslated image in the output, ``[B, H, W, 1]`` in [0, 1]: the mask,
        or 1 minus the mask if it weighs the warped image.
      displacement: ``[B, H, W, 2]`` in pixels.

    Raises:
      ValueError: not two floating-point images of the same shape, or maps of other shapes.
    """
    images, originals = checked("background_kept", images, originals)
    sides = images.shape[:3]
    if weight.shape != (*sides, 1) or displacement.shape != (*sides, 2):
        raise ValueError(
            f"background_kept: images {images.shape} need a weight [B, H, W, 1] and a displacement "
            f"[B, H, W, 2], got {weight.shape} and {displacement.shape}"
        )
    length = jnp.sqrt(jnp.square(displacement.astype(jnp.float32)).sum(-1, keepdims=True))
    background = (weight < BACKGROUND_WEIGHT) & (length < BACKGROUND_DISPLACEMENT)
    share = _image_mean(background.astype(jnp.float32))
    squares = jnp.square(0.5 * (images - originals))
    error = _image_mean(jnp.where(background, squares, 0.0)) / share  # 0 / 0 is the NaN.
    return BackgroundKept(_decibels(error), share)


def checked(name: str, images: Array, references: Array) -> tuple[Array, Array]:
    """Checks the arguments of the metric ``name`` and converts them to float32.

    Raises:
      ValueError: not two floating-point images of the same shape ``[B, H, W, C]`` with pixels.
    """
    images, references = jnp.asarray(images), jnp.asarray(references)
    for array in (images, references):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} takes floating-point images in [-1, 1], got {array.dtype}")
    if images.shape != references.shape:
        raise ValueError(f"{name}: images {images.shape} and references {references.shape} differ")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"{name} takes images [B, H, W, C] with pixels, got shape {images.shape}")
    return images.astype(jnp.float32), references.astype(jnp.float32)


def _decibels(error: Array) -> Array:
    """PSNR of a mean squared error with peak 1, capped; preserves NaN."""
    return -10.0 * jnp.log10(jnp.maximum(error, 10.0 ** (-PSNR_CAP_DB / 10.0)))


def _image_mean(values: Array) -> Array:
    """Means over height, width and channels: ``[B, H, W, C]`` to ``[B]``."""
    return jnp.mean(values, axis=(1, 2, 3))


class _Similarity(NamedTuple):
    """Structural similarity with and without its luminance term, ``[B]`` each."""

    whole: Array
    structure: Array


def _similarity(x: Array, y: Array) -> _Similarity:
    """Compares float32 ``[B, H, W, C]`` on the [0, 1] scale."""
    x, y = _extended(x), _extended(y)
    # Centering reduces cancellation in the second moments; the luminance term needs the means.
    shift_x = jnp.mean(x, axis=(1, 2), keepdims=True)
    shift_y = jnp.mean(y, axis=(1, 2), keepdims=True)
    x, y = x - shift_x, y - shift_y
    mean_x, mean_y = _gaussian_mean(x), _gaussian_mean(y)
    variance_x = _gaussian_mean(x * x) - mean_x * mean_x
    variance_y = _gaussian_mean(y * y) - mean_y * mean_y
    covariance = _gaussian_mean(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + shift_x, mean_y + shift_y
    c1, c2 = _SSIM_K1**2, _SSIM_K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return _Similarity(_image_mean(luminance * structure), _image_mean(structure))


def _scales(side: int) -> int:
    """Number of scales of `ms_ssim` for the shorter side of an image."""
    fitting = sum(side >> scale >= _SSIM_WINDOW for scale in range(len(_SCALE_WEIGHTS)))
    return max(fitting, 1)


def _halved(images: Array) -> Array:
    """Means of 2x2 pixels: ``[B, H, W, C]`` to ``[B, H // 2, W // 2, C]``."""
    batch, height, width, channels = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def _extended(images: Array) -> Array:
    """Repeats the edges of sides that are shorter than the SSIM window."""
    pads = [(0, 0)]
    for size in images.shape[1:3]:
        missing = max(_SSIM_WINDOW - size, 0)
        pads.append((missing // 2, missing - missing // 2))
    return jnp.pad(images, [*pads, (0, 0)], mode="edge")


def _mirrored(images: Array) -> Array:
    """Pads by reflection to an SSIM window around every pixel; extends small sides first."""
    reach = _SSIM_WINDOW // 2
    pads = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    return jnp.pad(_extended(images), pads, mode="reflect")


def _gaussian_mean(images: Array) -> Array:
    """Gaussian-weighted means over the SSIM windows inside ``[B, H, W, C]``."""
    offsets = np.arange(_SSIM_WINDOW) - _SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    weights /= weights.sum()
    height, width = (size - _SSIM_WINDOW + 1 for size in images.shape[1:3])
    # Shifted sums, since some devices round convolutions to bfloat16 or TF32 by default.
    columns = [float(w) * images[:, i : i + height] for i, w in enumerate(weights)]
    images = functools.reduce(jnp.add, columns)
    rows = [float(w) * images[:, :, i : i + width] for i, w in enumerate(weights)]
    return functools.reduce(jnp.add, rows)
