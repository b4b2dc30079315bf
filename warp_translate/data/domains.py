"""Unpaired data sets by name: two domains, each with images to train on and to test with."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow_datasets as tfds
from absl import logging

from warp_translate.data import lists
from warp_translate.data.cycle_gan import open_cycle_gan
from warp_translate.data.folder_preparation import prepare_folder, remedy_by_list
from warp_translate.data.image_source import ImageSource, PreparedImages
from warp_translate.data.layouts import scan_unpaired
from warp_translate.data.names import TFDS_FOLDER, check_unpaired
from warp_translate.data.openmoji_unpaired import halve_roles
from warp_translate.data.portraits import DOMAINS, scan_portraits
from warp_translate.data.preparation import FILE_FORMAT, expand_data_dir, prepare_with
from warp_translate.data.sources import prepare
from warp_translate.data.tfds_folder import IMAGE, open_tfds_folder
from warp_translate.data.unpaired_folder import UnpairedFolder, unpaired_folder_config
from warp_translate.data.unpaired_layout import UnpairedLayout
from warp_translate.errors import UserError


@dataclass(frozen=True)
class Domains:
    """The images of two domains, uint8 [H, W, 3], in a fixed order.

    Attributes:
      train_a: images of A to train on.
      train_b: images of B to train on, in any number.
      test_a: images of A that are not in train_a.
      test_b: images of B that are not in train_b.
      paired_test: whether ``test_a[i]`` and ``test_b[i]`` match point by point, so that each is
        the truth for the other's translation.
    """

    train_a: ImageSource
    train_b: ImageSource
    test_a: ImageSource
    test_b: ImageSource
    paired_test: bool


def open_domains(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    *,
    size: int | None = None,
    root: str | os.PathLike[str] | None = None,
    domains: str | None = None,
) -> Domains:
    """Opens an unpaired data set, which is prepared first if need be and possible.

    Args:
      name: "openmoji_gender_unpaired", "unpaired_folder", "portraits", "tfds_folder", or a name
        of TFDS's "cycle_gan/..." that was prepared elsewhere.
      data_dir: folder of prepared sets; None for TFDS's own, ``~/tensorflow_datasets`` unless
        ``TFDS_DATA_DIR`` says otherwise.
      size: openmoji_gender_unpaired only, and needed there: side of the images in pixels.
      root: unpaired_folder, portraits and tfds_folder only, and needed there: the folder with the
        images; of unpaired_folder a list of them as well, of tfds_folder that of its version.
      domains: portraits only, and needed there: one of `portraits.DOMAINS`.

    Returns:
      The images.

    Raises:
      UserError: unknown name, an argument is missing or belongs to another set, the data are not
        as they should be, or ``data_dir`` cannot be written.
    """
    check_unpaired(name)
    _check_argument(name, "size", size, ("openmoji_gender_unpaired",), "128 for instance")
    rooted = ("unpaired_folder", "portraits", TFDS_FOLDER)
    _check_argument(name, "root", root, rooted, "the images' folder")
    _check_argument(name, "domains", domains, ("portraits",), " or ".join(DOMAINS))
    if name == "openmoji_gender_unpaired":
        return _part_pairs(prepare("openmoji_gender", data_dir, size=size))
    if name == TFDS_FOLDER:
        return _open_splits(open_tfds_folder(root, IMAGE))
    if root is None:
        return _open_splits(open_cycle_gan(name, data_dir))
    root = lists.on_disk(root)
    if domains is not None:
        layout = scan_portraits(root, domains)
        remedy = "mend them, or remove them and their rows"
    else:
        layout, remedy = scan_unpaired(root), remedy_by_list(root, name)
    if layout.held_out:
        logging.warning(
            "%s has no test folders: %d images of A and %d of B are held out for testing",
            layout.root,
            len(layout.splits["testA"]),
            len(layout.splits["testB"]),
        )
    return _open_splits(prepare_layout(layout, name, data_dir, remedy))


def _check_argument(
    name: str, argument: str, value: object, takers: tuple[str, ...], example: str
) -> None:
    if name in takers and value is None:
        raise UserError(f"{name} needs {argument}; give it, {example}")
    if name not in takers and value is not None:
        raise UserError(
            f"{name} takes no {argument}, got {value}; leave it out, or use {' or '.join(takers)}"
        )


def prepare_layout(
    layout: UnpairedLayout, name: str, data_dir: str | os.PathLike[str] | None, remedy: str
) -> tfds.core.DatasetBuilder:
    """Prepares the images of a user's folder unless that was done before.

    Args:
      layout: the images.
      name: what an error calls the set.
      data_dir: folder of prepared sets; None for TFDS's own.
      remedy: what an error says to do about files that cannot be used.

    Returns:
      The builder, prepared, with the splits of the layout.

    Raises:
      UserError: files cannot be read, or ``data_dir`` cannot be written.
    """
    config = unpaired_folder_config(layout)
    return prepare_with(
        lambda: UnpairedFolder(
            config=config, data_dir=expand_data_dir(data_dir), file_format=FILE_FORMAT
        ),
        name,
        data_dir,
        functools.partial(prepare_folder, remedy=remedy),
    )


def _open_splits(builder: tfds.core.DatasetBuilder) -> Domains:
    """Opens a set with the splits and the feature of TFDS's ``cycle_gan``."""
    train_a, train_b, test_a, test_b = (
        PreparedImages(records, "image", range(len(records)))
        for records in map(builder.as_data_source, ("trainA", "trainB", "testA", "testB"))
    )
    return Domains(train_a, train_b, test_a, test_b, paired_test=False)


def _part_pairs(builder: tfds.core.DatasetBuilder) -> Domains:
    """Parts the pairs of ``openmoji_gender``; see `openmoji_unpaired`."""

    def images(split: str, feature: str, numbers: Sequence[int]) -> PreparedImages:
        other = "target" if feature == "source" else "source"
        # The other image of a pair is not decoded in vain.
        records = builder.as_data_source(split, decoders={other: tfds.decode.SkipDecoding()})
        return PreparedImages(records, feature, numbers)

    undecoded = {feature: tfds.decode.SkipDecoding() for feature in ("source", "target")}
    roles = [int(record["role"]) for record in builder.as_data_source("train", decoders=undecoded)]
    men, women = halve_roles(roles)
    every_test = range(len(builder.as_data_source("test")))
    return Domains(
        train_a=images("train", "source", [i for i, role in enumerate(roles) if role in men]),
        train_b=images("train", "target", [i for i, role in enumerate(roles) if role in women]),
        test_a=images("test", "source", every_test),
        test_b=images("test", "target", every_test),
        paired_test=True,
    )
