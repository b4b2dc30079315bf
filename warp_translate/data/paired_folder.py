"""The ``paired_folder`` data set: a user's own image pairs, stored without loss."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from warp_translate.data.paired_layout import (
    DIRECTIONS,
    PairedLayout,
    PairFiles,
    fingerprint,
    load_pair,
)
from warp_translate.data.stored_image import encode
from warp_translate.errors import UserError
from warp_translate.image_files import encode_png

_NAMES = ("source", "target")


@dataclass(eq=False, kw_only=True)
class PairedFolderConfig(tfds.core.BuilderConfig):
    """A config of the data set; make it with `paired_folder_config`.

    Attributes:
      layout: the pairs.
      direction: "AtoB" or "BtoA"; which of the two is the source.
    """

    layout: PairedLayout = field(repr=False)
    direction: str


def paired_folder_config(layout: PairedLayout, direction: str) -> PairedFolderConfig:
    """Returns the config that prepares the pairs of a folder.

    Its name holds a fingerprint of the files, so that a folder that has changed is prepared anew
    and never answered with an earlier preparation. Earlier ones stay until the user removes them.

    Args:
      layout: the pairs, from `paired_layout.scan_pairs`.
      direction: "AtoB" (A, or the left half, is the source) or "BtoA".

    Raises:
      UserError: another direction, or a file vanished.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"direction {direction!r} is none of {', '.join(DIRECTIONS)}; use one")
    name = f"{direction}_{fingerprint(layout)}"
    return PairedFolderConfig(name=name, layout=layout, direction=direction)


class PairedFolder(tfds.core.GeneratorBasedBuilder):
    """Builder of ``paired_folder``.

    Features: ``source`` and ``target``, uint8 [H, W, 3], sizes free but equal within a pair. The
    examples of a split lie in the order of their names.
    """

    VERSION = tfds.core.Version("1.1.0")
    builder_config: PairedFolderConfig

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 3))
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Image pairs of {self.builder_config.layout.root}.",
            features=tfds.features.FeaturesDict({name: image for name in _NAMES}),
            supervised_keys=_NAMES,
            # The order of names lets a user find the file behind an example.
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # Nothing is downloaded.
        layout = self.builder_config.layout
        return {split: self._generate_examples(pairs) for split, pairs in layout.splits.items()}

    def _generate_examples(
        self, pairs: tuple[PairFiles, ...]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, files in enumerate(pairs):
            pair = load_pair(files, self.builder_config.direction)
            yield number, self._encode(files, pair)

    def _encode(self, files: PairFiles, pair: tuple[np.ndarray, np.ndarray]) -> dict[str, bytes]:
        if files.b is None:  # Both are halves of one file.
            return {name: encode_png(half) for name, half in zip(_NAMES, pair, strict=True)}
        paths = (
            (files.a, files.b) if self.builder_config.direction == "AtoB" else (files.b, files.a)
        )
        return {
            name: encode(path, rgb, self.info.features[name])
            for name, path, rgb in zip(_NAMES, paths, pair, strict=True)
        }
