"""This package's default generator and translation in PyTorch; submodules have flax's names."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from warp_translate.models import Generator
from warp_translate.ops import MaskWeights


@dataclasses.dataclass(frozen=True)
class Translation:
    """Results of ``models.translate``, ``[B, C, H, W]`` float32 each."""

    output: Tensor
    pretranslated: Tensor
    mask: Tensor
    displacement: Tensor
    warped: Tensor


class PaddedConv(nn.Module):
    """``models.layers.ReflectConv``; enlarging layers use the border "replicate"."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int = 3,
        stride: int = 1,
        bias: bool = True,
        border: str = "reflect",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, bias=bias)
        self.padding = [kernel // 2] * 4
        self.border = border

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, C, H, W]`` to ``[B, after, H / stride, W / stride]``."""
        return self.conv(functional.pad(features, self.padding, mode=self.border))


class ResidualBlock(nn.Module):
    """``models.layers.ResidualBlock``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ReflectConv_0 = PaddedConv(channels, channels, bias=False)
        self.InstanceNorm_0 = nn.InstanceNorm2d(channels, affine=True)
        self.ReflectConv_1 = PaddedConv(channels, channels, bias=False)
        self.InstanceNorm_1 = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, C, H, W]`` to the same shape."""
        residual = functional.relu(self.InstanceNorm_0(self.ReflectConv_0(features)))
        return features + self.InstanceNorm_1(self.ReflectConv_1(residual))


class Trunk(nn.Module):
    """``models.generator.Trunk``."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        down = [(3, width, 7, 1), (width, 2 * width, 3, 2), (2 * width, 4 * width, 3, 2)]
        up = [(4 * width, 2 * width), (2 * width, width)]
        for index, shape in enumerate(down):
            self.add_module(f"ReflectConv_{index}", PaddedConv(*shape, bias=False))
        for index, shape in enumerate(up):
            conv = PaddedConv(*shape, bias=False, border="replicate")
            self.add_module(f"EnlargingConv_{index}", conv)
        for index, (_, after, *_) in enumerate([*down, *up]):
            self.add_module(f"InstanceNorm_{index}", nn.InstanceNorm2d(after, affine=True))
        for index in range(blocks):
            self.add_module(f"ResidualBlock_{index}", ResidualBlock(4 * width))
        self.blocks = blocks

    def forward(self, reduced: Tensor) -> Tensor:
        """Maps ``[B, 3, h, w]`` to ``[B, width, h, w]``."""
        features = reduced
        for index in range(3):
            features = self._layer(f"ReflectConv_{index}", index, features)
        for index in range(self.blocks):
            features = self.get_submodule(f"ResidualBlock_{index}")(features)
        for index in (0, 1):
            features = self._layer(f"EnlargingConv_{index}", index + 3, _enlarge(features, 2))
        return features

    def _layer(self, conv: str, norm: int, features: Tensor) -> Tensor:
        features = self.get_submodule(conv)(features)
        return functional.relu(self.get_submodule(f"InstanceNorm_{norm}")(features))


class WarpGenerator(nn.Module):
    """``models.Generator`` and ``models.translate``, for sizes that need no padding."""

    def __init__(
        self, generator: Generator, factor: int, mask_weights: MaskWeights = "pretranslated"
    ) -> None:
        """Draws parameters, for `parameters.load` to replace.

        Args:
          generator: the module in flax.
          factor: reduction of the trunk's image.
          mask_weights: the image that the mask multiplies.
        """
        super().__init__()
        hidden = generator.head_width
        self.trunk = Trunk(generator.width, generator.blocks)
        self.project = nn.Conv2d(generator.width, hidden, 1)
        self.join = PaddedConv(hidden + 3, hidden, border="replicate")
        self.pretranslated = nn.Conv2d(hidden, 3, 1)
        self.mask = nn.Conv2d(hidden, 1, 1)
        self.displacement = nn.Conv2d(hidden, 2, 1)
        self.factor = factor
        self.bound = generator.max_displacement * factor
        self.mask_bias = generator.mask_bias
        self.mask_weights = mask_weights

    def forward(self, original: Tensor) -> Translation:
        """Translates ``[B, 3, H, W]`` float32 in [-1, 1]."""
        reduced = functional.avg_pool2d(original, self.factor)
        features = _enlarge(self.project(self.trunk(reduced)), self.factor)
        features = torch.cat([features, original.to(features.dtype)], 1)
        features = functional.relu(self.join(features))
        pretranslated = torch.tanh(self.pretranslated(features).float())
        mask = torch.sigmoid(self.mask(features).float() + self.mask_bias)
        displacement = self.bound * torch.tanh(self.displacement(features).float())
        warped = warp(original, displacement)
        first, second = pretranslated, warped
        if self.mask_weights == "warped":
            first, second = second, first
        output = second + mask * (first - second)
        return Translation(output, pretranslated, mask, displacement, warped)


def warp(images: Tensor, displacement: Tensor) -> Tensor:
    """``ops.bilinear_warp`` by ``grid_sample``.

    At whole-numbered displacements, rounding of the normalized grid decides whether the slope is
    that to the next or to the previous pixel.

    Args:
      images: ``[B, C, H, W]`` float32.
      displacement: ``[B, 2, H, W]``, ``(dx, dy)`` in pixels.

    Returns:
      ``[B, C, H, W]``.
    """
    return functional.grid_sample(
        images, grid(displacement), mode="bilinear", padding_mode="border", align_corners=True
    )


def grid(displacement: Tensor) -> Tensor:
    """Returns the grid of ``grid_sample``, ``[B, H, W, 2]``, -1 to 1 between the corners' centers.

    Args:
      displacement: ``[B, 2, H, W]``, ``(dx, dy)`` in pixels; sides of at least 2 pixels.
    """
    height, width = displacement.shape[2:]
    where = {"dtype": displacement.dtype, "device": displacement.device}
    x = torch.arange(width, **where) + displacement[:, 0]
    y = torch.arange(height, **where)[:, None] + displacement[:, 1]
    return torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], -1)


def _enlarge(features: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return features
    return functional.interpolate(features, scale_factor=factor, mode="bilinear")
