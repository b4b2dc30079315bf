"""pix2pix's generator: a U-Net of eight levels."""

import torch
from torch import Tensor, nn


class UNet256(nn.Module):
    """U-Net of Isola et al. 2017 (arXiv:1611.07004), appendix, for 256 px.

    Eight 4x4 convolutions of stride 2 down to 1 pixel and eight transposed ones back, with skip
    connections: 64, 128, 256 and five times 512 channels, batch norm except at both ends, without
    the dropout of training. 54.414 million parameters. Sides are multiples of 256.
    """

    multiple = 256

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(8)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (before, after) in enumerate(zip([3, *widths], widths, strict=False)):
            layers: list[nn.Module] = [nn.LeakyReLU(0.2)] if level else []
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(after)] if 0 < level < 7 else []
            self.down.append(nn.Sequential(*layers))
        for level in reversed(range(8)):
            before = widths[level] * (1 if level == 7 else 2)  # From below, and the skip.
            after = widths[level - 1] if level else 3
            conv = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=level == 0)
            end = nn.BatchNorm2d(after) if level else nn.Tanh()
            self.up.append(nn.Sequential(nn.ReLU(), conv, end))

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``[B, 3, H, W]`` to the same shape, in [-1, 1]."""
        skips = []
        features = images
        for layer in self.down:
            features = layer(features)
            skips.append(features)
        features = self.up[0](skips.pop())
        for layer in self.up[1:]:
            features = layer(torch.cat([skips.pop(), features], 1))
        return features
