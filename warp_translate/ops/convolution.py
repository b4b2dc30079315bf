"""Convolutions reformulated where XLA's own are slow, mainly on CPUs.

XLA:CPU multiplies a matrix of patches by the kernel, which copies every number once for each tap.
That is slow with few output channels, so pixels of blocks become channels: fewer patches and more
outputs for each (experiments/benchmarks/convolution.py). On TPUs bilinear upsampling is slow: its
pixels interleave, and few channels leave most of a register empty.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from warp_translate.ops.resize import depth_to_space, space_to_depth, upsample_bilinear
from warp_translate.ops.unrolled_sum import add
from warp_translate.ops.winograd import winograd_convolution
from warp_translate.types import Array

Padding = Sequence[tuple[int, int]]
_Convolution = Callable[[Array, Array], Array]


def patch_convolution(
    images: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Padding,
    **ignored: Any,
) -> Array:
    """A convolution as one matrix product of all patches (im2col), for ``flax.linen.Conv``.

    Args:
      images: ``[B, H, W, C]``.
      kernel: ``[h, w, C, D]``.
      strides: in y and x.
      padding: zeros before and after, in y and x.
      **ignored: further arguments of ``lax.conv_general_dilated`` at their defaults.

    Returns:
      ``[B, (H + padding - h) // stride + 1, ..., D]``, equal to ``lax`` up to rounding.
    """
    del ignored
    height, width, channels, features = kernel.shape
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    # In two stages: h + w slices instead of h * w.
    for axis, length, stride in ((2, width, strides[1]), (1, height, strides[0])):
        slices = [_strided(images, axis, start, length, stride) for start in range(length)]
        images = jnp.concatenate(slices, axis=-1)
    return images @ kernel.reshape(height * width * channels, features)


def blocked_convolution(images: Array, kernel: Array) -> Array:
    """A convolution of stride 1 without padding, for few channels; reverse mode only.

    On CPUs blocks of 2 x 2 pixels become channels, and one convolution computes the four outputs of
    a block. Other platforms use XLA's own.

    Args:
      images: ``[B, H, W, C]``.
      kernel: ``[h, w, C, D]``.

    Returns:
      ``[B, H - h + 1, W - w + 1, D]``.
    """
    return _by_platform(_by_xla, cpu=_by_blocks)(images, kernel)


def wide_convolution(images: Array, kernel: Array) -> Array:
    """A 3x3 convolution of stride 1 without padding, for many channels; reverse mode only.

    On CPUs `winograd_convolution` takes half the time for large float32 images of static size.

    Args:
      images: ``[B, H, W, C]``.
      kernel: ``[3, 3, C, D]``.

    Returns:
      ``[B, H - 2, W - 2, D]``.
    """
    if not _gains_by_winograd(images, kernel):
        return _by_xla(images, kernel)
    return _by_platform(_by_xla, cpu=winograd_convolution)(images, kernel)


_LEAST_FOR_WINOGRAD = 4096  # Pixels; with fewer, transforming the kernel takes too long.


def _gains_by_winograd(images: Array, kernel: Array) -> bool:
    sides = images.shape[:3]
    return (
        images.dtype == jnp.float32
        and min(kernel.shape[2:]) >= 32
        and all(isinstance(side, int) for side in sides)
        and math.prod(sides) >= _LEAST_FOR_WINOGRAD
    )


def upsampled_convolution(images: Array, kernel: Array, factor: int) -> Array:
    """Bilinear upsampling with half-pixel centers, then a convolution; reverse mode only.

    With a 3x3 kernel on CPUs and TPUs nothing is upsampled: each of a pixel's ``factor * factor``
    outputs is a fixed sum over 3 x 3 input pixels, so one convolution of the input computes them
    all. Other platforms and small images convolve the upsampled image.

    Args:
      images: ``[B, h + k - 1, w + k - 1, C]``, with a border of ``k // 2`` pixels; a repeated
        border equals upsampling that clamps.
      kernel: ``[k, k, C, D]``, ``k`` odd and at least 3.
      factor: at least 1.

    Returns:
      ``[B, h * factor, w * factor, D]``.
    """
    if factor == 1:
        return _by_xla(images, kernel)
    upsampling = functools.partial(_of_upsampled, factor=factor)
    sides = images.shape[:3]
    # Symbolic sides count as large.
    is_small = all(isinstance(side, int) for side in sides) and math.prod(sides) < _LEAST_FOR_PHASES
    if kernel.shape[0] > 3 or is_small:
        return upsampling(images, kernel)
    phases = functools.partial(_by_phases, factor=factor)
    return _by_platform(upsampling, cpu=phases, tpu=phases)(images, kernel)


_LEAST_FOR_PHASES = 1024  # Pixels; with fewer, the sums of kernels take too long.


def _by_platform(
    elsewhere: _Convolution, **on_platforms: _Convolution
) -> Callable[[Array, Array], Array]:
    """Selects the implementation per platform, in the forward and in the backward pass."""

    @jax.custom_vjp
    def convolve(images: Array, kernel: Array) -> Array:
        return lax.platform_dependent(images, kernel, default=elsewhere, **on_platforms)

    def forward(images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return convolve(images, kernel), (images, kernel)

    def pull(function: Any, images: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        return jax.vjp(function, images, kernel)[1](cotangent)

    def backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        # A second selection, since the branches of the first would keep each other's residuals.
        return lax.platform_dependent(
            *residuals,
            cotangent,
            default=functools.partial(pull, elsewhere),
            **{name: functools.partial(pull, form) for name, form in on_platforms.items()},
        )

    convolve.defvjp(forward, backward)
    return convolve


def _by_xla(images: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


_BLOCK = 2  # Pixels; with more, most of the kernel would be zero.


def _by_blocks(images: Array, kernel: Array) -> Array:
    height, width = images.shape[1:3]
    tall, wide = kernel.shape[:2]
    out_height, out_width = height - tall + 1, width - wide + 1
    # Blocks that the kernel may touch.
    cells_y, cells_x = (-(-(size + _BLOCK - 1) // _BLOCK) for size in (tall, wide))
    below = (-(-out_height // _BLOCK) + cells_y - 1) * _BLOCK - height
    beside = (-(-out_width // _BLOCK) + cells_x - 1) * _BLOCK - width
    images = jnp.pad(images, ((0, 0), (0, below), (0, beside), (0, 0)))

    def shifted(down: int, right: int) -> Array:
        """The kernel of the pixel at this place of a block, in blocks."""
        rest_y, rest_x = cells_y * _BLOCK - tall - down, cells_x * _BLOCK - wide - right
        padded = jnp.pad(kernel, ((down, rest_y), (right, rest_x), (0, 0), (0, 0)))
        return space_to_depth(padded.transpose(3, 0, 1, 2), _BLOCK).transpose(1, 2, 3, 0)

    every = [shifted(down, right) for down in range(_BLOCK) for right in range(_BLOCK)]
    blocks = _by_xla(space_to_depth(images, _BLOCK), jnp.concatenate(every, -1))
    return depth_to_space(blocks, _BLOCK)[:, :out_height, :out_width]


def _of_upsampled(images: Array, kernel: Array, *, factor: int) -> Array:
    border = (factor - 1) * (kernel.shape[0] // 2)
    with jax.named_scope("upsample"):
        images = upsample_bilinear(images, factor)
        for axis in (1, 2):
            images = lax.slice_in_dim(images, border, images.shape[axis] - border, axis=axis)
    return _by_xla(images, kernel)


def _by_phases(images: Array, kernel: Array, *, factor: int) -> Array:
    # In float32, to round once; as sums, since XLA:CPU is slow at 3x3 matrix products.
    weights = jnp.asarray(_phase_weights(factor), jnp.float32)
    channels, features = kernel.shape[2:]
    taps = kernel.astype(jnp.float32)
    rows = add(
        weights[tap][:, None, None, :, None] * taps[tap][None, :, :, None] for tap in range(3)
    )  # [i, l, C, p, D]
    kernels = add(
        weights[tap][None, :, None, None, :, None] * rows[:, tap, None, :, :, None]
        for tap in range(3)
    ).astype(kernel.dtype)  # [i, j, C, p, q, D]
    kernels = kernels.reshape(3, 3, channels, factor * factor * features)
    return depth_to_space(wide_convolution(images, kernels), factor)


def _phase_weights(factor: int) -> np.ndarray:
    """Weights ``[3, 3, factor]`` of tap ``k`` for pixel ``i`` at phase ``p`` along an axis."""
    weights = np.zeros((3, 3, factor))
    for phase in range(factor):
        for tap in range(3):
            place = (phase + tap - 1 + 0.5) / factor - 0.5
            low = math.floor(place)
            weights[tap, low + 1, phase] += 1.0 - (place - low)
            if place > low:
                weights[tap, low + 2, phase] += place - low
    return weights


def _strided(images: Array, axis: int, start: int, length: int, stride: int) -> Array:
    """Every ``stride``-th slice from ``start``, one for each place of a kernel of ``length``."""
    count = (images.shape[axis] - length) // stride + 1
    return lax.slice_in_dim(images, start, start + stride * (count - 1) + 1, stride, axis)
