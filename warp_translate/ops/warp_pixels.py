"""The warp by gathers and scatters of pixels, as XLA compiles it best for CPUs and GPUs.

What XLA:CPU makes of a gather decides by a factor of ten (measured on two cores of an EPYC,
experiments/benchmarks/warp_cpu.py):

* The four neighbours are read from the image and from three views of it that begin further on, all
  by one index: it is computed and clamped once.
* ``.at[...].get`` asks of every index whether it is negative; `lax.gather` does not.
* Gradients of the displacement are dot products, so they are gathered number by number, which
  compiles to vectors; gathered by pixels the same takes twice as long.
* No concatenation and no dynamic slice inside such a loop: either leaves it without vectors.
* A scatter is handed its numbers in memory. Band by band they stay in the cache, and the memory is
  that of one band.
"""

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from warp_translate.ops import unrolled_sum
from warp_translate.ops.sampling import (
    Samples,
    all_rows,
    blend,
    sample,
    shares,
    slope_weights,
    slopes,
    steps,
)
from warp_translate.types import Array

BAND_PIXELS = 2**14
"""Pixels of a band, whose shares are to stay in a core's cache: 0.8 MB for three channels."""

_IN_BOUNDS = lax.GatherScatterMode.PROMISE_IN_BOUNDS  # `sample` has clamped every index.


def read_by_views(image: Array, samples: Samples) -> tuple[Array, Array, Array, Array]:
    """The four neighbours, for CPUs: float32 ``[B, R, W, C]`` each."""
    if not all(isinstance(side, int) for side in image.shape):
        return read_by_index(image, samples)  # A symbol as the begin of a view is not understood.
    pixels = image.reshape(-1, image.shape[-1])
    neighbours = [_gather(pixels[step:], samples.row) for step in steps(*image.shape[1:3])]
    return tuple(each.astype(jnp.float32) for each in neighbours)  # type: ignore[return-value]


def read_by_index(image: Array, samples: Samples) -> tuple[Array, Array, Array, Array]:
    """The same for GPUs, where a view might become a copy."""
    pixels = image.reshape(-1, image.shape[-1])
    neighbours = [_gather(pixels, samples.row + step) for step in steps(*image.shape[1:3])]
    return tuple(each.astype(jnp.float32) for each in neighbours)  # type: ignore[return-value]


def _gather(pixels: Array, row: Array) -> Array:
    """Whole pixels ``[..., C]`` of ``[N, C]``."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(row.ndim,), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    return lax.gather(pixels, row[..., None], numbers, (1, pixels.shape[1]), mode=_IN_BOUNDS)


def _gather_numbers(flat: Array, place: Array) -> Array:
    """Single numbers ``[...]`` of ``[N]``, in float32."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    found = lax.gather(flat, place[..., None], numbers, (1,), mode=_IN_BOUNDS)
    return found.astype(jnp.float32)


def warp_cpu(image: Array, displacement: Array, rows: Array) -> Array:
    """Rows of the warped image in float32, ``[B, R, W, C]``, by one loop."""
    samples = sample(displacement, rows, image.shape[1])
    return blend(read_by_views(image, samples), samples)


def warp_gpu(image: Array, displacement: Array, rows: Array) -> Array:
    """The same for GPUs."""
    samples = sample(displacement, rows, image.shape[1])
    return blend(read_by_index(image, samples), samples)


def slopes_cpu(image: Array, displacement: Array, cotangent: Array) -> Array:
    """The gradient of the displacement, by one loop.

    Args:
      image: ``[B, H, W, C]``.
      displacement: float32 ``[B, H, W, 2]``.
      cotangent: float32 ``[B, H, W, C]``.

    Returns:
      float32 ``[B, H, W, 2]``.
    """
    _, height, width, channels = image.shape
    samples = sample(displacement, all_rows(height), height)
    if channels > unrolled_sum.UNROLLED_UP_TO or image.size > jnp.iinfo(jnp.int32).max:
        return slopes(read_by_views(image, samples), samples, cotangent)
    place = jnp.broadcast_to(samples.row[..., None] * channels, displacement.shape)
    flat = image.reshape(-1)
    vectors = [
        jnp.broadcast_to(cotangent[..., channel, None], displacement.shape)
        for channel in range(channels)
    ]
    return unrolled_sum.add(
        weight
        * unrolled_sum.add(
            vectors[channel] * _gather_numbers(flat[step * channels + channel :], place)
            for channel in range(channels)
        )
        for weight, step in zip(slope_weights(samples), steps(height, width), strict=True)
    )


def slopes_gpu(image: Array, displacement: Array, cotangent: Array) -> Array:
    """The same for GPUs."""
    samples = sample(displacement, all_rows(image.shape[1]), image.shape[1])
    return slopes(read_by_index(image, samples), samples, cotangent)


def adjoint_cpu(cotangent: Array, displacement: Array) -> Array:
    """Gives every pixel's cotangent to the four neighbours that it was read from, band by band.

    Args:
      cotangent: float32 ``[B, H, W, C]``.
      displacement: float32 ``[B, H, W, 2]``.

    Returns:
      float32 ``[B, H, W, C]``, the gradient of the image.
    """
    batch, height, width, channels = cotangent.shape
    rows = min(height, max(1, BAND_PIXELS // (batch * width)))
    bands, rest = divmod(height, rows)

    def band(first: Array, count: int) -> tuple[Array, Array, Array]:
        cut = functools.partial(
            lax.dynamic_slice_in_dim, start_index=first, slice_size=count, axis=1
        )
        return cut(displacement), cut(cotangent), first + all_rows(count)

    def give(pixels: Array, field: Array, values: Array, places: Array) -> Array:
        samples = sample(field, places, height)
        return _give(pixels, samples, shares(values, samples), height)

    def body(index: Array, carried: tuple[Array, ...]) -> tuple[Array, ...]:
        # The next band is cut out before its turn: a slice inside the loop that uses it would
        # leave that without vectors.
        return give(*carried), *band((index + 1) * rows, rows)

    start = (jnp.zeros((batch * height * width, channels), jnp.float32), *band(jnp.int32(0), rows))
    pixels = lax.fori_loop(0, bands, body, start)[0]
    if rest:
        pixels = give(pixels, *band(jnp.int32(bands * rows), rest))
    return pixels.reshape(cotangent.shape)


def adjoint_gpu(cotangent: Array, displacement: Array) -> Array:
    """The same for GPUs, where the order of the additions is left to chance."""
    height = cotangent.shape[1]
    samples = sample(displacement, all_rows(height), height)
    pixels = jnp.zeros((math.prod(cotangent.shape[:3]), cotangent.shape[3]), jnp.float32)
    return _give(pixels, samples, shares(cotangent, samples), height).reshape(cotangent.shape)


def adjoint_in_fixed_point(cotangent: Array, displacement: Array) -> Array:
    """The same in whole numbers, whose sum does not depend on the order: equal bits on every run.

    Of each image the largest share times the most shares that any pixel gets is made to fit 31
    bits, so that no sum overflows. A share is then off by ``2**-31`` of that at most: float32's
    own precision for the large gradients of a usual field, and less for those many times smaller.

    Args:
      cotangent: float32 ``[B, H, W, C]``; one that is not finite makes its image's gradient NaN.
      displacement: float32 ``[B, H, W, 2]``.

    Returns:
      float32 ``[B, H, W, C]``.
    """
    batch, height, width, channels = cotangent.shape
    samples = sample(displacement, all_rows(height), height)
    counts = jnp.zeros((batch * height * width, 1), jnp.int32)
    counts = _give(counts, samples, [jnp.ones((*samples.row.shape, 1), jnp.int32)] * 4, height)
    most = counts.reshape(batch, -1).max(-1).astype(jnp.float32)
    largest = jnp.abs(cotangent).reshape(batch, -1).max(-1)
    # A power of two, so that scaling rounds nothing; 2**30 leaves a bit for the rounded shares.
    bits = 30.0 - jnp.ceil(jnp.log2(jnp.maximum(most * largest, jnp.finfo(jnp.float32).tiny)))
    exponent = jnp.clip(bits, -100.0, 126.0).astype(jnp.int32)
    # From its bits: exp2 is not exact on every device.
    scale = lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)[:, None, None, None]
    rounded = [jnp.round(share * scale).astype(jnp.int32) for share in shares(cotangent, samples)]
    whole = _give(
        jnp.zeros((batch * height * width, channels), jnp.int32), samples, rounded, height
    )
    # Not of the maximum, which loses a NaN on CPUs.
    finite = jnp.isfinite(cotangent).all((1, 2, 3), keepdims=True)
    added = whole.reshape(cotangent.shape).astype(jnp.float32) / scale
    return jnp.where(finite, added, jnp.float32(jnp.nan))


def _give(pixels: Array, samples: Samples, parts: Sequence[Array], height: int) -> Array:
    """Adds ``[B, R, W, C]`` to each of the four neighbours in the flattened image ``[N, C]``."""
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
    )
    for step, part in zip(steps(height, samples.row.shape[2]), parts, strict=True):
        rows = (samples.row + step).reshape(-1, 1)
        pixels = lax.scatter_add(
            pixels, rows, part.reshape(-1, pixels.shape[1]), numbers, mode=_IN_BOUNDS
        )
    return pixels
