"""The sampling rule of the warp, shared by all its implementations.

Coordinates are clamped to the border, and values are blended between two neighbors in x and in y:
``floor`` and ``floor + 1``. With ``ceil`` both would be the same pixel at an integer coordinate, so
the gradient of a displacement of zero would vanish, and it would never learn.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from warp_translate.ops.unrolled_sum import add, dot
from warp_translate.types import Array


class Samples(NamedTuple):
    """Where output pixels read, each array ``[B, R, W]`` for ``R`` rows of the output.

    The right and lower neighbors are at the offsets of `steps` and always inside the image: at the
    right border the left neighbor is the last but one, and the weight is 1.

    Attributes:
      row: int32, the upper left neighbor in the flattened image ``[B * H * W]``.
      weight_x: float32 in [0, 1], of the right neighbors.
      weight_y: float32 in [0, 1], of the lower neighbors.
      inside_x: False beyond the border, where the value does not change with dx.
      inside_y: the same for dy.
    """

    row: Array
    weight_x: Array
    weight_y: Array
    inside_x: Array
    inside_y: Array


Neighbors = tuple[Array, Array, Array, Array]
"""Upper left, upper right, lower left and lower right, float32 ``[B, R, W, C]`` each."""

Read = Callable[[Array, Array], Neighbors]
"""Reads the neighbors from an image ``[B, H, W, C]``, given `Samples.row`."""


def steps(height: int, width: int) -> tuple[int, int, int, int]:
    """Offsets of the four neighbors from `Samples.row`."""
    right, down = min(1, width - 1), width * min(1, height - 1)
    return 0, right, down, right + down


def all_rows(height: int) -> Array:
    """The rows of a whole image, int32 ``[H]``."""
    return lax.iota(jnp.int32, height)


def sample(displacement: Array, rows: Array, height: int) -> Samples:
    """Applies the rule.

    Args:
      displacement: float32 ``[B, R, W, 2]``, ``(dx, dy)`` in pixels; NaN counts as minus infinity.
      rows: int32 ``[R]``, the rows of the output.
      height: ``H`` of the image.
    """
    batch, count, width, _ = displacement.shape
    shape = batch, count, width
    xs = lax.broadcasted_iota(jnp.int32, shape, 2)
    ys = jnp.broadcast_to(rows[None, :, None], shape)
    x, weight_x, inside_x = along_axis(xs, displacement[..., 0], width)
    y, weight_y, inside_y = along_axis(ys, displacement[..., 1], height)
    first = lax.broadcasted_iota(jnp.int32, shape, 0) * height
    return Samples((first + y) * width + x, weight_x, weight_y, inside_x, inside_y)


def along_axis(grid: Array, offset: Array, size: int) -> tuple[Array, Array, Array]:
    """Applies the rule along one axis.

    Args:
      grid: int32 of any shape, the output's coordinates in pixels.
      offset: float32 of that shape, in pixels.
      size: of the image along the axis, in pixels.

    Returns:
      The lower neighbor of ``grid + offset``, int32 in ``[0, size - 2]`` (0 if there is one
      pixel); the weight of the next one, float32 in [0, 1]; and True between two pixels.
    """
    # The fraction is taken of the offset, not of the sum, to keep the offset's precision at
    # coordinates in the thousands, where float32 resolves only 1e-4 px.
    # Anything further than `size` away reads the border. Comparisons with NaN are false, so it goes
    # there too, whereas clip() would pass it on to the integer conversion.
    limit = jnp.float32(size)
    offset = jnp.where(offset > -limit, jnp.minimum(offset, limit), -limit)
    whole = grid + jnp.floor(offset).astype(jnp.int32)
    low = jnp.clip(whole, 0, max(0, size - 2))
    # Where the clip has moved it, the weight is 0 or 1. Not by another clip(), whose gradient is
    # halved at these values: the weight of a displacement of zero is 0.
    weight = offset - (low - grid).astype(jnp.float32)
    weight = jnp.where(weight < 0.0, 0.0, jnp.where(weight < 1.0, weight, 1.0))
    if size == 1:  # Both neighbors are the same pixel, which is returned unchanged.
        weight = jnp.zeros_like(weight)
    return low, weight, (low == whole) & (whole < size - 1)


def blend(neighbors: Neighbors, samples: Samples) -> Array:
    """Blends four neighbors to ``[B, R, W, C]``."""
    upper_left, upper_right, lower_left, lower_right = neighbors
    weight_x, weight_y = samples.weight_x[..., None], samples.weight_y[..., None]
    upper = between(upper_left, upper_right, weight_x)
    return between(upper, between(lower_left, lower_right, weight_x), weight_y)


def between(low: Array, high: Array, weight: Array) -> Array:
    """Blends two arrays by the weight of ``high`` in [0, 1]."""
    # Exactly `low` at 0 and `high` at 1, so that a zero displacement returns the image itself.
    return low * (1.0 - weight) + high * weight


def shares(cotangent: Array, samples: Samples) -> Neighbors:
    """The transpose of `blend`: distributes ``[B, R, W, C]`` among the four neighbors."""
    weight_x, weight_y = samples.weight_x[..., None], samples.weight_y[..., None]
    upper, lower = cotangent * (1.0 - weight_y), cotangent * weight_y
    return (
        upper * (1.0 - weight_x),
        upper * weight_x,
        lower * (1.0 - weight_x),
        lower * weight_x,
    )


def grad_weights(samples: Samples) -> Neighbors:
    """Weights of the neighbors in the derivatives of `blend` by x and y, ``[B, R, W, 2]``."""
    # Selected by the index, x or y, not stacked: inside a fused loop a concatenation branches for
    # every number, a selection does not.
    is_x = lax.broadcasted_iota(jnp.int32, (*samples.row.shape, 2), 3) == 0
    right, down = samples.weight_x[..., None], samples.weight_y[..., None]
    inside = jnp.where(is_x, samples.inside_x[..., None], samples.inside_y[..., None])
    change = inside.astype(jnp.float32)
    left_part, right_part = jnp.where(is_x, -change, 1.0 - right), jnp.where(is_x, change, right)
    upper_part, lower_part = jnp.where(is_x, 1.0 - down, -change), jnp.where(is_x, down, change)
    return (
        left_part * upper_part,
        right_part * upper_part,
        left_part * lower_part,
        right_part * lower_part,
    )


def warp(read: Read, image: Array, displacement: Array, rows: Array) -> Array:
    """Rows of the warped image, float32 ``[B, R, W, C]``."""
    samples = sample(displacement, rows, image.shape[1])
    return blend(read(image, samples.row), samples)


def grad_displacement(read: Read, image: Array, displacement: Array, cotangent: Array) -> Array:
    """The gradient of the displacement.

    Args:
      read: reads the neighbors.
      image: ``[B, H, W, C]``.
      displacement: float32 ``[B, H, W, 2]``.
      cotangent: float32 ``[B, H, W, C]``.

    Returns:
      float32 ``[B, H, W, 2]``.
    """
    samples = sample(displacement, all_rows(image.shape[1]), image.shape[1])
    return add(
        weight * dot(cotangent, neighbor)[..., None]
        for weight, neighbor in zip(grad_weights(samples), read(image, samples.row), strict=True)
    )
