"""This package's discriminators in PyTorch; submodules have flax's names."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from warp_translate.models import Discriminator

_EPSILON = 1e-12  # As in flax's SpectralNorm, under the root.


class SpectralConv(nn.Conv2d):
    """Convolution with spectral normalization (Miyato et al. 2018), like flax's ``SpectralNorm``.

    Every pass takes one step of the power iteration from the stored vector, and stores the new one
    only with ``update_stats``. The gradient flows through the norm, not through the vectors.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__(before, after, 4, stride, padding=1)
        self.register_buffer("u", torch.randn(after))

    def forward(self, features: Tensor, *, update_stats: bool = False) -> Tensor:
        """Convolves ``[B, C, H, W]``."""
        with torch.autocast(features.device.type, enabled=False):  # The iteration needs float32.
            matrix = self.weight.flatten(1)
            with torch.no_grad():
                v = _normalized(self.u @ matrix)
                u = _normalized(matrix @ v)
            weight = self.weight / (u @ (matrix @ v))
            if update_stats:
                self.u.copy_(u)
        return functional.conv2d(features, weight, self.bias, self.stride, self.padding)


class PatchDiscriminator(nn.Module):
    """``models.discriminator.PatchDiscriminator``."""

    def __init__(self, channels: int, width: int, layers: int, spectral_norm: bool) -> None:
        super().__init__()
        strides = [*[2] * layers, 1, 1]
        widths = [channels, *(width * min(2**index, 8) for index in range(layers + 1)), 1]
        for index, stride in enumerate(strides):
            before, after = widths[index : index + 2]
            plain = nn.Conv2d(before, after, 4, stride, padding=1)
            conv = SpectralConv(before, after, stride) if spectral_norm else plain
            self.add_module(f"Conv_{index}", conv)

    def forward(self, images: Tensor, *, update_stats: bool = False) -> Tensor:
        """Maps ``[B, C, H, W]`` to logits ``[B, 1, h, w]`` float32."""
        features = images
        for index, conv in enumerate(self.children()):
            if index:
                features = functional.leaky_relu(features, 0.2)
            stats = {"update_stats": update_stats} if isinstance(conv, SpectralConv) else {}
            features = conv(features, **stats)
        return features.float()


class PatchDiscriminators(nn.Module):
    """``models.Discriminator``: PatchGANs at 1, 1/2, 1/4 ... of the size."""

    def __init__(self, discriminator: Discriminator, *, conditional: bool) -> None:
        """Draws parameters, for `parameters.load` to replace.

        Args:
          discriminator: the module in flax.
          conditional: whether it sees the original concatenated to the image.
        """
        super().__init__()
        d, channels = discriminator, 6 if conditional else 3
        for scale in range(d.scales):
            patches = PatchDiscriminator(channels, d.width, d.layers, d.spectral_norm)
            self.add_module(f"scale_{scale}", patches)

    def forward(self, images: Tensor, *, update_stats: bool = False) -> list[Tensor]:
        """Maps ``[B, 3, H, W]``, or 6 channels with the condition, to logits of every scale."""
        logits = []
        for scale, patches in enumerate(self.children()):
            if scale:
                images = functional.avg_pool2d(images, 2)
            logits.append(patches(images, update_stats=update_stats))
        return logits


def _normalized(vector: Tensor) -> Tensor:
    return vector * torch.rsqrt(vector.square().sum() + _EPSILON)
