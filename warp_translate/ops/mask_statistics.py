"""Statistics of masks for reports."""

import jax.numpy as jnp

from warp_translate.types import Array


def mask_saturation(mask: Array, margin: float = 0.02) -> Array:
    """Share of a mask's pixels within ``margin`` of 0 or 1: ``[B, H, W, 1]`` to float32 ``[B]``."""
    saturated = (mask < margin) | (mask > 1.0 - margin)
    return saturated.astype(jnp.float32).mean((1, 2, 3))
