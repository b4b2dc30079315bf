"""How far pictures are from their references in the eyes of a network, at their own size."""

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
    """`feature_distance` between the layers of EfficientNet-Lite0, at the size of the pictures.

    After Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
    CVPR 2018, with another network and without weights learnt from people's judgements: values do
    not compare with those of LPIPS, nor with those of other weights.

    Attributes:
      network: with its weights.
    """

    network: features.LoadedNetwork

    @property
    def name(self) -> str:
        """Of the network."""
        return self.network.name

    def __call__(self, images: Array, references: Array) -> Array:
        """Compares pictures, each with its reference; may be compiled and differentiated.

        Args:
          images: floating-point RGB ``[B, H, W, 3]`` in [-1, 1].
          references: same shape, in [-1, 1].

        Returns:
          float32 ``[B]`` in [0, 4]; 0 for identical images.

        Raises:
          ValueError: not two floating-point images of the same shape ``[B, H, W, 3]``.
        """
        pair = checked("PerceptualDistance", images, references)
        seen = [
            efficientnet_lite.taps(self.network.params, (each + 1.0) * PIXEL_SCALE) for each in pair
        ]
        return feature_distance(*seen)

    def protocol(self) -> dict[str, Any]:
        """What a reader of a value must know, ready for JSON."""
        return {
            "name": self.name,
            "weights_sha256": self.network.checksum[:12],
            "layers": list(efficientnet_lite.TAPS),
            "view": "native size, no resize",
        }


def load_perceptual_distance(
    name_or_path: str | os.PathLike[str] = features.EFFICIENTNET_LITE0,
) -> PerceptualDistance:
    """Loads the network of a perceptual distance.

    Args:
      name_or_path: what `features.load_network` takes.

    Returns:
      The distance.

    Raises:
      UserError: as `features.load_network`.
    """
    return PerceptualDistance(features.load_network(name_or_path))
