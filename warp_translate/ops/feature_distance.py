"""Perceptual distance of two images from a network's feature maps."""

from collections.abc import Sequence

import jax.numpy as jnp

from warp_translate.types import Array

_EPSILON = 1e-10


def feature_distance(first: Sequence[Array], second: Sequence[Array]) -> Array:
    """Distance of Zhang et al., "The Unreasonable Effectiveness of Deep Features", CVPR 2018.

    Equation 1 without learned channel weights: at every pixel the feature vector is divided by its
    norm plus 1e-10; squared differences are summed over channels, averaged over pixels, then over
    layers. In float32, with a finite gradient everywhere: a zero vector stays zero, and its
    gradient is zero.

    Args:
      first: feature maps of one batch, floating point ``[B, h, w, C]`` for each layer.
      second: those of another batch, of the same shapes.

    Returns:
      float32 ``[B]``, in [0, 2] for non-negative features, else in [0, 4].

    Raises:
      ValueError: the shapes differ, or there is no layer or no pixel.
    """
    shapes = [feature.shape for feature in first], [feature.shape for feature in second]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise ValueError(
            f"feature_distance takes the same layers twice, got {shapes[0]} and {shapes[1]}"
        )
    if any(len(shape) != 4 or 0 in shape[1:] for shape in shapes[0]):
        raise ValueError(f"feature_distance takes maps [B, h, w, C] with pixels, got {shapes[0]}")
    layers = [
        jnp.square(_directions(one) - _directions(other)).sum(-1).mean((1, 2))
        for one, other in zip(first, second, strict=True)
    ]
    return jnp.stack(layers).mean(0)


def _directions(features: Array) -> Array:
    features = features.astype(jnp.float32)
    squares = jnp.square(features).sum(-1, keepdims=True)
    # The root has an infinite slope at zero, which must not enter the gradient of `where`.
    some = squares > 0
    length = jnp.sqrt(jnp.where(some, squares, 1.0))
    return jnp.where(some, features / (length + _EPSILON), 0.0)
