"""The maps as pictures for people: displacements as colours, masks as greys; NumPy alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from warp_translate.constants import PIXEL_SCALE

Picture = npt.NDArray[np.uint8]
"""uint8 RGB ``[H, W, 3]``."""

MAPS = ("reduced", "pretranslated", "mask", "displacement", "warped")
"""The names of what a translation has beside its output."""

# Where no legend says how long a colour is, this share of the longer side is shown in full.
_FULL_COLOR_SHARE = 0.05

# Steps from each hue to the next: red, yellow, green, cyan, blue, magenta and back to red.
_WHEEL_STEPS = (15, 6, 4, 11, 13, 6)
_WHEEL_CORNERS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1))


def draw(maps: Mapping[str, Any], names: Sequence[str], magnitude: float) -> dict[str, Picture]:
    """Draws maps of one example.

    Args:
      maps: ``[H, W, C]`` by name, floats: "mask" in [0, 1], "displacement" in pixels, and images in
        [-1, 1].
      names: which of them.
      magnitude: displacement in pixels to show in full colour.

    Returns:
      uint8 ``[H, W, 3]`` by name.
    """
    pictures = {}
    for name in names:
        if name == "mask":
            pictures[name] = mask_to_gray(maps[name])
        elif name == "displacement":
            pictures[name] = displacement_to_color(maps[name], magnitude)
        else:
            pictures[name] = to_uint8(np.asarray(maps[name]))
    return pictures


def full_color(shape: Sequence[int]) -> float:
    """The displacement in pixels to show in full colour where no legend says it.

    Args:
      shape: ``[H, W, ...]`` of the image.
    """
    return max(1.0, _FULL_COLOR_SHARE * max(shape[:2]))


def to_uint8(images: npt.NDArray[np.float32]) -> Picture:
    """Maps float32 in [-1, 1] to uint8 as ``types.to_uint8`` does, without jax."""
    scaled = (images + np.float32(1)) * np.float32(PIXEL_SCALE)
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def displacement_to_color(
    displacement: npt.ArrayLike, max_magnitude: float | None = None
) -> Picture:
    """Paints a displacement on the colour wheel of the Middlebury optical-flow benchmark.

    Hue is the direction and saturation the magnitude over ``max_magnitude``; zero is white. To the
    right is red, and clockwise on the screen follow yellow (down), cyan and blue (left) and magenta
    (up): the 55 hues of Baker et al., "A Database and Evaluation Methodology for Optical Flow",
    IJCV 2011, after their ``colorcode.cpp``. As there, a vector longer than the maximum is dimmed
    by a quarter and an unknown (non-finite) one is black; unlike there, the wheel closes smoothly.

    Args:
      displacement: real ``[H, W, 2]``, (dx, dy) in pixels, y downwards.
      max_magnitude: length in pixels that is painted in full colour; the longest finite vector's
        when None.

    Returns:
      uint8 ``[H, W, 3]``.

    Raises:
      ValueError: the displacement has another shape, or the maximum is negative or not finite.
    """
    vectors = np.asarray(displacement, np.float64)
    if vectors.ndim != 3 or vectors.shape[2] != 2:
        raise ValueError(f"a displacement has shape [H, W, 2], got {vectors.shape}")
    known = np.isfinite(vectors).all(axis=2, keepdims=True)
    vectors = np.where(known, vectors, 0.0)
    length = np.hypot(vectors[..., 0], vectors[..., 1])
    if max_magnitude is None:
        max_magnitude = float(length.max(initial=0.0))
    if not (0 <= max_magnitude < np.inf):
        raise ValueError(f"max_magnitude must be finite and not negative, got {max_magnitude}")

    wheel = _color_wheel()
    angle = np.arctan2(vectors[..., 1], vectors[..., 0])
    place = np.asarray(angle / (2 * np.pi) % 1.0 * len(wheel))
    below = np.floor(place).astype(int)
    fraction = np.asarray(place - below)[..., None]
    hue = (1 - fraction) * wheel[below % len(wheel)] + fraction * wheel[(below + 1) % len(wheel)]

    # Where the maximum is 0, every vector that is not zero is too long; the saturation is not used.
    saturation = length / max_magnitude if max_magnitude > 0 else np.zeros_like(length)
    color = 1.0 - saturation[..., None] * (1.0 - hue)
    # A maximum that the caller took in float32 may fall short of the vector it came from.
    too_long = length > max_magnitude * (1 + 1e-6)
    color = np.where(too_long[..., None], 0.75 * hue, np.maximum(color, 0.0))
    return np.where(known, np.rint(255 * color), 0).astype(np.uint8)


def mask_to_gray(mask: npt.ArrayLike) -> Picture:
    """Paints a mask in grey: 0 is black, 1 is white.

    Args:
      mask: real ``[H, W, 1]`` in [0, 1]; values outside are clipped, a NaN is black.

    Returns:
      uint8 ``[H, W, 3]``.

    Raises:
      ValueError: the mask has another shape.
    """
    values = np.asarray(mask, np.float64)
    if values.ndim != 3 or values.shape[2] != 1:
        raise ValueError(f"a mask has shape [H, W, 1], got {values.shape}")
    gray = np.rint(255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)
    return np.repeat(gray, 3, axis=2)


def _color_wheel() -> npt.NDArray[np.float64]:
    """The 55 hues in [0, 1], each corner of the RGB cube's rim led linearly to the next."""
    hues = []
    for i, steps in enumerate(_WHEEL_STEPS):
        start, end = np.array(_WHEEL_CORNERS[i]), np.array(_WHEEL_CORNERS[(i + 1) % 6])
        hues += [start + (end - start) * step / steps for step in range(steps)]
    return np.array(hues)
