"""CycleGAN's generator: a ResNet of nine blocks at the size of the image."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut, padded by reflection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3)),
            *(nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)),
            *(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3)),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, C, H, W]`` to the same shape."""
        return features + self.residual(features)


class ResNet9(nn.Module):
    """Generator of Zhu et al. 2017 (arXiv:1703.10593), appendix, for 256 px and more.

    ``c7s1-64, d128, d256, R256 x 9, u128, u64, c7s1-3``, instance norm without parameters, 11.378
    million parameters. Sides are multiples of 4, at least 12.
    """

    multiple = 4

    def __init__(self, width: int = 64, blocks: int = 9) -> None:
        super().__init__()
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), *_norm(width)]
        for channels in (width, 2 * width):
            down = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
            layers += [down, *_norm(2 * channels)]
        layers += [Block(4 * width) for _ in range(blocks)]
        for channels in (2 * width, width):
            up = nn.ConvTranspose2d(2 * channels, channels, 3, 2, padding=1, output_padding=1)
            layers += [up, *_norm(channels)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``[B, 3, H, W]`` to the same shape, in [-1, 1]."""
        return torch.tanh(self.layers(images))


def _norm(channels: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)]
