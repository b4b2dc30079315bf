"""Renders displacements in color and masks in gray, with NumPy alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from warp_translate.constants import PIXEL_SCALE

Picture = npt.NDArray[np.uint8]
"""uint8 RGB ``[H, W, 3]``."""

MAPS = ("reduced", "pretranslated", "mask", "displacement", "warped")
"""Names of the intermediate results of a translation."""

# Without a legend, a displacement of this share of the longer side has full saturation.
_FULL_COLOR_SHARE = 0.05

# Steps from each hue to the next: red, yellow, green, cyan, blue, magenta, red.
_WHEEL_STEPS = (15, 6, 4, 11, 13, 6)
_WHEEL_CORNERS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1))


def draw(maps: Mapping[str, Any], names: Sequence[str], magnitude: float) -> dict[str, Picture]:
    """Renders maps of one example.

    Args:
      maps: float ``[H, W, C]`` by name: "mask" in [0, 1], "displacement" in pixels, images in
        [-1, 1].
      names: the maps to render.
      magnitude: displacement in pixels with full saturation.

    Returns:
      uint8 ``[H, W, 3]`` by name.
    """
    images = {}
    for name in names:
        if name == "mask":
            images[name] = mask_to_gray(maps[name])
        elif name == "displacement":
            images[name] = displacement_to_color(maps[name], magnitude)
        else:
            images[name] = to_uint8(np.asarray(maps[name]))
    return images


def full_color(shape: Sequence[int]) -> float:
    """The displacement in pixels with full saturation, for an image ``[H, W, ...]``."""
    return max(1.0, _FULL_COLOR_SHARE * max(shape[:2]))


def to_uint8(images: npt.NDArray[np.float32]) -> Picture:
    """``types.to_uint8`` without jax."""
    scaled = (images + np.float32(1)) * np.float32(PIXEL_SCALE)
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def displacement_to_color(
    displacement: npt.ArrayLike, max_magnitude: float | None = None
) -> Picture:
    """Renders a displacement with the color wheel of the Middlebury optical-flow benchmark.

    Hue is the direction and saturation the magnitude over ``max_magnitude``; zero is white. Right
    is red, then clockwise on the screen yellow (down), cyan and blue (left) and magenta (up): the
    55 hues of Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011,
    after their ``colorcode.cpp``. As there, a vector longer than the maximum is dimmed by a quarter
    and a non-finite one is black; unlike there, the wheel closes smoothly.

    Args:
      displacement: real ``[H, W, 2]``, (dx, dy) in pixels, y downwards.
      max_magnitude: length in pixels with full saturation; None takes the longest finite vector.

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

    # If the maximum is 0, every other vector is too long; its saturation is not used.
    saturation = length / max_magnitude if max_magnitude > 0 else np.zeros_like(length)
    color = 1.0 - saturation[..., None] * (1.0 - hue)
    # A maximum computed in float32 may be slightly less than its own vector.
    too_long = length > max_magnitude * (1 + 1e-6)
    color = np.where(too_long[..., None], 0.75 * hue, np.maximum(color, 0.0))
    return np.where(known, np.rint(255 * color), 0).astype(np.uint8)


def mask_to_gray(mask: npt.ArrayLike) -> Picture:
    """Renders a mask in gray: 0 is black, 1 is white.

    Args:
      mask: real ``[H, W, 1]`` in [0, 1]; values outside are clipped, NaN is black.

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
    """The 55 hues in [0, 1], interpolated between the corners of the RGB cube."""
    hues = []
    for i, steps in enumerate(_WHEEL_STEPS):
        start, end = np.array(_WHEEL_CORNERS[i]), np.array(_WHEEL_CORNERS[(i + 1) % 6])
        hues += [start + (end - start) * step / steps for step in range(steps)]
    return np.array(hues)
