"""Steadies the maps of a clip over time.

Each frame is translated alone, and small changes of the input change the maps, which flickers. The
smoother follows the picture by optical flow, on a reduced copy, and averages three layers over
earlier frames: the change that the generator makes to the colors, the mask and the displacement.
Only the difference to this average is added to the maps, so that their details and all of the
original's pixels are those of the frame itself. Where a frame does not continue the one before, as
at a cut, the average begins again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from warp_translate.constants import PIXEL_SCALE
from warp_translate.errors import UserError
from warp_translate.serving.architecture import Architecture
from warp_translate.visualize import to_uint8

_KEEP = 0.9
"""Weight of the earlier frames where the picture continues."""

_MOST_SIDE = 640
"""Longer side of the copy on which the picture is followed and the layers are averaged."""

_BLUR = 2.0
"""Standard deviation in pixels of that copy; only coarser changes of color are averaged."""

_CONTINUES = 0.1
"""Difference to the frame before, in [-1, 1], at which their weight has fallen to 1 / e."""

_LEAST_FLOW_SIDE = 32
"""Smallest side for optical flow; smaller pictures are taken to stand still."""

# Corrections of the displacement below this many pixels are not worth another warp.
_LEAST_MOVE = 1 / 32


class Smoother:
    """The smoothing of one clip; call `smooth` with its frames in order."""

    def __init__(self, architecture: Architecture) -> None:
        """Starts with an empty average; raises UserError without OpenCV."""
        try:
            import cv2
        except ImportError as error:
            raise UserError("--smooth needs OpenCV: pip install 'warp-translate[video]'") from error
        self._cv2: Any = cv2
        self._architecture = architecture
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: np.ndarray | None = None  # The reduced frame.
        self._average: np.ndarray | None = None  # Change, mask and displacement.

    def state(self) -> dict[str, np.ndarray]:
        """The arrays from which another smoother continues."""
        assert self._before is not None and self._average is not None
        return {"smooth_before": self._before, "smooth_average": self._average}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from `state`."""
        self._before, self._average = state["smooth_before"], state["smooth_average"]

    def smooth(self, image: np.ndarray, maps: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the output of the next frame.

        Args:
          image: the frame, uint8 ``[H, W, 3]``.
          maps: its maps by name, see `engine.Translated`, without the axis of images.

        Returns:
          uint8 ``[H, W, 3]``.
        """
        cv2 = self._cv2
        height, width = image.shape[:2]
        scale = min(1.0, _MOST_SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))

        def small(full: np.ndarray) -> np.ndarray:
            found = cv2.resize(full, size, interpolation=cv2.INTER_AREA)
            return np.asarray(found.reshape(*found.shape[:2], -1))

        reduced = small(image).astype(np.float32) / np.float32(PIXEL_SCALE) - 1
        # Details of the change are those of the picture, which the average would blur.
        change = cv2.GaussianBlur(small(maps["pretranslated"]) - reduced, (0, 0), _BLUR)
        found = np.concatenate([change, small(maps["mask"]), small(maps["displacement"])], -1)
        average = found
        if self._average is not None and self._average.shape == found.shape:
            average = self._continued(reduced, found)
        self._before, self._average = reduced, average
        return self._fused(image, maps, average - found)

    def _continued(self, reduced: np.ndarray, found: np.ndarray) -> np.ndarray:
        """The average of the layers and of the earlier ones, which follow the picture."""
        cv2 = self._cv2
        assert self._before is not None and self._average is not None
        grid = _grid(*reduced.shape[:2])
        if min(reduced.shape[:2]) >= _LEAST_FLOW_SIDE:
            gray = [
                cv2.cvtColor(to_uint8(each), cv2.COLOR_RGB2GRAY) for each in (reduced, self._before)
            ]
            grid = grid + self._flow.calc(*gray, None)
        before, average = (
            cv2.remap(each, grid, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for each in (self._before, self._average)
        )
        differs = cv2.blur(np.abs(reduced - before).mean(-1), (5, 5))
        weight = _KEEP * np.exp(-((differs / _CONTINUES) ** 2))[..., None]
        return weight * average + (1 - weight) * found

    def _fused(
        self, image: np.ndarray, maps: Mapping[str, np.ndarray], correction: np.ndarray
    ) -> np.ndarray:
        """Fuses the corrected maps, see `models.translate`."""
        cv2, architecture = self._cv2, self._architecture
        fusion = architecture.fusion

        def corrected(name: str, first: int, end: int) -> np.ndarray:
            size = image.shape[1], image.shape[0]
            large = cv2.resize(correction[..., first:end], size, interpolation=cv2.INTER_LINEAR)
            return np.asarray(maps[name] + large.reshape(maps[name].shape))

        warped = maps["warped"]
        if fusion in ("full", "warped") and np.abs(correction[..., 4:]).max() > _LEAST_MOVE:
            how = cv2.INTER_CUBIC if architecture.sampling == "cubic" else cv2.INTER_LINEAR
            grid = _grid(*image.shape[:2]) + corrected("displacement", 4, 6)
            found = cv2.remap(image, grid, None, how, borderMode=cv2.BORDER_REPLICATE)
            if fusion == "warped":
                return np.asarray(found)
            warped = found.astype(np.float32) / np.float32(PIXEL_SCALE) - 1
        if fusion == "warped":
            return to_uint8(warped)
        fused = corrected("pretranslated", 0, 3)
        if fusion != "pretranslated":
            mask = np.clip(corrected("mask", 3, 4), 0, 1)
            if architecture.mask_weights == "warped":
                mask = 1 - mask
            fused = warped + mask * (fused - warped)
        return to_uint8(fused)


def _grid(height: int, width: int) -> np.ndarray:
    """The position (x, y) of every pixel, float32 ``[H, W, 2]``."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y], -1).astype(np.float32)
