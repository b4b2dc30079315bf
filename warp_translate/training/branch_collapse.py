"""Warns when a branch of the method has collapsed, its known silent failure."""

from collections.abc import Mapping

from warp_translate.ops import MaskWeights

_DEAD_WEIGHT = 0.005
_SMALL_WEIGHT = 0.02
_SMALL_DISPLACEMENT_PX = 0.05
# One batch may need little change; a collapsed branch stays collapsed.
_CHECKS = 3


class BranchWatch:
    """Warns once after three checks in a row found a collapse, and again after a recovery."""

    def __init__(self, mask_weights: MaskWeights = "pretranslated") -> None:
        """Takes which image the mask multiplies, see ``ops.fuse``."""
        self._mask_weights = mask_weights
        self._lasting: dict[tuple[str, str], int] = {}  # Checks in a row, by prefix and kind.

    def __call__(self, scalars: Mapping[str, float]) -> list[str]:
        """Checks the metrics of a step.

        Args:
          scalars: metrics with ``mask/mean``, ``mask/saturated`` and ``displacement/mean_px``,
            optionally prefixed by a generator's name, as ``a_to_b/mask/mean``.

        Returns:
          New warnings, one line each.
        """
        found = {}
        for name, mean in scalars.items():
            if name.rpartition("mask/mean")[1:] == ("mask/mean", ""):
                prefix = name.removesuffix("mask/mean")
                saturated = scalars.get(f"{prefix}mask/saturated", 0.0)
                displacement = scalars.get(f"{prefix}displacement/mean_px", 0.0)
                weight = mean if self._mask_weights == "pretranslated" else 1.0 - mean
                kind = _diagnose(weight, displacement)
                if kind:
                    found[prefix, kind] = (
                        f"{prefix.rstrip('/') or 'generator'}: {_TEXTS[kind]} (mask mean "
                        f"{mean:.4f}, saturated {saturated:.3f}, displacement {displacement:.3f} "
                        f"px); {_REMEDIES[kind]}"
                    )
        self._lasting = {key: self._lasting.get(key, 0) + 1 for key in found}
        return [text for key, text in found.items() if self._lasting[key] == _CHECKS]


_TEXTS = {
    "identity": "the pretranslated image has lost its weight and the displacement is zero, so the "
    "output equals the original",
    "warped": "the pretranslated image has lost its weight in the output",
    "pretranslated": "the warped original has lost its weight in the output",
}
_REMEDIES = {
    "identity": "weigh the adversarial loss more, or cycle and identity less",
    "warped": "raise config.losses.mask_band, config.losses.l1_pretranslated or "
    "config.losses.adversarial_pretranslated",
    "pretranslated": "raise config.losses.mask_band, config.losses.l1_warped or "
    "config.losses.adversarial_warped",
}


def _diagnose(weight: float, displacement: float) -> str | None:
    """Names the collapse, given the mean weight of the pretranslated image; None without one."""
    if weight < _SMALL_WEIGHT and displacement < _SMALL_DISPLACEMENT_PX:
        return "identity"
    if weight < _DEAD_WEIGHT:
        return "warped"
    if weight > 1.0 - _DEAD_WEIGHT:
        return "pretranslated"
    return None
