"""Distances to the true translation, one value per example."""

from collections.abc import Sequence

import jax.numpy as jnp

from warp_translate.ops import box_downsample
from warp_translate.types import Array


def l1(images: Array, targets: Array) -> Array:
    """Mean absolute difference of each example.

    Args:
      images: ``[B, ...]`` floating point.
      targets: the same shape.

    Returns:
      ``[B]`` float32, in the unit of the images.

    Raises:
      ValueError: the shapes differ.
    """
    if images.shape != targets.shape:
        raise ValueError(f"images and targets differ in shape: {images.shape}, {targets.shape}")
    difference = jnp.abs(images.astype(jnp.float32) - targets.astype(jnp.float32))
    return difference.mean(tuple(range(1, images.ndim)))


def pyramid_l1(images: Array, targets: Array, levels: int) -> Array:
    """L1 averaged over a pyramid of box averages at 1, 1/2, 1/4 ... of the size.

    The gradient of a displacement reaches only the next pixel, so thin lines several pixels apart
    attract each other only in the coarse levels.

    Args:
      images: ``[B, H, W, C]`` floating point; the sides are multiples of ``2 ** (levels - 1)``.
      targets: the same shape.
      levels: number of sizes; 1 is plain L1.

    Returns:
      ``[B]`` float32, in the unit of the images.

    Raises:
      ValueError: the shapes differ, the levels do not divide the size, or there is no level.
    """
    if levels < 1:
        raise ValueError(f"pyramid_l1 needs at least one level, got {levels}")
    terms = [l1(images, targets)]
    for _ in range(levels - 1):
        images, targets = box_downsample(images, 2), box_downsample(targets, 2)
        terms.append(l1(images, targets))
    return jnp.stack(terms).mean(0)


def gradient_l1(images: Array, targets: Array) -> Array:
    """L1 between the forward differences along both axes.

    Plain L1 hardly notices texture beside an error of brightness or color, which this one ignores.

    Args:
      images: ``[B, H, W, C]`` floating point, ``H`` and ``W`` at least 2.
      targets: the same shape.

    Returns:
      ``[B]`` float32, in the unit of the images, averaged over both axes.

    Raises:
      ValueError: the shapes differ.
    """
    across, down = (
        l1(jnp.diff(images, axis=axis), jnp.diff(targets, axis=axis)) for axis in (2, 1)
    )
    return (across + down) / 2


def local_contrast_l1(images: Array, targets: Array) -> Array:
    """L1 between local contrasts, the mean lengths of forward differences in blocks of 8 x 8.

    Unlike distances pixel by pixel, it does not favor an image that is softer than its target where
    detail cannot be predicted.

    Args:
      images: ``[B, H, W, C]`` floating point, ``H`` and ``W`` at least 9; incomplete blocks at the
        end do not count.
      targets: the same shape.

    Returns:
      ``[B]`` float32, in the unit of the images, averaged over both axes.

    Raises:
      ValueError: the shapes differ.
    """

    def contrast(images: Array, axis: int) -> Array:
        lengths = jnp.abs(jnp.diff(images, axis=axis)).astype(jnp.float32)
        batch, height, width, channels = lengths.shape
        rows, columns = height // 8, width // 8
        # Not avg_pool, whose gradient takes an eighth of a training step on CPUs. Rows first: a
        # mean over both axes at once does not vectorize.
        whole = lengths[:, : 8 * rows, : 8 * columns]
        strips = whole.reshape(batch, rows, 8, 8 * columns, channels).mean(2)
        return strips.reshape(batch, rows, columns, 8, channels).mean(3)

    across, down = (l1(contrast(images, axis), contrast(targets, axis)) for axis in (2, 1))
    return (across + down) / 2


def feature_matching(fake: Sequence[Sequence[Array]], real: Sequence[Sequence[Array]]) -> Array:
    """Mean L1 distance of the discriminator's activations (Wang et al. 2018, pix2pixHD, eq. 4).

    Args:
      fake: activations for translated images, by scale and layer, ``[B, ...]`` each.
      real: the same for the true images, constant.

    Returns:
      ``[B]`` float32, averaged over all layers of all scales.

    Raises:
      ValueError: the lists differ in length, an activation in shape, or there is none.
    """
    terms = [
        l1(fake_layer, real_layer)
        for fake_scale, real_scale in zip(fake, real, strict=True)
        for fake_layer, real_layer in zip(fake_scale, real_scale, strict=True)
    ]
    if not terms:
        raise ValueError("feature_matching needs the activations of at least one layer")
    return jnp.stack(terms).mean(0)
