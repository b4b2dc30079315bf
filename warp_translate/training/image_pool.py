"""A pool of earlier translations to show the discriminator (Shrivastava et al. 2017).

A discriminator that sees the newest translations only forgets the older mistakes, and the two
networks may run in circles. As in CycleGAN (Zhu et al. 2017), every other translation is exchanged
for an earlier one.
"""

import flax
import jax
import jax.numpy as jnp

from warp_translate.types import Array, to_float, to_uint8


@flax.struct.dataclass
class ImagePool:
    """Earlier translations.

    Attributes:
      images: uint8 ``[N, H, W, C]``; only the first ``count`` are images.
      count: int32 scalar.
    """

    images: Array
    count: Array


def empty_pool(size: int, height: int, width: int) -> ImagePool | None:
    """Returns a pool that has room for ``size`` RGB images of ``height`` x ``width``.

    Without room there is no pool, None: a checkpoint cannot hold arrays of no size.

    Raises:
      ValueError: a negative size.
    """
    if size < 0:
        raise ValueError(f"the image pool cannot hold {size} images; 0 switches it off")
    if not size:
        return None
    return ImagePool(
        images=jnp.zeros((size, height, width, 3), jnp.uint8), count=jnp.zeros((), jnp.int32)
    )


def exchange(pool: ImagePool | None, images: Array, key: Array) -> tuple[ImagePool | None, Array]:
    """Gives images to the pool and takes as many back.

    While there is room every image is kept and comes back itself. In a full pool one of two images
    is exchanged for one at a random place, which it takes; the others come back themselves and are
    not kept. Within a batch no place is drawn twice. Images that come from the pool are those of
    earlier calls, rounded to 8 bits.

    Args:
      pool: the pool; without one the images come back as they are.
      images: ``[B, H, W, 3]`` floating point in [-1, 1].
      key: random key.

    Returns:
      The pool afterwards, and ``[B, H, W, 3]`` of the images' type, without gradient.
    """
    images = jax.lax.stop_gradient(images)
    if pool is None:
        return None, images
    size, batch = len(pool.images), len(images)
    place_key, swap_key = jax.random.split(key)
    index = jnp.arange(batch)
    fills = pool.count + index < size
    # A batch larger than the pool draws as many places as there are; the rest is not exchanged.
    drawn = jnp.resize(jax.random.permutation(place_key, size), (batch,))
    # Places that were empty before this call hold nothing to give back.
    swaps = (
        ~fills
        & (index < size)
        & (drawn < pool.count)
        & jax.random.bernoulli(swap_key, 0.5, (batch,))
    )
    taken = jnp.where(
        swaps[:, None, None, None], to_float(pool.images[drawn], images.dtype), images
    )
    places = jnp.where(fills, pool.count + index, jnp.where(swaps, drawn, size))
    kept = pool.images.at[places].set(to_uint8(images), mode="drop")
    return ImagePool(images=kept, count=jnp.minimum(pool.count + batch, size)), taken
