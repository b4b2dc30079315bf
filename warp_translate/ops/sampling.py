"""Where a warp reads: the rule that every form of it follows.

Coordinates are clamped to the border, and every value is blended between two neighbours in x and in
y. Why not floor and ceil: at an integer coordinate both are the same pixel, so the gradient of the
displacement is exactly zero there, and a field that starts at zero never learns.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from warp_translate.ops.unrolled_sum import add, dot
from warp_translate.types import Array


class Samples(NamedTuple):
    """Where output pixels read, each array ``[B, R, W]`` for ``R`` rows of the output.

    The neighbours to the right and below lie `steps` further, and are inside the image always: at
    the right border the left neighbour is the last but one, and the weight is 1.

    Attributes:
      row: int32, the upper left neighbour in the flattened image ``[B * H * W]``.
      weight_x: float32 in [0, 1], of the right neighbours.
      weight_y: float32 in [0, 1], of the lower neighbours.
      inside_x: whether the value still changes with dx; it does not beyond the border.
      inside_y: the same for dy.
    """

    row: Array
    weight_x: Array
    weight_y: Array
    inside_x: Array
    inside_y: Array


def steps(height: int, width: int) -> tuple[int, int, int, int]:
    """How much further than `Samples.row` the four neighbours lie: upper two, then lower two."""
    right, down = min(1, width - 1), width * min(1, height - 1)
    return 0, right, down, right + down


def all_rows(height: int) -> Array:
    """The rows of a whole image, int32 ``[H]``."""
    return lax.iota(jnp.int32, height)


def sample(displacement: Array, rows: Array, height: int) -> Samples:
    """Applies the rule.

    Args:
      displacement: float32 ``[B, R, W, 2]``, ``(dx, dy)`` in pixels; NaN is taken for minus
        infinity.
      rows: int32 ``[R]``, which rows of the output these are.
      height: ``H`` of the image.

    Returns:
      The samples.
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
    """Where ``grid + offset`` reads along an axis of ``size`` pixels.

    Args:
      grid: int32 of any shape, the output's own coordinates in pixels.
      offset: float32 of that shape, in pixels.
      size: of the image along the axis, in pixels.

    Returns:
      The lower neighbour, int32 in ``[0, size - 2]`` (0 where there is one pixel only); the weight
      of the next one, float32 in [0, 1]; and whether the place lies between two pixels.
    """
    # The fraction is taken of the offset alone, never of the sum, so that it keeps the offset's
    # precision at coordinates in the thousands, where float32 has only 1e-4 px left.
    # Anything further than `size` away reads the border. NaN is sent there too: comparing as
    # below is false for NaN, whereas clip() would let it through to the integer conversion.
    limit = jnp.float32(size)
    offset = jnp.where(offset > -limit, jnp.minimum(offset, limit), -limit)
    whole = jnp.floor(offset)
    low = grid + whole.astype(jnp.int32)
    inside = (low >= 0) & (low < size - 1)
    weight = jnp.where(low < 0, 0.0, jnp.where(low >= size - 1, 1.0, offset - whole))
    return jnp.clip(low, 0, max(0, size - 2)), weight, inside


def blend(neighbours: tuple[Array, Array, Array, Array], samples: Samples) -> Array:
    """Blends four neighbours, float32 ``[B, R, W, C]`` each, to one of that shape."""
    upper_left, upper_right, lower_left, lower_right = neighbours
    weight_x, weight_y = samples.weight_x[..., None], samples.weight_y[..., None]
    upper = between(upper_left, upper_right, weight_x)
    return between(upper, between(lower_left, lower_right, weight_x), weight_y)


def between(low: Array, high: Array, weight: Array) -> Array:
    """``low`` and ``high``, of one shape, blended by the weight of ``high`` in [0, 1]."""
    # Exactly `low` at weight 0 and `high` at 1, so that a zero displacement returns the very image.
    return low * (1.0 - weight) + high * weight


def shares(cotangent: Array, samples: Samples) -> tuple[Array, Array, Array, Array]:
    """The adjoint of `blend`: what each of the four neighbours gets of ``[B, R, W, C]``."""
    weight_x, weight_y = samples.weight_x[..., None], samples.weight_y[..., None]
    upper, lower = cotangent * (1.0 - weight_y), cotangent * weight_y
    return (
        upper * (1.0 - weight_x),
        upper * weight_x,
        lower * (1.0 - weight_x),
        lower * weight_x,
    )


def slope_weights(samples: Samples) -> tuple[Array, Array, Array, Array]:
    """What each of the four neighbours counts for the slopes of the blend, ``[B, R, W, 2]``."""
    # A choice by the index, x or y, not a stack of two: inside a fused loop a concatenation is a
    # branch for every number, a choice is none.
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


def slopes(
    neighbours: tuple[Array, Array, Array, Array], samples: Samples, cotangent: Array
) -> Array:
    """The gradient of the displacement.

    Args:
      neighbours: float32 ``[B, R, W, C]`` each.
      samples: where they were read.
      cotangent: float32 ``[B, R, W, C]``, of the blend.

    Returns:
      ``[B, R, W, 2]``.
    """
    return add(
        weight * dot(cotangent, neighbour)[..., None]
        for weight, neighbour in zip(slope_weights(samples), neighbours, strict=True)
    )
