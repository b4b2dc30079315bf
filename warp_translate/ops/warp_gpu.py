"""Gathers and scatters of pairs of pixels, for GPUs.

On GPUs the warp takes as long as its memory traffic, and XLA writes every value that two loops use
to memory. Bytes per pixel of float32 images of three channels, by the compiled program for an H200
(tests/launch/test_gpu_programs.py):

* Left and right neighbors are adjacent: two gathers of two pixels each replace four gathers.
* Every channel is blended on its own and all are stacked last. Blended as vectors, a 4K image takes
  72 bytes in place of 56, since weights and indices are written to memory.
* The gradient of the image is one scatter of all four shares: at 4K 100 bytes. Four scatters read
  and write the whole image four times: 224 bytes.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from warp_translate.ops import sampling, unrolled_sum
from warp_translate.ops.sampling import Samples, all_rows, between, sample, steps
from warp_translate.ops.warp_pixels import IN_BOUNDS, read_by_index
from warp_translate.types import Array


def warp(image: Array, displacement: Array, rows: Array) -> Array:
    """`sampling.warp` on GPUs; the same arguments and values."""
    if not _by_pairs(image):
        return sampling.warp(read_by_index, image, displacement, rows)
    samples = sample(displacement, rows, image.shape[1])
    blended = [
        between(
            between(upper_left, upper_right, samples.weight_x),
            between(lower_left, lower_right, samples.weight_x),
            samples.weight_y,
        )
        for upper_left, upper_right, lower_left, lower_right in _neighbors(image, samples)
    ]
    return jnp.stack(blended, -1)


def grad_displacement(image: Array, displacement: Array, cotangent: Array) -> Array:
    """`sampling.grad_displacement` on GPUs; the same arguments and values."""
    if not _by_pairs(image):
        return sampling.grad_displacement(read_by_index, image, displacement, cotangent)
    height = image.shape[1]
    samples = sample(displacement, all_rows(height), height)
    slopes_x, slopes_y = [], []
    for channel, neighbors in enumerate(_neighbors(image, samples)):
        upper_left, upper_right, lower_left, lower_right = neighbors
        along_x = between(upper_right - upper_left, lower_right - lower_left, samples.weight_y)
        along_y = between(lower_left - upper_left, lower_right - upper_right, samples.weight_x)
        slopes_x.append(cotangent[..., channel] * along_x)
        slopes_y.append(cotangent[..., channel] * along_y)
    return jnp.stack(
        [
            jnp.where(inside, unrolled_sum.add(slopes), 0.0)
            for inside, slopes in ((samples.inside_x, slopes_x), (samples.inside_y, slopes_y))
        ],
        -1,
    )


def _by_pairs(image: Array) -> bool:
    """Whether pairs of pixels exist, and their channels are few enough to be blended in turn."""
    return image.shape[2] > 1 and image.shape[3] <= unrolled_sum.UNROLLED_UP_TO


def _neighbors(image: Array, samples: Samples) -> list[sampling.Neighbors]:
    """The four neighbors in each channel, float32 ``[B, R, W]``."""
    channels, dims = image.shape[3], samples.row.ndim
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(dims, dims + 1), collapsed_slice_dims=(), start_index_map=(0,)
    )
    _, _, down, _ = steps(*image.shape[1:3])
    pixels = image.reshape(-1, channels)
    upper, lower = (
        lax.gather(pixels, row[..., None], numbers, (2, channels), mode=IN_BOUNDS).astype(
            jnp.float32
        )
        for row in (samples.row, samples.row + down)
    )
    return [
        (upper[..., 0, each], upper[..., 1, each], lower[..., 0, each], lower[..., 1, each])
        for each in range(channels)
    ]


def grad_image(cotangent: Array, displacement: Array) -> Array:
    """`warp_pixels.grad_image_cpu` on GPUs, where the order of the additions is not determined."""
    height = cotangent.shape[1]
    samples = sample(displacement, all_rows(height), height)
    return _scatter_add(
        cotangent.shape, samples, lambda weights: cotangent[..., None, None, :] * weights
    )


def grad_image_in_fixed_point(cotangent: Array, displacement: Array) -> Array:
    """`grad_image` in integers, whose sum has the same bits in every order.

    For each image, the largest share times the largest number of shares of a pixel is scaled to fit
    31 bits, so that no sum overflows. The error of a share is at most ``2**-31`` of that: float32's
    own precision for the large gradients of a usual field, less for much smaller ones.

    Args:
      cotangent: float32 ``[B, H, W, C]``; a non-finite value makes its image's gradient NaN.
      displacement: float32 ``[B, H, W, 2]``.

    Returns:
      float32 ``[B, H, W, C]``.
    """
    batch, height, width, _ = cotangent.shape
    samples = sample(displacement, all_rows(height), height)
    counts = _scatter_add(
        (batch, height, width, 1), samples, lambda weights: jnp.ones(weights.shape, jnp.int32)
    )
    most = counts.reshape(batch, -1).max(-1).astype(jnp.float32)
    largest = jnp.abs(cotangent).reshape(batch, -1).max(-1)
    # A power of two, so that scaling is exact; 2**30 leaves one bit for rounding the shares.
    bits = 30.0 - jnp.ceil(jnp.log2(jnp.maximum(most * largest, jnp.finfo(jnp.float32).tiny)))
    exponent = jnp.clip(bits, -100.0, 126.0).astype(jnp.int32)
    # Built from its bits: exp2 is not exact on every device.
    scale = lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)[:, None, None, None]
    scaled = (cotangent * scale)[..., None, None, :]
    added = _scatter_add(
        cotangent.shape, samples, lambda weights: jnp.round(scaled * weights).astype(jnp.int32)
    )
    # Not from the maximum, which loses a NaN on CPUs.
    finite = jnp.isfinite(cotangent).all((1, 2, 3), keepdims=True)
    return jnp.where(finite, added.astype(jnp.float32) / scale, jnp.float32(jnp.nan))


def _scatter_add(
    shape: tuple[int, ...], samples: Samples, shares: Callable[[Array], Array]
) -> Array:
    """Adds shares to the four neighbors of every pixel, in one scatter.

    Args:
      shape: of the result, ``(B, H, W, C)``.
      samples: where the pixels read.
      shares: maps the neighbors' weights ``[B, H, W, 2, 2, 1]``, by row and column, to
        ``[B, H, W, 2, 2, C]``.
    """
    batch, height, width, channels = shape
    _, right, down, _ = steps(height, width)
    of_pixel = (*samples.row.shape, 2, 2)
    downward, rightward = (lax.broadcasted_iota(jnp.int32, of_pixel, axis) for axis in (3, 4))
    places = samples.row[..., None, None] + downward * down + rightward * right
    # The weight itself of the lower and right neighbors, what remains of 1 for the others.
    along_y, along_x = (
        jnp.abs((1 - which).astype(jnp.float32) - weight[..., None, None])
        for which, weight in ((downward, samples.weight_y), (rightward, samples.weight_x))
    )
    weights = along_y * along_x
    added = shares(weights[..., None])
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(5,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
    )
    pixels = jnp.zeros((math.prod((batch, height, width)), channels), added.dtype)
    return lax.scatter_add(pixels, places[..., None], added, numbers, mode=IN_BOUNDS).reshape(shape)
