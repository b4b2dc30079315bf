"""Images of no domain, for which a classifier learns equal probabilities."""

import jax
import jax.numpy as jnp

from warp_translate.ops.resize import upsample_bilinear
from warp_translate.types import Array

PIECES = 4
"""Rows and columns of the pieces of an image; divides its sides."""


def draw_outlier(key: Array, images: Array) -> Array:
    """Draws `scramble` or `draw_clouds` with equal probability.

    Args:
      key: random key.
      images: ``[D, S, S, 3]`` in [-1, 1], one of each domain; 4 divides ``S``.

    Returns:
      ``[S, S, 3]`` in [-1, 1].
    """
    coin, pieces, clouds = jax.random.split(key, 3)
    size = images.shape[1]
    return jnp.where(
        jax.random.bernoulli(coin), scramble(pieces, images), draw_clouds(clouds, size)
    )


def draw_clouds(key: Array, size: int) -> Array:
    """Colored 1/f noise, the spectrum of natural images (Field 1987).

    Brightness, contrast and saturation are random.

    Args:
      key: random key.
      size: side of the image in pixels, at least 2.

    Returns:
      ``[size, size, 3]`` in [-1, 1].
    """
    octaves = (size - 1).bit_length()
    color_key, *keys = jax.random.split(key, 1 + octaves)
    mean_key, contrast_key, saturation_key = jax.random.split(color_key, 3)
    total = jnp.zeros((2**octaves, 2**octaves, 4))
    for octave, octave_key in enumerate(keys, start=1):
        noise = jax.random.normal(octave_key, (1, 2**octave, 2**octave, 4))
        total += upsample_bilinear(noise, 2 ** (octaves - octave))[0] / 2**octave
    total = total[:size, :size]
    gray, color = total[..., :1], total[..., 1:]
    mixed = gray + jax.random.uniform(saturation_key) * color
    contrast = jax.random.uniform(contrast_key, minval=0.5, maxval=3.0)
    mean = jax.random.uniform(mean_key, (1, 1, 3), minval=-1.0, maxval=1.0)
    return jnp.clip(mean + contrast * mixed, -1.0, 1.0)


def scramble(key: Array, images: Array) -> Array:
    """Composes 4 x 4 random pieces of the images.

    Args:
      key: random key.
      images: ``[D, S, S, 3]``, one of each domain; 4 divides ``S``.

    Returns:
      ``[S, S, 3]``.
    """
    domains, size = images.shape[:2]
    side = size // PIECES
    pieces = images.reshape(domains, PIECES, side, PIECES, side, 3).swapaxes(2, 3)
    pieces = pieces.reshape(domains * PIECES**2, side, side, 3)
    chosen = jax.random.choice(key, pieces, (PIECES**2,), replace=False)
    rows = chosen.reshape(PIECES, PIECES, side, side, 3).swapaxes(1, 2)
    return rows.reshape(size, size, 3)
