"""The ``paired_folder`` data set: a user's own image pairs, stored without loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tensorflow_datasets as tfds

from warp_translate.data import stored_image
from warp_translate.data.folder_builder import FolderBuilder
from warp_translate.data.paired_layout import (
    DIRECTIONS,
    PairedLayout,
    PairFiles,
    fingerprint,
    load_pair,
)
from warp_translate.errors import UserError, shown
from warp_translate.image_io import encode_png

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


class PairedFolder(FolderBuilder[PairFiles]):
    """Builder of ``paired_folder``.

    Features: ``source`` and ``target``, uint8 [H, W, 3], sizes free but equal within a pair. The
    examples of a split lie in the order of their names.
    """

    VERSION = tfds.core.Version("1.2.0")  # The colors are sRGB since.
    builder_config: PairedFolderConfig
    noun = "pairs"

    def items(self) -> Mapping[str, tuple[PairFiles, ...]]:
        """The pairs by split."""
        return self.builder_config.layout.splits

    def files(self, item: PairFiles) -> tuple[Path, ...]:
        """The two files of a pair, or the strip."""
        return (item.a,) if item.b is None else (item.a, item.b)

    def encode(self, item: PairFiles) -> dict[str, bytes]:
        """Both images as they are stored."""
        pair = load_pair(item, self.builder_config.direction)
        if item.b is None:  # Both are halves of one file.
            return {name: encode_png(half) for name, half in zip(_NAMES, pair, strict=True)}
        paths = (item.a, item.b) if self.builder_config.direction == "AtoB" else (item.b, item.a)
        return {
            name: stored_image.encode(path, rgb, self.info.features[name])
            for name, path, rgb in zip(_NAMES, paths, pair, strict=True)
        }

    @property
    def recipe(self) -> str:
        """As of every builder; and which of the two is the source."""
        return f"{super().recipe} {self.builder_config.direction}"

    def _info(self) -> tfds.core.DatasetInfo:
        image, layout = tfds.features.Image(shape=(None, None, 3)), self.builder_config.layout
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Image pairs of {shown(str(layout.root))}.",
            features=tfds.features.FeaturesDict({name: image for name in _NAMES}),
            supervised_keys=_NAMES,
            # The order of names lets a user find the file behind an example.
            disable_shuffling=True,
        )
