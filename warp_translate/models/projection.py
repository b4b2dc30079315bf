"""Embedding of patch features for a contrastive loss (Park et al. 2020, CUT)."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from warp_translate.types import Array, DType

# A mid-gray pixel is projected to zero while the biases are; with a smaller number its gradient
# would dominate.
_LEAST_NORM = 1e-3


class PatchProjection(nn.Module):
    """A two-layer perceptron for each layer of features, with normalized outputs.

    Attributes:
      width: length of the hidden layers and of the vectors.
      dtype: type of the computation; the vectors are float32.
      param_dtype: type of the parameters.
    """

    width: int = 256
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence[Array], places: Sequence[Array]) -> list[Array]:
        """Embeds sampled features.

        Args:
          features: ``[B, h, w, C]`` for each layer.
          places: int32 ``[B, N]`` for each layer, row-major pixel indices.

        Returns:
          Unit vectors ``[B, N, width]`` for each layer, float32.
        """
        dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        embedded = []
        for layer, place in zip(features, places, strict=True):
            pixels = layer.reshape(len(layer), -1, layer.shape[-1])
            vectors = jnp.take_along_axis(pixels, place[..., None], axis=1)
            vectors = nn.relu(dense(self.width)(vectors))
            vectors = dense(self.width)(vectors).astype(jnp.float32)
            norm = jnp.sqrt(jnp.square(vectors).sum(-1, keepdims=True) + _LEAST_NORM**2)
            embedded.append(vectors / norm)
        return embedded
