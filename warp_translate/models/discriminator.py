"""Discriminators of patches and of a frozen network's features, optionally conditional."""

from typing import Literal

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from warp_translate.models.frozen_features import FeatureHead, Features, mix
from warp_translate.models.layers import normed_convolution
from warp_translate.ops import box_downsample
from warp_translate.ops.convolution import patch_convolution
from warp_translate.settings import DTYPES, check, setting
from warp_translate.types import Array, DType


@flax.struct.dataclass
class DiscriminatorOutput:
    """Outputs of all scales for the same images.

    Attributes:
      logits: for every scale ``[B, h, w, 1]`` float32, one for each patch; positive means real.
      features: for every scale the hidden activations, ``[B, h, w, C]`` each.
    """

    logits: tuple[Array, ...]
    features: tuple[tuple[Array, ...], ...]


class PatchDiscriminator(nn.Module):
    """A PatchGAN (Isola et al. 2017); with three stride-2 layers patches are 70 x 70 pixels.

    4x4 kernels, padded by one pixel on every side; leaky ReLU of 0.2; spectral norm (Miyato et al.
    2018) on every convolution or on none; no other norm, so examples do not influence each other.

    Attributes:
      width: channels of the first layer, doubled by each of the next three layers.
      layers: number of stride-2 layers; 3 sees 70 pixels, 2 sees 34, 1 sees 16.
      spectral_norm: whether every convolution is divided by its spectral norm.
      by_patches: whether convolutions are computed as ``ops.convolution.patch_convolution``; the
        values are the same.
      dtype: type of the computation; logits are float32 in any case.
      param_dtype: type of the parameters.
    """

    width: int
    layers: int
    spectral_norm: bool
    by_patches: bool
    dtype: DType
    param_dtype: DType

    @nn.compact
    def __call__(self, images: Array, *, update_stats: bool) -> tuple[Array, tuple[Array, ...]]:
        """Maps ``[B, H, W, C]`` to logits ``[B, h, w, 1]`` and the hidden activations."""
        strides = [2] * self.layers + [1]
        widths = [self.width * min(2**index, 8) for index in range(len(strides))]
        features: list[Array] = []
        hidden = images.astype(self.dtype)
        for features_out, stride in zip([*widths, 1], [*strides, 1], strict=True):
            conv = nn.Conv(
                features_out,
                (4, 4),
                strides=(stride, stride),
                padding=((1, 1), (1, 1)),
                conv_general_dilated=patch_convolution if self.by_patches else None,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )
            hidden = normed_convolution(
                conv, hidden, spectral_norm=self.spectral_norm, update_stats=update_stats
            )
            if len(features) < len(strides):
                hidden = nn.leaky_relu(hidden, 0.2)
                features.append(hidden)
        return hidden.astype(jnp.float32), tuple(features)


DiscriminatorKind = Literal["patch", "projected", "both"]

_LEVELS = 4  # Feature maps of a frozen network, at 1/4 to 1/32 of the size.
_COARSEST = 32


class Discriminator(nn.Module):
    """PatchGANs, heads on frozen features, or both.

    "patch": PatchGANs of equal shape at 1, 1/2, 1/4 ... of the size (Wang et al. 2018).

    "projected": a frozen network sees the image; its feature maps are mixed by random projections,
    and a small head judges each (Sauer et al. 2021, arXiv:2111.01007). The network knows pictures
    already, so that a small set of images is not learned by heart. It and the projections are no
    parameters: they follow from the network's file and ``mixing_seed``.

    In paired training it is conditional: it judges whether the image is the true translation of
    the condition. Without a condition it judges whether the image is one of its domain.

    The spectral norm bounds its Lipschitz constant, which weakens it: for similar unpaired domains
    the gradient penalty alone is better. Its statistics are in the collection "spectral";
    they change only where ``update_stats`` is true, and never in the generator's loss.

    Attributes:
      by_patches: whether convolutions are computed as ``ops.convolution.patch_convolution``; the
        values are the same.
      features: the frozen network, required by "projected" and "both".
    """

    kind: DiscriminatorKind = setting(
        "patch",
        "what judges: PatchGANs, heads on frozen features, or both",
        choices=DiscriminatorKind,
    )
    head_width: int = setting(
        64, "channels of the heads on frozen features", minimum=1, maximum=2**14
    )
    mixing_seed: int = setting(
        0, "seed of the random projections of frozen features", minimum=0, maximum=2**31 - 1
    )
    width: int = setting(64, "channels of the first layer", minimum=1, maximum=2**14)
    layers: int = setting(
        3, "stride-2 layers; 3 see patches of 70 pixels, 2 of 34", minimum=1, maximum=15
    )
    scales: int = setting(2, "image sizes that are judged", minimum=1, maximum=15)
    spectral_norm: bool = setting(False, "divide every convolution by its spectral norm")
    by_patches: bool = False
    features: Features | None = None
    dtype: DType = setting(jnp.float32, "type of the computation", choices=DTYPES)
    param_dtype: DType = setting(jnp.float32, "type of the parameters", choices=DTYPES)

    def __post_init__(self) -> None:
        check(self, "discriminator")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Array, condition: Array | None = None, *, update_stats: bool = False
    ) -> DiscriminatorOutput:
        """Judges images.

        Args:
          images: ``[B, H, W, 3]`` in [-1, 1]; the sides are multiples of ``2 ** (scales - 1)``.
          condition: the originals, of the same shape, or None.
          update_stats: advances the power iteration of the spectral norm by one step.

        Returns:
          Logits and features of every scale, finest first.

        Raises:
          ValueError: the images are too small, a side is not a multiple, or the condition has
            another shape.
        """
        smallest = self.minimum_size
        if min(images.shape[1:3]) < smallest:
            raise ValueError(
                f"images of {images.shape[1]} x {images.shape[2]} are too small for this "
                f"{self.kind} discriminator, which takes {smallest} x {smallest} at least: use "
                "fewer layers or scales, or larger images"
            )
        if condition is not None and condition.shape != images.shape:
            raise ValueError(
                f"the condition {condition.shape} must have the images' shape {images.shape}"
            )
        judged = self._projected(images, condition, update_stats)
        if condition is not None:
            images = jnp.concatenate([images, condition], axis=-1)
        for scale in range(self.patch_scales):
            if scale:
                images = box_downsample(images, 2)
            discriminator = PatchDiscriminator(
                self.width,
                self.layers,
                self.spectral_norm,
                self.by_patches,
                self.dtype,
                self.param_dtype,
                name=f"scale_{scale}",
            )
            judged.append(discriminator(images, update_stats=update_stats))
        logits, features = zip(*judged, strict=True)
        return DiscriminatorOutput(logits=logits, features=features)

    def _projected(
        self, images: Array, condition: Array | None, update_stats: bool
    ) -> list[tuple[Array, tuple[Array, ...]]]:
        """Logits and activations of the heads on frozen features."""
        if self.kind == "patch":
            return []
        if self.features is None:
            raise ValueError(f"a {self.kind} discriminator needs features")
        maps = self.features(images, self.dtype)
        if condition is not None:
            of_condition = self.features(condition, self.dtype)
            maps = [jnp.concatenate(each, -1) for each in zip(maps, of_condition, strict=True)]
        judged = []
        for level, mixed in enumerate(mix(maps, jax.random.key(self.mixing_seed))):
            head = FeatureHead(
                self.head_width,
                _LEVELS - 1 - level,
                self.spectral_norm,
                self.dtype,
                self.param_dtype,
                name=f"level_{level}",
            )
            judged.append(head(mixed, update_stats=update_stats))
        return judged

    @property
    def patch_scales(self) -> int:
        """Number of image sizes that PatchGANs judge."""
        return 0 if self.kind == "projected" else self.scales

    @property
    def minimum_size(self) -> int:
        """The least side in pixels, with one logit at the coarsest scale."""
        # Each stride-1 layer removes one pixel, so the stride-2 layers must leave three.
        of_patches = 3 * 2 ** (self.layers + self.scales - 1) if self.patch_scales else 1
        return max(of_patches, 1 if self.kind == "patch" else _COARSEST)
