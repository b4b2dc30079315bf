"""Reduction and enlargement by whole factors, at a cost that grows with the pixels alone.

``jax.image.resize`` is a dense matrix product per axis; at 4K that is hundreds of times the
arithmetic of the phases below. The functions here work along one axis at a time.
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jax import lax

from warp_translate.ops.unrolled_sum import add
from warp_translate.types import Array

Reduction = Literal["box", "linear", "nearest"]
"""How `downsample` makes one pixel of many."""


def _check(name: str, images: Array, factor: int) -> None:
    if images.ndim != 4:
        raise ValueError(f"{name} takes images [B, H, W, C], got {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"{name} takes floating-point images, got {images.dtype}")
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"the factor must be a whole number of at least 1, got {factor!r}")


def _check_divides(name: str, images: Array, factor: int) -> None:
    _check(name, images, factor)
    height, width = images.shape[1:3]
    if height % factor or width % factor:
        raise ValueError(
            f"factor {factor} does not divide the size {height} x {width}: pad the images to a "
            "multiple of it first"
        )


def box_downsample(images: Array, factor: int) -> Array:
    """Averages blocks of ``factor x factor`` pixels.

    Args:
      images: ``[B, H, W, C]`` floating point; ``factor`` divides ``H`` and ``W``.
      factor: at least 1.

    Returns:
      ``[B, H / factor, W / factor, C]`` of the same type; sums are kept in float32.

    Raises:
      ValueError: the factor does not divide the size, or rank, type or factor are wrong.
    """
    _check_divides("box_downsample", images, factor)
    if factor == 1:
        return images
    # Adding strided slices fuses into one pass; a reduction over the axes of a reshape does not.
    sums = images.astype(jnp.float32)
    for axis in (1, 2):
        slices = (
            lax.slice_in_dim(sums, phase, None, stride=factor, axis=axis) for phase in range(factor)
        )
        sums = add(slices)
    return (sums * (1.0 / factor**2)).astype(images.dtype)


def downsample(images: Array, factor: int, reduction: Reduction = "box") -> Array:
    """Reduces images by a whole factor.

    Args:
      images: ``[B, H, W, C]`` floating point; ``factor`` divides ``H`` and ``W``.
      factor: at least 1.
      reduction: "box", the mean of ``factor x factor`` pixels, see `box_downsample`; "linear", a
        triangle twice as wide, as ``jax.image.resize(..., "linear")`` antialiases, with the border
        repeated; "nearest", one pixel in the middle, which lets through what the reduced image is
        too small to hold (aliasing).

    Returns:
      ``[B, H / factor, W / factor, C]`` of the same type.

    Raises:
      ValueError: the factor does not divide the size, or rank, type, factor or reduction are wrong.
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"the reduction must be one of {get_args(Reduction)}, got {reduction!r}")
    if reduction == "box" or factor == 1:
        return box_downsample(images, factor)
    _check_divides("downsample", images, factor)
    if reduction == "nearest":
        middle = factor // 2
        return images[:, middle::factor, middle::factor]
    sums = images.astype(jnp.float32)
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (factor, factor)
        padded, size = jnp.pad(sums, widths, mode="edge"), sums.shape[axis]
        centre = factor + (factor - 1) / 2  # Of the first block, in the padded image.
        taps = [tap for tap in range(3 * factor) if abs(tap - centre) < factor]
        sums = add(
            (1 - abs(tap - centre) / factor)
            / factor
            * lax.slice_in_dim(padded, tap, tap + size - factor + 1, stride=factor, axis=axis)
            for tap in taps
        )
    return sums.astype(images.dtype)


def _upsample_axis(images: Array, factor: int, axis: int) -> Array:
    """Bilinear along one axis: every output phase blends two neighbours with fixed weights."""
    size = images.shape[axis]
    first = lax.slice_in_dim(images, 0, 1, axis=axis)
    last = lax.slice_in_dim(images, size - 1, size, axis=axis)
    padded = lax.concatenate([first, images, last], axis)
    phases = []
    for phase in range(factor):
        position = (phase + 0.5) / factor - 0.5  # Half-pixel centres, relative to the input pixel.
        start = 0 if position < 0 else 1
        weight = position - (start - 1)
        low = lax.slice_in_dim(padded, start, start + size, axis=axis)
        high = lax.slice_in_dim(padded, start + 1, start + 1 + size, axis=axis)
        phases.append(low if weight == 0 else (1.0 - weight) * low + weight * high)
    shape = (*images.shape[:axis], size * factor, *images.shape[axis + 1 :])
    return jnp.stack(phases, axis=axis + 1).reshape(shape)


def upsample_bilinear(images: Array, factor: int) -> Array:
    """Enlarges by a whole factor, bilinear with half-pixel centres, clamped to the border.

    The values are those of ``jax.image.resize(..., method="linear")`` and of PyTorch's
    ``interpolate(mode="bilinear", align_corners=False)`` at ``factor`` times the size.

    Args:
      images: ``[B, H, W, C]`` floating point, features as well as images.
      factor: at least 1; 1 returns the input.

    Returns:
      ``[B, H * factor, W * factor, C]`` of the same type.

    Raises:
      ValueError: rank, type or factor are wrong.
    """
    _check("upsample_bilinear", images, factor)
    if factor == 1:
        return images
    return _upsample_axis(_upsample_axis(images, factor, 1), factor, 2)


def upsample_inside(images: Array, factor: int, margin: int) -> Array:
    """Enlarges images that have a margin, which is what the outermost pixels blend with.

    Args:
      images: ``[B, h + 2 * margin, w + 2 * margin, C]`` floating point.
      factor: at least 1.
      margin: pixels on every side, at least 1.

    Returns:
      ``[B, h * factor, w * factor, C]`` of the same type.

    Raises:
      ValueError: rank, type or factor are wrong.
    """
    return _inside(upsample_bilinear(images, factor), factor * margin)


def _inside(images: Array, margin: int) -> Array:
    for axis in (1, 2):
        images = lax.slice_in_dim(images, margin, images.shape[axis] - margin, axis=axis)
    return images


def space_to_depth(images: Array, block: int) -> Array:
    """Turns the pixels of blocks into channels.

    Args:
      images: ``[B, H, W, C]``; ``block`` divides ``H`` and ``W``.
      block: side of a block in pixels.

    Returns:
      ``[B, H / block, W / block, block * block * C]``, a block's pixels row by row.
    """
    batch, height, width, channels = images.shape
    blocks = images.reshape(batch, height // block, block, width // block, block, channels)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, height // block, width // block, block * block * channels
    )


def depth_to_space(images: Array, block: int) -> Array:
    """The inverse of `space_to_depth`."""
    batch, height, width, channels = images.shape
    channels //= block * block
    blocks = images.reshape(batch, height, width, block, block, channels)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, height * block, width * block, channels
    )
