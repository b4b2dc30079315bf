"""Gathers and scatters of pixels, the fastest XLA implementation of the warp on CPUs.

On CPUs the form of a gather makes a factor of ten (experiments/benchmarks/warp_cpu.py, two cores of
an EPYC):

* The four neighbors are read from the image and from three views of it that start further on, all
  with one index, which is computed and clamped once.
* ``.at[...].get`` tests every index for negativity; `lax.gather` does not.
* Gradients of the displacement are dot products, so scalars are gathered, which vectorizes;
  gathering pixels takes twice as long.
* A concatenation or a dynamic slice inside such a loop prevents vectorization.
* A scatter reads its numbers from memory. In bands they stay in the cache, and only one band is in
  memory.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from warp_translate.ops import sampling, unrolled_sum
from warp_translate.ops.sampling import (
    Neighbors,
    Samples,
    all_rows,
    grad_weights,
    sample,
    shares,
    steps,
)
from warp_translate.types import Array

BAND_PIXELS = 2**14
"""Pixels of a band, whose shares fit a core's cache: 0.8 MB for three channels."""

IN_BOUNDS = lax.GatherScatterMode.PROMISE_IN_BOUNDS  # `sample` has clamped every index.


def read_by_views(image: Array, row: Array) -> Neighbors:
    """Reads the four neighbors, for CPUs."""
    if not all(isinstance(side, int) for side in image.shape):
        return read_by_index(image, row)  # Views cannot start at a symbolic offset.
    pixels = image.reshape(-1, image.shape[-1])
    return _float32([_gather(pixels[step:], row) for step in steps(*image.shape[1:3])])


def read_by_index(image: Array, row: Array) -> Neighbors:
    """Reads the four neighbors of an image of any size, on any platform."""
    pixels = image.reshape(-1, image.shape[-1])
    return _float32([_gather(pixels, row + step) for step in steps(*image.shape[1:3])])


def _float32(neighbors: Sequence[Array]) -> Neighbors:
    return tuple(each.astype(jnp.float32) for each in neighbors)  # type: ignore[return-value]


def _gather(pixels: Array, row: Array) -> Array:
    """Whole pixels ``[..., C]`` of ``[N, C]``."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(row.ndim,), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    return lax.gather(pixels, row[..., None], numbers, (1, pixels.shape[1]), mode=IN_BOUNDS)


def _gather_scalars(flat: Array, place: Array) -> Array:
    """Scalars ``[...]`` of ``[N]``, float32."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    found = lax.gather(flat, place[..., None], numbers, (1,), mode=IN_BOUNDS)
    return found.astype(jnp.float32)


def grad_displacement_cpu(image: Array, displacement: Array, cotangent: Array) -> Array:
    """`sampling.grad_displacement` as one vectorized loop."""
    _, height, width, channels = image.shape
    if channels > unrolled_sum.UNROLLED_UP_TO or image.size > jnp.iinfo(jnp.int32).max:
        return sampling.grad_displacement(read_by_views, image, displacement, cotangent)
    samples = sample(displacement, all_rows(height), height)
    place = jnp.broadcast_to(samples.row[..., None] * channels, displacement.shape)
    flat = image.reshape(-1)
    vectors = [
        jnp.broadcast_to(cotangent[..., channel, None], displacement.shape)
        for channel in range(channels)
    ]
    return unrolled_sum.add(
        weight
        * unrolled_sum.add(
            vectors[channel] * _gather_scalars(flat[step * channels + channel :], place)
            for channel in range(channels)
        )
        for weight, step in zip(grad_weights(samples), steps(height, width), strict=True)
    )


def grad_image_cpu(cotangent: Array, displacement: Array) -> Array:
    """The gradient of the image, scattered band by band.

    Args:
      cotangent: float32 ``[B, H, W, C]``.
      displacement: float32 ``[B, H, W, 2]``.

    Returns:
      float32 ``[B, H, W, C]``.
    """
    batch, height, width, channels = cotangent.shape
    rows = min(height, max(1, BAND_PIXELS // (batch * width)))
    bands, rest = divmod(height, rows)

    def band(first: Array, count: int) -> tuple[Array, Array, Array]:
        cut = functools.partial(
            lax.dynamic_slice_in_dim, start_index=first, slice_size=count, axis=1
        )
        return cut(displacement), cut(cotangent), first + all_rows(count)

    def add_band(pixels: Array, field: Array, values: Array, places: Array) -> Array:
        samples = sample(field, places, height)
        return _scatter_add(pixels, samples, shares(values, samples), height)

    def body(index: Array, carried: tuple[Array, ...]) -> tuple[Array, ...]:
        # The next band is sliced one turn ahead: slicing in the loop that uses it would prevent
        # vectorization.
        return add_band(*carried), *band((index + 1) * rows, rows)

    start = (jnp.zeros((batch * height * width, channels), jnp.float32), *band(jnp.int32(0), rows))
    pixels = lax.fori_loop(0, bands, body, start)[0]
    if rest:
        pixels = add_band(pixels, *band(jnp.int32(bands * rows), rest))
    return pixels.reshape(cotangent.shape)


def _scatter_add(pixels: Array, samples: Samples, parts: Sequence[Array], height: int) -> Array:
    """Adds ``[B, R, W, C]`` to each of the four neighbors in the flattened image ``[N, C]``."""
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
    )
    for step, part in zip(steps(height, samples.row.shape[2]), parts, strict=True):
        rows = (samples.row + step).reshape(-1, 1)
        pixels = lax.scatter_add(
            pixels, rows, part.reshape(-1, pixels.shape[1]), numbers, mode=IN_BOUNDS
        )
    return pixels
