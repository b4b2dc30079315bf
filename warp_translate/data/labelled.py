"""Images by their domain, for a classifier: any data set of this package, or folders by name."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from absl import logging

from warp_translate.data import lists, names, sources
from warp_translate.data.domains import open_domains, prepare_layout
from warp_translate.data.folder_preparation import remedy_by_list
from warp_translate.data.image_source import ImageSource, PreparedImages
from warp_translate.data.layouts import scan_labelled
from warp_translate.data.pair import PairSource
from warp_translate.data.tfds_folder import PAIR, held_features, open_tfds_folder
from warp_translate.errors import UserError


@dataclass(frozen=True)
class Labelled:
    """The images of several domains, uint8 [H, W, 3], in a fixed order.

    Attributes:
      domains: their names.
      train: the images of each domain to train on.
      test: the images of each domain that are in none of ``train``.
    """

    domains: tuple[str, ...]
    train: tuple[ImageSource, ...]
    test: tuple[ImageSource, ...]


def open_labelled(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    domains: Sequence[str],
    *,
    size: int | None = None,
    root: str | os.PathLike[str] | None = None,
    direction: str = "AtoB",
    portraits: str | None = None,
) -> Labelled:
    """Opens a data set as images with labels, which is prepared first if need be and possible.

    Args:
      name: "domain_folders", or a set of pairs or of two domains.
      data_dir: folder of prepared sets; None for TFDS's own.
      domains: names of the domains: of domain_folders the folders, else what the two are called.
      size: of the drawn sets: side of the images in pixels.
      root: of sets that are a user's own: the folder, or a list.
      direction: of pairs: "AtoB" or "BtoA", which exchanges the domains.
      portraits: portraits only: one of `portraits.DOMAINS`.

    Returns:
      The images, the domains in the order given.

    Raises:
      UserError: the names do not fit the set, or the set cannot be opened.
    """
    if len(set(domains)) != len(domains) or len(domains) < 2:
        raise UserError(f"domains {', '.join(domains)!r}: give two different names or more")
    if name == names.LABELLED:
        return _open_folders(data_dir, tuple(domains), root)
    known = names.domain_names(name, portraits)
    if len(domains) != 2 or (known and tuple(domains) != known):
        expected = ", ".join(known) if known else "two names"
        raise UserError(
            f"the domains of {name} are {expected}, got {', '.join(domains)!r}: give those, or use "
            "domain_folders"
        )
    if name == names.TFDS_FOLDER:
        paired = held_features(open_tfds_folder(root)) == PAIR
    else:
        paired = name in names.PAIRED
    if paired:
        builder = sources.prepare(name, data_dir, size=size, root=root, direction=direction)
        pairs = [sources.open_pairs(builder, split) for split in ("train", "test")]
        train, test = ((_Side(each, "source"), _Side(each, "target")) for each in pairs)
        return Labelled(tuple(domains), train, test)
    found = open_domains(name, data_dir, size=size, root=root, domains=portraits)
    return Labelled(tuple(domains), (found.train_a, found.train_b), (found.test_a, found.test_b))


class _Side:
    """The source or the target of pairs."""

    def __init__(self, pairs: PairSource, side: str) -> None:
        self._pairs = pairs
        self._side = side

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> np.ndarray:
        image: np.ndarray = self._pairs[index][self._side]  # type: ignore[literal-required]
        return image


def _open_folders(
    data_dir: str | os.PathLike[str] | None,
    domains: tuple[str, ...],
    root: str | os.PathLike[str] | None,
) -> Labelled:
    if root is None:
        raise UserError("domain_folders needs root; give it, the folder with a folder per domain")
    root = lists.on_disk(root)
    layout = scan_labelled(root, domains)
    if layout.held_out:
        counts = ", ".join(
            f"{len(layout.splits[f'test{place}'])} of {domain}"
            for place, domain in enumerate(domains)
        )
        logging.warning("%s has no test folders: held out are %s", layout.root, counts)
    remedy = remedy_by_list(root, names.LABELLED)
    builder = prepare_layout(layout, names.LABELLED, data_dir, remedy)

    def images(split: str) -> tuple[PreparedImages, ...]:
        records = [builder.as_data_source(f"{split}{place}") for place in range(len(domains))]
        return tuple(PreparedImages(each, "image", range(len(each))) for each in records)

    return Labelled(domains, images("train"), images("test"))
