"""What every kind of training asks of a translation, whatever it is compared with."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from warp_translate.losses import regularizers
from warp_translate.models import Translation
from warp_translate.ops.mask_statistics import mask_saturation
from warp_translate.types import Array

Metrics = dict[str, Array]
Terms = dict[str, tuple[float | Array, Callable[[], Array]]]


@dataclasses.dataclass(frozen=True)
class Priors:
    """Weights of the priors on displacement and mask; one of zero costs nothing.

    Attributes:
      smoothness_first: first-order smoothness of the displacement, in reduced pixels.
      smoothness_second: second-order smoothness of the displacement, in reduced pixels.
      mask_variation: total variation of the mask.
      mask_band: pull of the mean mask into [mask_low, mask_high].
      mask_low: lower end of that band.
      mask_high: upper end of that band.
    """

    smoothness_first: float = 0.0
    smoothness_second: float = 0.0
    mask_variation: float = 0.0
    mask_band: float = 0.0
    mask_low: float = 0.1
    mask_high: float = 0.9

    def terms(self, translation: Translation, factor: int) -> Terms:
        """The weighted terms, for `weighted_sum`."""
        displacement = translation.displacement / factor  # In reduced pixels, as the bound is.
        return {
            "smoothness_first": (
                self.smoothness_first,
                lambda: regularizers.displacement_smoothness(displacement, order=1),
            ),
            "smoothness_second": (
                self.smoothness_second,
                lambda: regularizers.displacement_smoothness(displacement, order=2),
            ),
            "mask_variation": (
                self.mask_variation,
                lambda: regularizers.mask_total_variation(translation.mask),
            ),
            "mask_band": (
                self.mask_band,
                lambda: regularizers.mask_band(translation.mask, self.mask_low, self.mask_high),
            ),
        }


def weighted_sum(terms: Terms) -> tuple[Array, Metrics]:
    """Adds up the terms that have a weight.

    Args:
      terms: weight and loss by name; a loss is an array of any shape, of which the mean counts. A
        weight that is the Python number 0 leaves its loss uncomputed.

    Returns:
      The sum, float32 scalar, and the unweighted means by name.
    """
    total = jnp.zeros((), jnp.float32)
    means: Metrics = {}
    for name, (weight, loss) in terms.items():
        if isinstance(weight, Array) or weight:
            means[name] = loss().mean()
            total += weight * means[name]
    return total, means


def branch_reports(translation: Translation) -> Metrics:
    """What tells whether a branch is starving: statistics of mask and displacement."""
    magnitude = jnp.sqrt(jnp.square(translation.displacement).sum(-1))
    return {
        "mask/mean": translation.mask.mean(),
        "mask/saturated": mask_saturation(translation.mask).mean(),
        "displacement/mean_px": magnitude.mean(),
    }
