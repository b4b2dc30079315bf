"""Contrastive loss between patches of an image and of its translation."""

import jax
import jax.numpy as jnp

from warp_translate.types import Array


def patch_contrast(queries: Array, keys: Array, temperature: float) -> Array:
    """PatchNCE (Park et al. 2020, arXiv:2007.15651, equation 3).

    Cross-entropy of finding, for each patch of the translation, the patch of the original at the
    same place. The negatives are the other patches of the same image.

    Args:
      queries: unit vectors ``[B, N, D]`` of the translation's patches.
      keys: the same of the original's patches, constant.
      temperature: divides the cosines; 0.07 in the paper.

    Returns:
      ``[B]`` float32; ``log(N)`` for uninformative vectors.

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
