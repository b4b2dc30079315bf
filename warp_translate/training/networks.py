"""What every kind of training asks of its networks before it starts."""

import math

import jax.numpy as jnp

from warp_translate.models import Discriminator, Generator
from warp_translate.types import Array, PyTree


def check_size(
    size: int,
    generator: Generator,
    discriminator: Discriminator,
    factor: int,
    pyramid_levels: int = 1,
) -> None:
    """Checks that square training images suit the networks.

    Args:
      size: side of the training images in pixels.
      generator: the generator module.
      discriminator: the discriminator module.
      factor: how many times smaller the trunk's image is.
      pyramid_levels: sizes at which images are compared.

    Raises:
      ValueError: they do not.
    """
    multiple = math.lcm(
        factor * generator.stride, 2 ** (pyramid_levels - 1), 2 ** (discriminator.scales - 1)
    )
    if size % multiple or size < discriminator.minimum_size:
        raise ValueError(
            f"training size {size} must be a multiple of {multiple} (for the factor, the trunk's "
            f"stride, the pyramid and the scales) and at least {discriminator.minimum_size} for "
            "this discriminator"
        )


def init_params(generator: Generator, key: Array, size: int, factor: int) -> PyTree:
    """Draws a generator's parameters, which do not depend on the size.

    Args:
      generator: the module.
      key: random key.
      size: side of the training images in pixels, a multiple of factor and stride.
      factor: how many times smaller the trunk's image is.

    Returns:
      The parameters.
    """
    original = jnp.zeros((1, size, size, 3))
    reduced = jnp.zeros((1, size // factor, size // factor, 3))
    return generator.init(key, reduced, original, factor)["params"]
