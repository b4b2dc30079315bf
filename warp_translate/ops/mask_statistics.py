"""What a mask looks like in one number, for reports."""

import jax.numpy as jnp

from warp_translate.types import Array


def mask_saturation(mask: Array, margin: float = 0.02) -> Array:
    """Share of the mask's pixels within ``margin`` of 0 or of 1.

    Args:
      mask: ``[B, H, W, 1]`` in [0, 1].
      margin: how near counts as saturated.

    Returns:
      ``[B]`` float32 in [0, 1].
    """
    saturated = (mask < margin) | (mask > 1.0 - margin)
    return saturated.astype(jnp.float32).mean((1, 2, 3))
