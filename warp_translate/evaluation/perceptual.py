"""Perceptual distance between images and references at native size."""

import dataclasses
import os
from typing import Any

from warp_translate.constants import PIXEL_SCALE
from warp_translate.evaluation import features
from warp_translate.evaluation.metrics import checked
from warp_translate.models import efficientnet_lite
from warp_translate.ops.feature_distance import feature_distance
from warp_translate.types import Array


@dataclasses.dataclass(frozen=True)
class PerceptualDistance:
    """`feature_distance` between layers of EfficientNet-Lite0 at the size of the images.

    After Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
    CVPR 2018, with another network and without weights learned from human judgments: values are not
    comparable with those of LPIPS or of other weights.
    """

    network: features.LoadedNetwork

    @property
    def name(self) -> str:
        """Name of the network."""
        return self.network.name

    def __call__(self, images: Array, references: Array) -> Array:
        """Compares images with their references; can be compiled and differentiated.

        Args:
          images: floating-point RGB ``[B, H, W, 3]`` in [-1, 1].
          references: same shape, in [-1, 1].

        Returns:
          float32 ``[B]`` in [0, 4]; 0 for identical images.

        Raises:
          ValueError: not two floating-point images of the same shape ``[B, H, W, 3]``.
        """
        pair = checked("PerceptualDistance", images, references)
        return feature_distance(
            *(efficientnet_lite.taps(self.network.params, (x + 1.0) * PIXEL_SCALE) for x in pair)
        )

    def protocol(self) -> dict[str, Any]:
        """The definition of a value, ready for JSON."""
        return {
            "name": self.name,
            "weights_sha256": self.network.checksum[:12],
            "layers": list(efficientnet_lite.TAPS),
            "view": "native size, no resize",
        }


def load_perceptual_distance(
    name_or_path: str | os.PathLike[str] = features.EFFICIENTNET_LITE0,
) -> PerceptualDistance:
    """Loads a perceptual distance; arguments and errors as of `features.load_network`."""
    return PerceptualDistance(features.load_network(name_or_path))
