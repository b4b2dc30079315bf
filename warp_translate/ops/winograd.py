"""3x3 convolutions by Winograd's minimal filtering F(4x4, 3x3).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: 36 multiplications
for 16 outputs instead of 144. The float32 error is about 1e-5 of the largest result, ten times that
of a plain sum of products.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from warp_translate.ops.unrolled_sum import add
from warp_translate.types import Array

_TILE = 4  # Outputs along each axis of a tile, which reads six inputs.

# The transforms of the paper's section 4.3, for the points 0, 1, -1, 2, -2 and infinity.
_OF_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OF_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OF_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)


def winograd_convolution(images: Array, kernel: Array) -> Array:
    """A convolution of stride 1 without padding.

    Args:
      images: float32 ``[B, H, W, C]``.
      kernel: float32 ``[3, 3, C, D]``.

    Returns:
      ``[B, H - 2, W - 2, D]``.
    """
    batch, height, width, channels = images.shape
    features = kernel.shape[-1]
    tall, wide = (-(-(side - 2) // _TILE) for side in (height, width))
    padding = ((0, 0), (0, tall * _TILE + 2 - height), (0, wide * _TILE + 2 - width), (0, 0))
    images = jnp.pad(images, padding)
    # Sums, since small matrix products would take as long as the rest.
    of_kernel = [_combine(_OF_KERNEL, list(row)) for row in _combine(_OF_KERNEL, list(kernel))]
    rows = _combine(_OF_INPUT, [_every_fourth(images, 1, start, tall) for start in range(6)])
    # Six products of six: a single one would need all sums in memory.
    products = []
    for row, kernels in zip(rows, of_kernel, strict=True):
        tiles = _combine(_OF_INPUT, [_every_fourth(row, 2, start, wide) for start in range(6)])
        product = jnp.stack(tiles).reshape(6, -1, channels) @ jnp.stack(kernels)
        products.append(product.reshape(6, batch, tall, wide, features))
    columns = _combine(_OF_OUTPUT, products)
    outputs = [jnp.stack(_combine(_OF_OUTPUT, list(column)), 3) for column in columns]
    whole = jnp.stack(outputs, 2).reshape(batch, tall * _TILE, wide * _TILE, features)
    return whole[:, : height - 2, : width - 2]


def _every_fourth(images: Array, axis: int, start: int, count: int) -> Array:
    end = start + _TILE * (count - 1) + 1
    return lax.slice_in_dim(images, start, end, _TILE, axis)


def _combine(weights: Sequence[Sequence[float]], parts: Sequence[Array]) -> list[Array]:
    """Weighted sums that skip zero weights."""
    return [
        add(part * weight for weight, part in zip(row, parts, strict=True) if weight)
        for row in weights
    ]
