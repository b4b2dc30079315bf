"""Contrast between patches of an image and of its translation, one value for each example."""

import jax
import jax.numpy as jnp

from warp_translate.types import Array


def patch_contrast(queries: Array, keys: Array, temperature: float) -> Array:
    """PatchNCE (Park et al. 2020, arXiv:2007.15651, equation 3).

    Cross-entropy of telling, for each patch of the translation, which of the patches of the
    original lies at the same place. The other patches of the same image are the negatives, so
    examples do not influence each other.

    Args:
      queries: ``[B, N, D]``, vectors of length one of the translation's patches.
      keys: the same of the original's patches; treat them as constants.
      temperature: divides the cosines; the paper takes 0.07.

    Returns:
      ``[B]`` float32; ``log(N)`` for vectors that tell nothing.

    Raises:
      ValueError: the shapes differ or the temperature is not positive.
    """
    if queries.shape != keys.shape or queries.ndim != 3:
        raise ValueError(
            f"patch_contrast takes queries and keys [B, N, D], got {queries.shape}, {keys.shape}"
        )
    if temperature <= 0:
        raise ValueError(f"the temperature must be positive, got {temperature}")
    cosines = jnp.einsum("bnd,bmd->bnm", queries.astype(jnp.float32), keys.astype(jnp.float32))
    logits = jax.nn.log_softmax(cosines / temperature, axis=-1)
    return -jnp.diagonal(logits, axis1=1, axis2=2).mean(-1)
