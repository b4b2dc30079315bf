"""Convolutions in other words, for where XLA's own are slow, on CPUs above all.

XLA:CPU multiplies a matrix of patches by the kernel, and copies every number once for each tap of
the kernel to make it. That is slow where few output channels make use of the copy. So pixels are
taken together in blocks, whose pixels become channels: fewer patches, and more outputs for each.
Measured on one core (experiments/benchmarks/convolution.py). On TPUs enlarging is slow: its pixels
lie between each other, and few channels leave most of a register empty.
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
    """A convolution as one matrix product of all patches (im2col).

    Takes what ``flax.linen.Conv`` hands its ``conv_general_dilated``.

    Args:
      images: ``[B, H, W, C]``.
      kernel: ``[h, w, C, D]``.
      strides: in y and x.
      padding: zeros before and after, in y and x.
      **ignored: further arguments of ``lax.conv_general_dilated`` at their defaults.

    Returns:
      ``[B, (H + padding - h) // stride + 1, ..., D]``, the very values of ``lax`` up to rounding.
    """
    del ignored
    height, width, channels, features = kernel.shape
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    # In two stages, so that the compiler meets h + w slices and not h * w.
    for axis, length, stride in ((2, width, strides[1]), (1, height, strides[0])):
        slices = [_strided(images, axis, start, length, stride) for start in range(length)]
        images = jnp.concatenate(slices, axis=-1)
    return images @ kernel.reshape(height * width * channels, features)


def blocked_convolution(images: Array, kernel: Array) -> Array:
    """A convolution of stride 1 without padding, best where channels are few.

    On CPUs blocks of 2 x 2 pixels become channels, and one convolution yields the four outputs of a
    block. Elsewhere, which is decided where the program is compiled for, it is XLA's own. Reverse
    mode only.

    Args:
      images: ``[B, H, W, C]``.
      kernel: ``[h, w, C, D]``.

    Returns:
      ``[B, H - h + 1, W - w + 1, D]``.
    """
    return _by_platform(_by_xla, cpu=_by_blocks)(images, kernel)


def wide_convolution(images: Array, kernel: Array) -> Array:
    """A 3x3 convolution of stride 1 without padding, best where channels are many.

    On CPUs large images are convolved by `winograd_convolution`, in half the time, where they are
    float32 and their size is known; all else is XLA's own. Reverse mode only.

    Args:
      images: ``[B, H, W, C]``.
      kernel: ``[3, 3, C, D]``.

    Returns:
      ``[B, H - 2, W - 2, D]``.
    """
    if not _gains_by_winograd(images, kernel):
        return _by_xla(images, kernel)
    return _by_platform(_by_xla, cpu=winograd_convolution)(images, kernel)


_LEAST_FOR_WINOGRAD = 4096  # Pixels; with fewer, turning the kernel takes longer than it saves.


def _gains_by_winograd(images: Array, kernel: Array) -> bool:
    sides = images.shape[:3]
    return (
        images.dtype == jnp.float32
        and min(kernel.shape[2:]) >= 32
        and all(isinstance(side, int) for side in sides)
        and math.prod(sides) >= _LEAST_FOR_WINOGRAD
    )


def upsampled_convolution(images: Array, kernel: Array, factor: int) -> Array:
    """A convolution of images that are enlarged first, bilinear with half-pixel centres.

    On CPUs and TPUs nothing is enlarged for a kernel of 3 x 3: each of the ``factor * factor``
    outputs that belong to a pixel is a fixed sum over 3 x 3 pixels of the small image, so a
    convolution of the small image yields them all. Elsewhere, and where the images are small, the
    enlarged image is convolved. Reverse mode only.

    Args:
      images: ``[B, h + k - 1, w + k - 1, C]``, with ``k // 2`` more pixels on every side: a border
        that repeats the outermost pixels is what an enlargement that clamps would see.
      kernel: ``[k, k, C, D]``, ``k`` odd and at least 3.
      factor: at least 1.

    Returns:
      ``[B, h * factor, w * factor, D]``.
    """
    if factor == 1:
        return _by_xla(images, kernel)
    enlarging = functools.partial(_of_enlarged, factor=factor)
    sides = images.shape[:3]
    if kernel.shape[0] > 3:
        return enlarging(images, kernel)
    # A side that is a symbol stands for images of any size.
    if all(isinstance(side, int) for side in sides) and math.prod(sides) < _LEAST_FOR_PHASES:
        return enlarging(images, kernel)
    phases = functools.partial(_by_phases, factor=factor)
    return _by_platform(enlarging, cpu=phases, tpu=phases)(images, kernel)


_LEAST_FOR_PHASES = 1024  # Pixels; with fewer, the sums of kernels take longer than they save.


def _by_platform(
    elsewhere: _Convolution, **on_platforms: _Convolution
) -> Callable[[Array, Array], Array]:
    """Chooses where the program is compiled for, in the forward and in the backward pass."""

    @jax.custom_vjp
    def convolve(images: Array, kernel: Array) -> Array:
        return lax.platform_dependent(images, kernel, default=elsewhere, **on_platforms)

    def forward(images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return convolve(images, kernel), (images, kernel)

    def pull(function: Any, images: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        return jax.vjp(function, images, kernel)[1](cotangent)

    def backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        # Chosen here again: the branches of one choice would each keep residuals for the other.
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


_BLOCK = 2  # Pixels; with more, most of the kernel would be zeros.


def _by_blocks(images: Array, kernel: Array) -> Array:
    height, width = images.shape[1:3]
    tall, wide = kernel.shape[:2]
    out_height, out_width = height - tall + 1, width - wide + 1
    # Blocks that the kernel touches wherever in a block it begins.
    cells_y, cells_x = (-(-(size + _BLOCK - 1) // _BLOCK) for size in (tall, wide))
    below = (-(-out_height // _BLOCK) + cells_y - 1) * _BLOCK - height
    beside = (-(-out_width // _BLOCK) + cells_x - 1) * _BLOCK - width
    images = jnp.pad(images, ((0, 0), (0, below), (0, beside), (0, 0)))

    def shifted(down: int, right: int) -> Array:
        """The kernel as the pixel at this place of a block sees it, in blocks."""
        rest_y, rest_x = cells_y * _BLOCK - tall - down, cells_x * _BLOCK - wide - right
        padded = jnp.pad(kernel, ((down, rest_y), (right, rest_x), (0, 0), (0, 0)))
        return space_to_depth(padded.transpose(3, 0, 1, 2), _BLOCK).transpose(1, 2, 3, 0)

    every = [shifted(down, right) for down in range(_BLOCK) for right in range(_BLOCK)]
    blocks = _by_xla(space_to_depth(images, _BLOCK), jnp.concatenate(every, -1))
    return depth_to_space(blocks, _BLOCK)[:, :out_height, :out_width]


def _of_enlarged(images: Array, kernel: Array, *, factor: int) -> Array:
    border = (factor - 1) * (kernel.shape[0] // 2)
    with jax.named_scope("upsample"):
        enlarged = upsample_bilinear(images, factor)
        for axis in (1, 2):
            enlarged = lax.slice_in_dim(enlarged, border, enlarged.shape[axis] - border, axis=axis)
    return _by_xla(enlarged, kernel)


def _by_phases(images: Array, kernel: Array, *, factor: int) -> Array:
    # In float32, so that kernels of a shorter type are rounded once; by sums, since XLA:CPU is slow
    # at matrix products whose sides are three numbers.
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
    """``[3, 3, factor]``: of an enlarged axis, what tap ``k`` has of pixel ``i`` at phase ``p``."""
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
    """Every ``stride``-th slice from ``start``, as many as kernels of ``length`` fit."""
    count = (images.shape[axis] - length) // stride + 1
    return lax.slice_in_dim(images, start, start + stride * (count - 1) + 1, stride, axis)
