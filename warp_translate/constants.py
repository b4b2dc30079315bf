"""What the code that serves, without jax, has in common with the models."""

from typing import Literal

PIXEL_SCALE = 127.5
"""Half of the uint8 range: ``float = uint8 / PIXEL_SCALE - 1``."""

STRIDE = 4
"""What must divide the sides of the reduced image, in pixels."""

LEAST_REDUCED = 2 * STRIDE
"""Least side of the reduced image in pixels, so that the deepest layers have what to reflect."""

Fusion = Literal["full", "pretranslated", "warped", "unwarped"]
"""How the output is put together: "full" is the method; the others are what it is compared with.

"pretranslated" and "warped" are that image alone. "unwarped" blends by the mask as "full" does, but
with the original as it is: the displacement is zero.
"""

Border = Literal["reflect", "repeat", "zero"]
"""What the trunk's convolutions see beyond the border of their image."""

DisplacementSize = Literal["original", "reduced"]
"""Where the displacement is read off, see ``models.Generator``."""


def padded_side(side: int, factor: int) -> int:
    """The side, in pixels, to which an image is padded for the trunk by repeating its border.

    Args:
      side: height or width, at least 1.
      factor: how many times smaller the trunk's image is, at least 1.

    Returns:
      The least multiple of ``factor * STRIDE`` that is not below ``side`` nor below
      ``factor * LEAST_REDUCED``.
    """
    multiple = factor * STRIDE
    return max(-(-side // multiple) * multiple, factor * LEAST_REDUCED)
