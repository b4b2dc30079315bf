"""Classifier of an image's domain."""

import flax.linen as nn
import jax.numpy as jnp

from warp_translate.models.layers import ReflectConv
from warp_translate.types import Array, DType

GROUPS = 4
"""Groups of channels for the normalization; divides ``width``."""

NORM_EPSILON = 1e-5
"""Added to a variance."""


class DomainClassifier(nn.Module):
    """A small convolutional network: strided layers, the mean over places, one dense layer.

    Groups of channels are normalised (Wu and He 2018) and not every channel by itself, which would
    hide how bright and how colourful an image is.

    Attributes:
      domains: number of domains.
      width: channels of the first layer, doubled by each further one; a multiple of 4.
      stages: layers of stride 2.
      dtype: type of the computation; the logits are float32 in any case.
      param_dtype: type of the parameters.
    """

    domains: int
    width: int = 16
    stages: int = 4
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32

    def __post_init__(self) -> None:
        if self.domains < 2:
            raise ValueError(f"a classifier needs two domains or more, got {self.domains}")
        if self.width < GROUPS or self.width % GROUPS:
            raise ValueError(f"classifier.width {self.width} must be a multiple of {GROUPS}")
        if self.stages < 1:
            raise ValueError(f"classifier.stages {self.stages} must be at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Maps ``[B, H, W, 3]`` in [-1, 1] to logits ``[B, domains]``, float32."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        features = images.astype(self.dtype)
        for stage in range(self.stages):
            features = ReflectConv(
                self.width * 2**stage,
                stride=2,
                use_bias=False,
                kernel_init=nn.initializers.he_normal(),
                **types,
            )(features)
            features = nn.relu(nn.GroupNorm(GROUPS, epsilon=NORM_EPSILON, **types)(features))
        logits: Array = nn.Dense(self.domains, **types, name="logits")(features.mean((1, 2)))
        return logits.astype(jnp.float32)
