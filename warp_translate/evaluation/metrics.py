"""Full-reference image metrics: one number per image, as pure batched array functions.

Every function takes two floating-point NHWC batches in [-1, 1] of the same shape and returns
float32 ``[B]``, so that the caller averages over a data set of any batching; `background_kept`
takes the maps of the translation besides and returns two of them. Values outside the
range are measured as they are. All arithmetic is float32 whatever the images' type.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from warp_translate.types import Array

PSNR_CAP_DB = 100.0
"""What ``psnr`` gives for identical images, and its largest value."""

BACKGROUND_WEIGHT = 0.1
"""A pixel is background only where less than this of it comes from the pretranslated image."""

BACKGROUND_DISPLACEMENT = 0.5
"""A pixel is background only where it was moved by less than this many pixels."""

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_K1 = 0.01
_SSIM_K2 = 0.03

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601-7, section 2.5.1.

# Added to both variances of `sharpness_ratio`. Rounding to 8 bits alone gives a Laplacian variance
# of 20 / 12 / 255**2 = 2.6e-5, so this does not show unless a picture is flat.
_FLAT_VARIANCE = 1e-8


def l1(images: Array, references: Array) -> Array:
    """Mean absolute error on the [0, 1] scale: half of the mean difference in [-1, 1].

    Args:
      images: floating point ``[B, H, W, C]`` in [-1, 1].
      references: same shape, in [-1, 1].

    Returns:
      float32 ``[B]`` in [0, 1]; 0 for identical images, 1 for black against white.

    Raises:
      ValueError: not two floating-point images of the same shape ``[B, H, W, C]``.
    """
    images, references = _checked("l1", images, references)
    return 0.5 * _image_mean(jnp.abs(images - references))


def psnr(images: Array, references: Array) -> Array:
    """Peak signal-to-noise ratio in dB; the peak is the full range, 2 in [-1, 1].

    ``10 log10(peak^2 / mse)`` with the error averaged over pixels and channels. Capped at
    ``PSNR_CAP_DB``, which identical images get, so that one of them does not make the mean over a
    data set infinite; 100 dB is an error of 1/400 of an 8-bit step.

    Args:
      images: floating point ``[B, H, W, C]`` in [-1, 1].
      references: same shape, in [-1, 1].

    Returns:
      float32 ``[B]`` in dB, at most ``PSNR_CAP_DB``.

    Raises:
      ValueError: not two floating-point images of the same shape ``[B, H, W, C]``.
    """
    images, references = _checked("psnr", images, references)
    error = _image_mean(jnp.square(0.5 * (images - references)))
    return _decibels(error)


def ssim(images: Array, references: Array) -> Array:
    """Structural similarity (Wang, Bovik, Sheikh and Simoncelli, 2004, equation 13).

    The paper's parameters: an 11x11 Gaussian window of standard deviation 1.5 px, K1 = 0.01 and
    K2 = 0.03 on the [0, 1] scale, population moments, only windows that lie inside the picture.
    Computed on each channel and averaged over windows and channels. A side shorter than the window
    is extended to 11 px by repeating the edge, half on either end, so every size has a value.

    Args:
      images: floating point ``[B, H, W, C]`` in [-1, 1].
      references: same shape, in [-1, 1].

    Returns:
      float32 ``[B]`` in [-1, 1]; 1 for identical images.

    Raises:
      ValueError: not two floating-point images of the same shape ``[B, H, W, C]``.
    """
    images, references = _checked("ssim", images, references)
    x = _extended(0.5 * images + 0.5)
    y = _extended(0.5 * references + 0.5)
    # The second moments do not mind a shift and lose less to cancellation about the image's mean.
    # The luminance term does mind it.
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
    return _image_mean(luminance * structure)


def sharpness_ratio(images: Array, references: Array) -> Array:
    """How much fine detail an image has, as a multiple of its reference's.

    The variance of the 4-neighbour Laplacian of the luma (Pech-Pacheco et al., 2000), edges
    repeated, over that of the reference. Below 1 the image is blurrier, above 1 sharper or noisier.
    The two need not show the same thing. Both variances, on the [0, 1] scale, get 1e-8 added: two
    flat pictures have ratio 1, and a flat reference gives a large but finite one.

    Args:
      images: floating point ``[B, H, W, C]`` in [-1, 1]; C is 3 (RGB) or 1 (luma).
      references: same shape, in [-1, 1].

    Returns:
      float32 ``[B]``, positive.

    Raises:
      ValueError: not two floating-point images of the same shape ``[B, H, W, C]``, or another C.
    """
    images, references = _checked("sharpness_ratio", images, references)
    if images.shape[3] not in (1, 3):
        raise ValueError(f"sharpness_ratio takes 1 or 3 channels, got shape {images.shape}")
    return (_laplacian_variance(images) + _FLAT_VARIANCE) / (
        _laplacian_variance(references) + _FLAT_VARIANCE
    )


class BackgroundKept(NamedTuple):
    """How well the translation left alone what it claims to have left alone.

    Attributes:
      psnr: float32 ``[B]`` in dB, at most ``PSNR_CAP_DB``; NaN where an image has no background.
      share: float32 ``[B]`` in [0, 1], the pixels that are background.
    """

    psnr: Array
    share: Array


def background_kept(
    images: Array, originals: Array, weight: Array, displacement: Array
) -> BackgroundKept:
    """Peak signal-to-noise ratio against the original, over the pixels of the background alone.

    Background is where the pretranslated image weighs less than ``BACKGROUND_WEIGHT`` and the
    displacement is shorter than ``BACKGROUND_DISPLACEMENT``: every such pixel counts fully, every
    other one not at all. A translation that touches everything has no background, so that the
    ratio says nothing without the share. The error is averaged as in `psnr`.

    Args:
      images: the outputs, floating point ``[B, H, W, C]`` in [-1, 1].
      originals: same shape, in [-1, 1].
      weight: of the pretranslated image in the output, ``[B, H, W, 1]`` in [0, 1]: the mask, or 1
        minus the mask where it weighs the warped image.
      displacement: ``[B, H, W, 2]`` in pixels.

    Returns:
      The ratio and the share.

    Raises:
      ValueError: not two floating-point images of the same shape, or maps that do not fit them.
    """
    images, originals = _checked("background_kept", images, originals)
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


def _checked(name: str, images: Array, references: Array) -> tuple[Array, Array]:
    """Returns both as float32, or raises a ValueError that starts with ``name``."""
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
    """Ratio to a peak of 1, capped; a NaN stays one."""
    return -10.0 * jnp.log10(jnp.maximum(error, 10.0 ** (-PSNR_CAP_DB / 10.0)))


def _image_mean(values: Array) -> Array:
    """Means over height, width and channels: ``[B, H, W, C]`` to ``[B]``."""
    return jnp.mean(values, axis=(1, 2, 3))


def _extended(images: Array) -> Array:
    """Repeats the edges of the sides that are shorter than the SSIM window."""
    pads = [(0, 0)]
    for size in images.shape[1:3]:
        missing = max(_SSIM_WINDOW - size, 0)
        pads.append((missing // 2, missing - missing // 2))
    return jnp.pad(images, [*pads, (0, 0)], mode="edge")


def _gaussian_mean(images: Array) -> Array:
    """Gaussian-weighted means over the SSIM windows inside ``[B, H, W, C]``."""
    offsets = np.arange(_SSIM_WINDOW) - _SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    weights /= weights.sum()
    height, width = (size - _SSIM_WINDOW + 1 for size in images.shape[1:3])
    # Shifted sums rather than a convolution: true float32 on every device, where a convolution
    # would be rounded to bfloat16 or TF32 unless told otherwise.
    columns = [float(w) * images[:, i : i + height] for i, w in enumerate(weights)]
    images = functools.reduce(jnp.add, columns)
    rows = [float(w) * images[:, :, i : i + width] for i, w in enumerate(weights)]
    return functools.reduce(jnp.add, rows)


def _laplacian_variance(images: Array) -> Array:
    """Variance of the luma's Laplacian on the [0, 1] scale: ``[B, H, W, C]`` to ``[B]``."""
    if images.shape[3] == 3:
        red, green, blue = (w * images[..., i] for i, w in enumerate(_LUMA))
        luma = 0.5 * (red + green + blue)
    else:
        luma = 0.5 * images[..., 0]
    padded = jnp.pad(luma, ((0, 0), (1, 1), (1, 1)), mode="edge")
    neighbours = (
        padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    )
    return jnp.var(neighbours - 4.0 * luma, axis=(1, 2))
