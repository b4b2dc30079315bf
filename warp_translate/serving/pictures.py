"""An engine's maps as pictures."""

from collections.abc import Mapping, Sequence

import numpy as np

from warp_translate import map_pictures
from warp_translate.serving.engine import to_uint8

MAPS = ("reduced", "pretranslated", "mask", "displacement", "warped")


def full_color(shape: Sequence[int]) -> float:
    """The displacement in pixels that is shown in full colour for an image ``[H, W, ...]``."""
    return max(1.0, map_pictures.FULL_COLOR_SHARE * max(shape[:2]))


def draw(maps: Mapping[str, np.ndarray], names: Sequence[str] = MAPS) -> dict[str, np.ndarray]:
    """Draws one image's maps, as ``evaluation.evaluator.maps_as_images`` does.

    Args:
      maps: ``[H, W, C]`` by name, see `engine.Translated`.
      names: which of them.

    Returns:
      uint8 ``[H, W, 3]`` by name.
    """
    pictures = {}
    for name in names:
        if name == "mask":
            pictures[name] = map_pictures.mask_to_gray(maps[name])
        elif name == "displacement":
            full = full_color(maps[name].shape)
            pictures[name] = map_pictures.displacement_to_color(maps[name], full)
        else:
            pictures[name] = to_uint8(maps[name])
    return pictures
