"""Layers shared by the networks: explicit padding, convolutions, residual blocks."""

from collections.abc import Callable
from typing import get_args

import flax.linen as nn
import jax.numpy as jnp

from warp_translate.constants import Border
from warp_translate.ops.convolution import (
    blocked_convolution,
    upsampled_convolution,
    wide_convolution,
)
from warp_translate.types import Array, DType


def pad(features: Array, amount: int, border: Border = "reflect") -> Array:
    """Pads height and width.

    A side that is no longer than the padding has too little to reflect and repeats its border
    instead, so that images of a single pixel pass.

    Args:
      features: ``[B, H, W, C]``.
      amount: pixels added on every side.
      border: what lies there; a reflection does not repeat the outermost pixels.

    Returns:
      ``[B, H + 2 * amount, W + 2 * amount, C]``.
    """
    modes = {"reflect": "reflect", "repeat": "edge", "zero": "constant"}
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (amount, amount)
        short = border == "reflect" and features.shape[axis] <= amount
        features = jnp.pad(features, widths, mode="edge" if short else modes[border])
    return features


def repeat_border(features: Array, amount: int = 1) -> Array:
    """Repeats the outermost pixels, so many on every side of ``[B, H, W, C]``."""
    return pad(features, amount, "repeat")


class ReflectConv(nn.Module):
    """Convolution with an odd square kernel, centred, padded by reflection unless told otherwise.

    Padding is explicit because ``SAME`` with stride 2 is lopsided on even sizes, where exported
    graphs and other frameworks pad both sides alike.

    Attributes:
      features: output channels.
      kernel: side of the kernel in pixels, odd.
      stride: 1 or 2.
      use_bias: false where a norm follows and would take the bias out again.
      border: what it sees beyond the border.
      kernel_init: initialiser of the kernel.
      dtype: type of the computation.
      param_dtype: type of the parameters.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    use_bias: bool = True
    border: Border = "reflect"
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H / stride), ceil(W / stride), features]``."""
        if self.border not in get_args(Border):
            raise ValueError(f"border must be one of {get_args(Border)}, got {self.border!r}")
        return nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=(self.stride, self.stride),
            padding="VALID",
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=self._way(features),
            name="conv",
        )(pad(features, self.kernel // 2, self.border))

    def _way(self, features: Array) -> Callable[..., Array] | None:
        """What ``nn.Conv`` is to call, which tells it strides of 1 and no padding."""
        if self.stride > 1:
            return None
        if self.kernel == 3:
            return lambda images, kernel, *_, **__: wide_convolution(images, kernel)
        if self.kernel >= 7 and features.shape[-1] <= 4:
            return lambda images, kernel, *_, **__: blocked_convolution(images, kernel)
        return None


class EnlargingConv(nn.Module):
    """A 3x3 convolution of features that are enlarged first, bilinear, their border repeated.

    Repeated and not reflected, since that is what the enlargement itself takes to lie beyond the
    border: so the small features with one more pixel on every side tell everything, and the
    enlarged ones need not be made.

    Attributes:
      features: output channels; there is no bias, since a norm follows.
      dtype: type of the computation.
      param_dtype: type of the parameters.
    """

    features: int
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, bordered: Array, factor: int) -> Array:
        """Maps ``[B, h + 2, w + 2, C]``, see `repeat_border`, to ``[B, h * factor, ..., D]``."""
        return nn.Conv(
            self.features,
            (3, 3),
            padding="VALID",
            use_bias=False,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=lambda images, kernel, *_, **__: upsampled_convolution(
                images, kernel, factor
            ),
            name="conv",
        )(bordered)


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut (Johnson et al. 2016), nothing after the sum.

    Attributes:
      conv: builds a 3x3 convolution, called with the number of features.
      norm: builds a normalisation.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        channels = features.shape[-1]
        residual = nn.relu(self.norm()(self.conv(channels)(features)))
        return features + self.norm()(self.conv(channels)(residual))
