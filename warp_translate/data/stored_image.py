"""How the sets of users' own folders store an image: as small as it can be without loss."""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from warp_translate.image_io import encode_png


def encode(path: Path, rgb: np.ndarray, feature: tfds.features.Image) -> bytes:
    """Returns a file's JPEG as it is, and anything else as PNG.

    As PNG a photograph takes four times the space and the time to decode.

    Args:
      path: the file.
      rgb: what readers shall see of it, uint8 [H, W, 3].
      feature: what will decode it.
    """
    if path.suffix.lower() in (".jpg", ".jpeg", ".jfif"):
        jpeg = path.read_bytes()
        # Not so where TFDS's decoder disagrees: CMYK, for one, or a PNG of the wrong suffix.
        if np.array_equal(feature.decode_example_np(jpeg), rgb):
            return jpeg
    return encode_png(rgb)
