"""The ``unpaired_folder`` data set: a user's own images of two domains, stored without loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tensorflow_datasets as tfds

from warp_translate.data import stored_image
from warp_translate.data.folder_builder import FolderBuilder
from warp_translate.data.folder_layout import fingerprint_files
from warp_translate.data.unpaired_layout import UnpairedLayout
from warp_translate.errors import shown
from warp_translate.image_io import flatten, read_image


@dataclass(eq=False, kw_only=True)
class UnpairedFolderConfig(tfds.core.BuilderConfig):
    """A config of the data set; make it with `unpaired_folder_config`.

    Attributes:
      layout: the images.
    """

    layout: UnpairedLayout = field(repr=False)


def unpaired_folder_config(layout: UnpairedLayout) -> UnpairedFolderConfig:
    """Returns the config that prepares the images of domains.

    Its name is a fingerprint of the files and their splits, so that a folder that has changed is
    prepared anew and never answered with an earlier preparation. Earlier ones stay until the user
    removes them.

    Args:
      layout: the images, from `unpaired_layout.scan_domains` or `portraits.scan_portraits`.

    Raises:
      UserError: a file vanished.
    """
    return UnpairedFolderConfig(name=fingerprint_files(layout.root, layout.splits), layout=layout)


class UnpairedFolder(FolderBuilder[Path]):
    """Builder of ``unpaired_folder``, as TFDS's ``cycle_gan``, and of ``domain_folders``.

    Splits: those of the layout. Feature: ``image``, uint8 [H, W, 3] of any size, over
    white where the file is transparent. The examples of a split lie in the order of their names.
    """

    VERSION = tfds.core.Version("1.1.0")  # The colors are sRGB since.
    builder_config: UnpairedFolderConfig

    def items(self) -> Mapping[str, tuple[Path, ...]]:
        """The images by split."""
        return self.builder_config.layout.splits

    def files(self, item: Path) -> tuple[Path, ...]:
        """The one file of an image."""
        return (item,)

    def encode(self, item: Path) -> dict[str, bytes]:
        """The image as it is stored."""
        rgb = flatten(read_image(item))
        return {"image": stored_image.encode(item, rgb, self.info.features["image"])}

    def _info(self) -> tfds.core.DatasetInfo:
        image, layout = tfds.features.Image(shape=(None, None, 3)), self.builder_config.layout
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Images by domain of {shown(str(layout.root))}.",
            features=tfds.features.FeaturesDict({"image": image}),
            # The order of names lets a user find the file behind an example.
            disable_shuffling=True,
        )
